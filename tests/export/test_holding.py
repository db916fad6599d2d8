"""Which operations have to compute in fp32, of programs that are written out here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from dwindle.export.holding import MOST, beyond_fp16, samples_off


@dataclass(frozen=True)
class Operation:
    made: Sequence[str]
    read: Sequence[str]
    run: Callable[..., Tensor]
    kind: str = "any"


def operation(made: str, read: str, run: Callable[..., Tensor]) -> Operation:
    return Operation([made], read.split(), run)


@dataclass
class Program:
    """Runs operations as `holding.Steps` says, and counts how often."""

    operations: list[Operation]
    runs: list[int] = field(default_factory=list)

    def __call__(
        self, sample: tuple[Tensor, ...], fp32: Collection[str] | None
    ) -> Iterator[tuple[Operation, Sequence[Tensor]]]:
        self.runs.append(0 if fp32 is None else 1)
        values = {"x": sample[0]}
        for one in self.operations:
            rounds = fp32 is not None and one.made[0] not in fp32
            given = [values[name].half().float() if rounds else values[name] for name in one.read]
            made = one.run(*given)
            values[one.made[0]] = made.half().float() if rounds else made
            yield one, [values[one.made[0]]]


def test_what_overflows_computes_in_fp32() -> None:
    norm = [
        operation("square", "x", lambda x: x * x),
        operation("mean", "square", lambda y: y.mean(-1, keepdim=True)),
        operation("normed", "x mean", lambda x, y: x * y.rsqrt()),
    ]
    double = operation("double", "normed", lambda x: 2 * x)
    assert list(beyond_fp16(Program([*norm, double]), [(torch.tensor([[400.0, -700.0]]),)])) == [
        "square",
        "mean",
        "normed",
    ]


def test_what_rounding_loses_one_after_the_other_computes_in_fp32() -> None:
    """Only once the first difference is right does the second show as the first that is off."""
    program = Program(
        [
            operation("far", "x", lambda x: x + 3000),
            operation("near", "far", lambda y: y - 3000),
            operation("scaled", "near", lambda y: 1000 * y),
            operation("farther", "scaled", lambda y: y + 50_000),
            operation("again", "farther", lambda y: y - 50_000),
        ]
    )
    found = beyond_fp16(program, [(torch.tensor([[0.3, 0.7]]),)])
    assert set(found) >= {"far", "near", "farther", "again"}


def test_a_jump_at_a_threshold_is_not_mended_in_fp32() -> None:
    """Converters spell hardswish out as the sum of two functions that jump. Rounding moves each, and not the sum."""
    program = Program(
        [
            operation("early", "x", lambda x: x * 1.0),
            operation("before", "early", lambda x: x * 1.0001),
            operation("thresholded", "before", lambda x: torch.where(x >= 3, x, 0.0)),
            operation("other", "before", lambda x: torch.where(x >= 3, 0.0, x)),
            operation("sum", "thresholded other", lambda x, y: x + y),
        ]
    )
    x = torch.linspace(2.9, 3.1, 999)[None] / 1.0001
    assert beyond_fp16(program, [(x,), (x,), (x,)]) == {}
    assert program.runs.count(0) == 3  # once exactly for every sample
    assert program.runs.count(1) <= 12


@pytest.mark.parametrize("wrong", [[], [1], [0, 3]])
def test_only_samples_that_are_off_are_looked_at(wrong: list[int]) -> None:
    samples, expected = (torch.arange(4.0)[:, None],), (np.ones((4, 2), np.float32),)
    found = (expected[0].copy(),)
    found[0][wrong] += 2 * MOST
    assert [int(one[0]) for one in samples_off(samples, found, expected)] == wrong
