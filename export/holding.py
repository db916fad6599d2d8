"""Which operations of a network have values that fp16 does not hold, on real inputs, whatever the format.

Between 6.1e-5 and 65504 fp16 has eleven bits. A square of large values is beyond that, and one of small values below
it; either way what is computed from it is lost, though the function as a whole (RMSNorm, a variance) is well within.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dwindle.export.parity import TOLERANCE

_LARGEST, _SMALLEST = 65504.0, 2.0**-14
"""fp16's largest number, and the smallest that has all of its bits."""
MOST = TOLERANCE["fp16"] / 2
"""How far a value may be off, over its largest one, before rounding is blamed: well within what parity allows."""
SAMPLES = 16
"""On how many inputs values are looked at, at most."""
_ROUNDS = 8


class Step(Protocol):
    """An operation of a program."""

    @property
    def kind(self) -> str:
        """The operator's name in its format."""

    @property
    def read(self) -> Sequence[str]:
        """The names of what it reads."""

    @property
    def made(self) -> Sequence[str]:
        """The names of its outputs, of which the first is the operation's own."""


class Steps(Protocol):
    """How a program is run, operation by operation."""

    def __call__(
        self, sample: tuple[Tensor, ...], fp32: Collection[str] | None
    ) -> Iterator[tuple[Step, Sequence[Tensor]]]:
        """Each operation in order, with its outputs on a sample, a batch of one.

        fp32: the operations that compute in fp32, by their names, while all others round to fp16 what they read and
        what they make; None: none rounds.
        """


def beyond_fp16(steps: Steps, samples: list[tuple[Tensor, ...]]) -> dict[str, str]:
    """The operations that have to compute in fp32, by their names: their kinds.

    samples: real inputs, each a batch of one.
    """
    kept: dict[str, str] = {}
    for _ in range(_ROUNDS):
        found: dict[str, str] = {}
        for sample in samples:
            found |= _beyond(steps, sample, kept)
        if not found:
            break
        kept |= found
    return kept


def _beyond(steps: Steps, sample: tuple[Tensor, ...], kept: Collection[str]) -> dict[str, str]:
    """Further operations, beside those in `kept`, that one sample shows to need fp32."""
    found: dict[str, str] = {}
    makers: dict[str, Step] = {}
    outside: set[str] = set()
    off: set[str] = set()
    for (step, exact), (_, rounded) in zip(steps(sample, None), steps(sample, kept), strict=True):
        names = step.made
        makers |= dict.fromkeys(names, step)
        outside |= {name for name, value in zip(names, exact, strict=True) if _is_outside(value)}
        off |= {name for name, *both in zip(names, rounded, exact, strict=True) if _off(*both)}
        read = [name for name in step.read if name in makers]
        if not outside.isdisjoint((*names, *read)):
            found[names[0]] = step.kind
        elif not off.isdisjoint(names) and off.isdisjoint(read):
            found |= {maker.made[0]: maker.kind for maker in (step, *(makers[name] for name in read))}
    return {name: kind for name, kind in found.items() if name not in kept}


def _is_outside(value: Tensor) -> bool:
    if not value.is_floating_point():
        return False
    finite = value[value.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return largest > _LARGEST or 0 < largest < _SMALLEST


def _off(rounded: Tensor, exact: Tensor) -> bool:
    """Whether rounding leaves less of a value than is allowed."""
    if not exact.is_floating_point():
        return False
    finite = exact.isfinite()
    if not finite.any():
        return False
    apart, largest = (rounded[finite] - exact[finite]).abs().max(), exact[finite].abs().max()
    return not bool(apart <= MOST * torch.clamp(largest, min=1e-30))
