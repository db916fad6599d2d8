"""What a target's files and runtimes gain from pruned weights, and on what grounds that is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["weights", "n:m", "channel"]
"""What pruning removes: single weights or blocks of them, n of every m neighbours, or whole channels."""
Unit = Literal["CPU", "GPU", "NPU"]
"""What computes. The Neural Engine of Apple's chips is an NPU."""
_ROWS = (16, 8, 4, 2)
"""Output channels that blocks are looked for in, the largest first."""


@dataclass(frozen=True)
class Speed:
    """Whether inference gets faster on one kind of unit, by pruning that `most`, `rows` and `precisions` describe."""

    unit: Unit
    faster: bool | None
    """None where nobody has measured or stated it."""
    basis: Literal["measured", "vendor", "unknown"]
    """`measured`: by this repository's own studies. `vendor`: stated by who makes the runtime, and not checked here."""
    source: str = ""
    """The study with the figures, or the vendor's document with its date; empty where `basis` is `unknown`."""
    detail: str = ""
    """Under which conditions, and by how much."""
    most: float = 1.0
    """The largest density that this is said of."""
    rows: int = 1
    """It is said of blocks of this many neighbouring output channels, or a multiple."""
    precisions: tuple[str, ...] = ()
    """The precisions that it is said of; empty: all."""

    def __post_init__(self) -> None:
        if (self.basis == "unknown") != (self.faster is None) or (self.basis == "unknown") == bool(self.source):
            raise ValueError(f"a claim about the {self.unit} needs a basis and a source, or else is unknown: {self}")

    def covers(self, density: float, rows: int, precision: str) -> bool:
        """Whether this is said of such pruning."""
        return density <= self.most and rows % self.rows == 0 and (not self.precisions or precision in self.precisions)

    @property
    def verdict(self) -> str:
        """As in `faster on the CPU`."""
        words = {True: "faster", False: "not faster", None: "unknown whether faster"}[self.faster]
        return f"{words} on the {self.unit}"

    def sentence(self) -> str:
        """As in `faster on the CPU (measured, studies/packing/litert.md: where more than …)`."""
        ground = f"{self.basis}, {self.source}" if self.source else ""
        about = ": ".join(part for part in (ground, self.detail) if part)
        return f"{self.verdict} ({about})" if about else self.verdict


@dataclass(frozen=True)
class Effect:
    """What pruning of one kind changes about a target's files."""

    smaller: bool
    """Whether the installed file gets smaller."""
    storage: str
    """How the file stores what was pruned, in words."""
    speeds: tuple[Speed, ...]
    """What is known, of each unit the narrowest claim first: the first that covers a case holds."""
    smaller_to: Mapping[str, float] = field(default_factory=dict)
    """The largest density at which the file is smaller, by precision; where it isn't named, below 100%."""

    def speed(self, unit: Unit, density: float, rows: int = 1, precision: str = "fp32") -> Speed:
        """What is known of a unit; an entry of basis `unknown` where nothing is."""
        known = (one for one in self.speeds if one.unit == unit and one.covers(density, rows, precision))
        return next(known, Speed(unit, None, "unknown"))


def stored_like_any(*speeds: Speed) -> Effect:
    """The effect of zeros on a format that stores them like any other weight."""
    return Effect(False, "zeros are stored like any other weight", speeds)


def removed(*speeds: Speed) -> Effect:
    """The effect of removing channels, which makes every format's file smaller."""
    return Effect(True, "removed channels are neither stored nor computed", speeds)


_STORED, _REMOVED = stored_like_any(), removed()


@dataclass(frozen=True)
class Verdict:
    """What pruning of one kind, at one density, brings on a target: a smaller file, a faster one, both or neither."""

    target: str
    kind: Kind
    density: float
    """The share of the weights that survives, in [0, 1]."""
    rows: int
    """How many neighbouring output channels are pruned together; 1 for single weights."""
    smaller: bool
    storage: str
    """How the file stores what was pruned, in words."""
    speeds: tuple[Speed, ...]
    """One for each unit that the target's files can run on, with its grounds."""

    def gain(self, unit: Unit) -> str:
        """`both`, `smaller`, `faster` or `neither`; with a question mark where nobody knows whether it is faster.

        Raises KeyError for a unit that the target's files don't run on.
        """
        faster = {speed.unit: speed.faster for speed in self.speeds}[unit]
        known = {(True, True): "both", (True, False): "smaller", (False, True): "faster", (False, False): "neither"}
        return known[self.smaller, faster] if faster is not None else "smaller, faster?" if self.smaller else "faster?"

    def sentence(self) -> str:
        """As in `smaller (…); not faster on the CPU (measured, …); unknown whether faster on the GPU and the NPU`."""
        size = f"{'smaller' if self.smaller else 'not smaller'} ({self.storage})"
        told = [speed.sentence() for speed in self.speeds if speed.faster is not None or speed.detail]
        silent = " and the ".join(speed.unit for speed in self.speeds if speed.faster is None and not speed.detail)
        return "; ".join([size, *told, *([f"unknown whether faster on the {silent}"] if silent else [])])


@dataclass(frozen=True)
class Effects:
    """What a target gains from each kind of pruning. By default zeros bring nothing, and no speed is known."""

    weights: Effect = _STORED
    n_of_m: Effect = _STORED
    channel: Effect = _REMOVED
    units: tuple[Unit, ...] = ("CPU", "GPU", "NPU")
    """What the target's files can run on."""

    def of(self, kind: Kind) -> Effect:
        """The effect of one kind."""
        return {"weights": self.weights, "n:m": self.n_of_m, "channel": self.channel}[kind]

    def verdict(self, target: str, precision: str, kind: Kind, density: float, rows: int = 1) -> Verdict:
        """What such pruning brings; density and rows as in `Verdict`."""
        effect = self.of(kind)
        smaller = effect.smaller and density <= effect.smaller_to.get(precision, 1.0)
        speeds = tuple(effect.speed(unit, density, rows, precision) for unit in self.units)
        return Verdict(target, kind, density, rows, smaller, effect.storage, speeds)


def block_rows(masks: Mapping[str, Tensor]) -> int:
    """The largest number of neighbouring output channels that all masks prune together; 1 where they are scattered.

    masks: boolean, of shape (output channels, …).
    """

    def together(mask: Tensor, rows: int) -> bool:
        whole = mask[: len(mask) // rows * rows].reshape(-1, rows, mask[0].numel())
        return bool((whole == whole[:, :1]).all())

    return next((rows for rows in _ROWS if all(together(mask, rows) for mask in masks.values())), 1)
