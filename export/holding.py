"""Which operations of a network have values that fp16 does not hold, on real inputs, whatever the format.

Between 6.1e-5 and 65504 fp16 has eleven bits. A square of large values is beyond that, and one of small values below
it; either way what is computed from it is lost, though the function as a whole (RMSNorm, a variance) is well within.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from dwindle.difference import furthest
from dwindle.export.parity import TOLERANCE

if TYPE_CHECKING:
    from dwindle.export.target import Outputs

_LARGEST, _SMALLEST = 65504.0, 2.0**-14
"""fp16's largest number, and the smallest that has all of its bits."""
MOST = TOLERANCE["fp16"] / 2
"""How far a value may be off, over its largest one, before rounding is blamed: well within what parity allows."""
SAMPLES = 16
"""On how many inputs values are looked at, at most."""
_PASSES = 4
"""How often a sample is run with what was found so far in fp32, at most."""
_FAR = torch.finfo(torch.float32).max
"""How far off infinity and what is no number are."""


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


def samples_off(samples: tuple[Tensor, ...], found: Outputs, expected: Outputs) -> list[tuple[Tensor, ...]]:
    """The samples, each a batch of one, on which a file that computes in fp16 throughout is off; often none.

    samples: batched. found: what the file answers to them. expected: what it should.
    """
    if furthest(found, expected) <= MOST:
        return []
    each = list(zip(*(one.split(1) for one in samples), strict=True))

    def alone(index: int) -> Outputs:
        """What is expected, but of one sample what is found."""
        answers = tuple(one.copy() for one in expected)
        for answer, other in zip(answers, found, strict=True):
            rows = np.array_split(np.arange(len(answer)), len(each))[index]
            answer[rows] = other[rows]
        return answers

    return [one for index, one in enumerate(each) if furthest(alone(index), expected) > MOST] or each


def beyond_fp16(steps: Steps, samples: list[tuple[Tensor, ...]]) -> dict[str, str]:
    """The operations that have to compute in fp32, by their names: their kinds.

    samples: real inputs, each a batch of one. Each is run exactly once, and with rounding `_PASSES` times at most.
    """
    kept: dict[str, str] = {}
    for sample in samples:
        kept |= _beyond(steps, sample, kept)
    return kept


def _beyond(steps: Steps, sample: tuple[Tensor, ...], kept: Mapping[str, str]) -> dict[str, str]:
    """Further operations, beside those in `kept`, that one sample shows to need fp32.

    Where an operation is the first that is off, it and what makes its inputs are to compute in fp32. Where that leaves
    it as far off as it was, as where many roundings add up or where a value jumps at a threshold, that is taken back.
    """
    exact = list(steps(sample, None))
    found = _outside(exact)
    blamed: dict[str, tuple[float, dict[str, str]]] = {}  # how far an operation was off, and what it is mended by
    vain: set[str] = set()

    def mending() -> dict[str, str]:
        mends = (more for name, (_, more) in blamed.items() if name not in vain)
        return {name: kind for more in (found, *mends) for name, kind in more.items() if name not in kept}

    for _ in range(_PASSES):
        before = mending()
        apart = _apart(exact, steps(sample, {**kept, **before}))
        vain |= {name for name, (was, _) in blamed.items() if apart[name] > was / 2}
        for name, more in _first_off(exact, apart).items():
            if name not in blamed:
                blamed[name] = apart[name], more
                if more.keys() <= {**kept, **before}.keys():
                    vain.add(name)
        if mending() == before:
            break
    return mending()


def _outside(exact: Sequence[tuple[Step, Sequence[Tensor]]]) -> dict[str, str]:
    """The operations that read or make what is out of fp16's range."""
    outside = {name for step, values in exact for name, value in zip(step.made, values, strict=True) if _out(value)}
    return {step.made[0]: step.kind for step, _ in exact if not outside.isdisjoint((*step.made, *step.read))}


def _apart(
    exact: Sequence[tuple[Step, Sequence[Tensor]]], rounded: Iterable[tuple[Step, Sequence[Tensor]]]
) -> dict[str, float]:
    """How far rounding has moved every value, over its largest, by the values' names."""
    return {
        name: _difference(*both)
        for (step, values), (_, others) in zip(exact, rounded, strict=True)
        for name, *both in zip(step.made, others, values, strict=True)
    }


def _first_off(exact: Sequence[tuple[Step, Sequence[Tensor]]], apart: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """The operations that are off while nothing that they read is, each with itself and the makers of what it reads."""
    makers = {name: step for step, _ in exact for name in step.made}
    first = {}
    for step, _ in exact:
        read = [name for name in step.read if name in makers]
        worst = max(step.made, key=lambda name: apart[name])
        if apart[worst] > MOST and all(apart[name] <= MOST for name in read):
            first[worst] = {maker.made[0]: maker.kind for maker in (step, *(makers[name] for name in read))}
    return first


def _out(value: Tensor) -> bool:
    if not value.is_floating_point():
        return False
    finite = value[value.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return largest > _LARGEST or 0 < largest < _SMALLEST


def _difference(rounded: Tensor, exact: Tensor) -> float:
    """How far rounding has moved a value, over its largest."""
    if not exact.is_floating_point():
        return 0.0
    finite = exact.isfinite()
    if not finite.any():
        return 0.0
    apart, largest = (rounded[finite] - exact[finite]).abs().max(), exact[finite].abs().max()
    return float(torch.nan_to_num(apart / torch.clamp(largest, min=1e-30), nan=_FAR, posinf=_FAR))
