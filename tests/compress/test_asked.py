"""A user's own task, and what can be wrong with each of its members."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dwindle.compress.asked import asked, judged, sample, state_of, step_loss, steps
from dwindle.errors import BudgetMissed, DwindleError, UsageError


def task(**members: Any) -> Any:
    return SimpleNamespace(**members)


@pytest.mark.parametrize(
    "value", [3, 3.0, np.float32(3), np.float64(3), torch.tensor(3.0), nn.Parameter(torch.ones(1)) * 3]
)
def test_any_number_is_a_metric_and_a_loss(value: Any) -> None:
    assert judged(task(evaluate=lambda model, split: value), nn.Identity(), "test") == 3.0
    assert type(step_loss(value)) is float


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), torch.ones(2), "much"])
def test_what_is_no_metric(value: Any) -> None:
    with pytest.raises(UsageError, match="on validation: it must return one finite float"):
        judged(task(evaluate=lambda model, split: value), nn.Identity(), "validation")


def test_what_is_no_loss() -> None:
    assert np.isnan(step_loss(torch.tensor(float("nan")))), "which the loop has a word for"
    with pytest.raises(UsageError, match="called on_step with None"):
        step_loss(None)


@pytest.mark.parametrize("error", [ValueError("a\nb"), SystemExit(0), AssertionError("a")])
def test_what_a_member_raises_is_one_sentence_with_the_line(error: BaseException) -> None:
    sentence = r"^the task's fit failed \(\w+: \w; .*test_asked.py, line \d+\); round 2$"
    with pytest.raises(DwindleError, match=sentence), asked("fit", "; round 2"):
        raise error
    with pytest.raises(BudgetMissed, match=r"^ours$"), asked("fit"):
        raise BudgetMissed("ours")


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (torch.ones(1, 3), "returned Tensor: it must be a tuple"),
        ([torch.ones(1, 3)], "returned list"),
        (None, "returned NoneType"),
        ((), r"returned \(\)"),
        ((np.ones((1, 3)),), r"returned \('ndarray',\)"),
        ((torch.ones(5, 3),), r"has shape \(5, 3\): it must be one sample as a batch of one"),
        ((torch.tensor(1.0),), r"has shape \(\)"),
    ],
)
def test_what_is_no_sample(inputs: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        sample(task(example_inputs=lambda: inputs))


def test_steps_are_a_whole_number_or_not_said() -> None:
    assert (steps(task()), steps(task(steps=None)), steps(task(steps=7))) == (None, None, 7)
    for wrong in (0, -3, 12.0, "12"):
        with pytest.raises(UsageError, match="must have 1 or more"):
            steps(task(steps=wrong))


def test_a_state_is_tensors_by_name() -> None:
    assert state_of(task()) == {}
    for wrong in ({"epoch": 3}, {"optimizer": {"state": {}}}, {1: torch.ones(1)}):
        with pytest.raises(UsageError, match="it must be flat, tensors by name"):
            state_of(task(state_dict=lambda wrong=wrong: wrong))
