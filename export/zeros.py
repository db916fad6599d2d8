"""What a target's files and runtimes gain from pruned weights, and on what grounds that is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["weights", "n:m", "channel"]
"""What pruning removes: single weights or blocks of them, n of every m neighbours, or whole channels."""
Unit = Literal["CPU", "GPU", "NPU"]
"""What computes. The Neural Engine of Apple's chips is an NPU."""


@dataclass(frozen=True)
class Speed:
    """Whether inference gets faster on one kind of unit."""

    unit: Unit
    faster: bool | None
    """None where nobody has measured or stated it."""
    basis: Literal["measured", "vendor", "unknown"]
    """`measured`: by this repository's own studies. `vendor`: stated by who makes the runtime, and not checked here."""
    source: str = ""
    """The study with the figures, or the vendor's document with its date; empty where `basis` is `unknown`."""
    detail: str = ""
    """Under which conditions, and by how much."""

    def __post_init__(self) -> None:
        if (self.basis == "unknown") != (self.faster is None) or (self.basis == "unknown") == bool(self.source):
            raise ValueError(f"a claim about the {self.unit} needs a basis and a source, or else is unknown: {self}")

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
    """One entry for each unit of which something is known or worth a warning."""

    def speed(self, unit: Unit) -> Speed:
        """What is known of a unit; an entry of basis `unknown` for one that `speeds` leaves out."""
        return next((speed for speed in self.speeds if speed.unit == unit), Speed(unit, None, "unknown"))


def stored_like_any(*speeds: Speed) -> Effect:
    """The effect of zeros on a format that stores them like any other weight."""
    return Effect(False, "zeros are stored like any other weight", speeds)


def removed(*speeds: Speed) -> Effect:
    """The effect of removing channels, which makes every format's file smaller."""
    return Effect(True, "removed channels are neither stored nor computed", speeds)


_STORED, _REMOVED = stored_like_any(), removed()


@dataclass(frozen=True)
class Effects:
    """What a target gains from each kind of pruning. By default zeros bring nothing, and no speed is known."""

    weights: Effect = _STORED
    n_of_m: Effect = _STORED
    channel: Effect = _REMOVED

    def of(self, kind: Kind) -> Effect:
        """The effect of one kind."""
        return {"weights": self.weights, "n:m": self.n_of_m, "channel": self.channel}[kind]
