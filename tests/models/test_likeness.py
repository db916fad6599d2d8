"""How like a dense network another answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.metrics import AGREEMENT, LOSSLESS, SQNR, change
from dwindle.models.checked_task import CheckedTask
from dwindle.models.likeness import Likeness


class Fixed(nn.Module):
    """Adds a constant to its input."""

    def __init__(self, added: Tensor) -> None:
        super().__init__()
        self.added = added

    def forward(self, given: Tensor) -> Tensor:
        return given + self.added


def test_of_scores_the_top_classes_are_compared() -> None:
    scores = torch.eye(3).repeat(70, 1)[:200]
    found = Likeness(nn.Identity, (scores[:1],))
    assert found.metric == AGREEMENT
    assert found.of(nn.Identity(), (scores,)) == 100
    assert found.of(Fixed(torch.tensor([0.0, 5, 0])), (scores,)) == pytest.approx(100 * 67 / 200)


@pytest.mark.parametrize("shape", [(8, 3, 2), (8, 1), (8,)])
def test_other_outputs_are_compared_by_their_noise(shape: tuple[int, ...]) -> None:
    outputs = torch.ones(shape)
    found = Likeness(nn.Identity, (outputs[:1],))
    assert found.metric == SQNR
    assert found.of(nn.Identity(), (outputs,)) == LOSSLESS
    assert change(LOSSLESS, SQNR) == 0
    assert found.of(Fixed(torch.tensor(0.01)), (outputs,)) == pytest.approx(40, abs=1e-3)
    assert found.of(Fixed(torch.tensor(float("nan"))), (outputs,)) == -LOSSLESS


class Two(nn.Module):
    """A large output, a small one and a class; `error` is added to the small one."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1000 * given, given + self.error, torch.ones(len(given), dtype=torch.int64) + round(self.error)


def test_the_worst_of_several_outputs_counts_and_a_chosen_class_is_no_amount() -> None:
    outputs = torch.ones(8, 3)
    found = Likeness(lambda: Two(0), (outputs[:1],))
    assert found.metric == SQNR
    assert found.of(Two(0), (outputs,)) == LOSSLESS
    assert found.of(Two(1.0), (outputs,)) == pytest.approx(0, abs=1e-3)


def test_a_dense_network_that_answers_with_nan_can_be_compared_with_nothing() -> None:
    found = Likeness(lambda: Fixed(torch.tensor(float("nan"))), (torch.ones(1, 2),))
    with pytest.raises(UsageError) as refused:
        found.of(nn.Identity(), (torch.ones(4, 2),))
    assert refused.value.code == "not-finite"


def test_the_mode_stays_as_it_was() -> None:
    model = nn.Dropout().train()
    assert Likeness(nn.Identity, (torch.ones(1, 3),)).of(model, (torch.rand(4, 3),)) == 100
    assert model.training


class Inputs:
    """A task with inputs alone."""

    def inputs(self, split: str) -> tuple[Tensor, ...]:
        return (torch.eye(4),)

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.eye(4)[:1],)


def test_a_task_with_inputs_alone_judges_beside_a_dense_network() -> None:
    task = CheckedTask(Inputs())
    assert not task.labelled
    with pytest.raises(UsageError) as refused:
        task.evaluate(nn.Identity(), "test")
    assert refused.value.name == "evaluate"
    task.compare_with(nn.Identity)
    assert task.evaluate(nn.Identity(), "test") == 100
    assert task.metric == AGREEMENT


def test_a_misspelt_evaluate_is_no_task_without_labels() -> None:
    class Misspelt(Inputs):
        def evalute(self, model: nn.Module, split: str) -> float:
            return 0.0

    with pytest.raises(UsageError) as refused:
        CheckedTask(Misspelt())
    assert refused.value.name in ("fit", "evaluate")
