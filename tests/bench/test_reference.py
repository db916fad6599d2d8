from pathlib import Path

import numpy as np
import pytest
import torch

from dwindle.bench.reference import apart, outputs_here, samples
from dwindle.errors import UsageError
from dwindle.models.checked_task import CheckedTask
from tests.tasks import PlainTask


def test_the_largest_difference_is_over_the_largest_output() -> None:
    ours = [np.array([[1.0, -4.0]]), np.array([[2.0]])]
    theirs = [np.array([[1.0, -4.0]]), np.array([[2.2]])]
    assert apart(ours, theirs) == pytest.approx(0.05)
    assert apart(ours, ours) == 0
    assert apart([np.zeros(2)], [np.full(2, 0.5)]) == 0.5


def test_nothing_is_near_a_number_that_is_none() -> None:
    assert apart([np.ones(2)], [np.array([1.0, np.nan])]) == np.inf


def test_without_a_runtime_here_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no runtime of this machine runs riddle files"):
        outputs_here(tmp_path / "net", "riddle", [])


def test_a_split_without_samples_is_told() -> None:
    class Empty(PlainTask):
        def inputs(self, split: str) -> tuple[torch.Tensor, ...]:
            return (torch.zeros(0, 4),)

    with pytest.raises(UsageError, match="on the test split") as raised:
        samples(CheckedTask(Empty()), 1)
    assert (raised.value.code, raised.value.name) == ("bad-member", "inputs")


def test_samples_keep_the_kind_of_each_input() -> None:
    class Words(PlainTask):
        def inputs(self, split: str) -> tuple[torch.Tensor, ...]:
            return torch.arange(6).reshape(2, 3), torch.ones(2, 1, dtype=torch.float64)

        def example_inputs(self) -> tuple[torch.Tensor, ...]:
            return tuple(tensor[:1] for tensor in self.inputs("train"))

    assert [[array.dtype.name for array in sample] for sample in samples(CheckedTask(Words()), 2)] == [
        ["int64", "float32"]
    ] * 2
