"""What `fit` feeds is what the example is: kinds and ranks, not sizes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.models.checked_task import CheckedTask
from dwindle.models.fed import as_example
from dwindle.models.inputs import as_fed


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, state: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        result: Tensor = self.layer(x.float()).sum() + (0 if state is None else state.sum())
        return result


EXAMPLE = (torch.rand(1, 3), torch.rand(1, 4))


def task(call: Callable[[nn.Module], Any], example: Any = EXAMPLE) -> CheckedTask:
    class Own:
        def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
            call(model)
            on_step(1.0)

        def evaluate(self, model: nn.Module, split: str) -> float:
            call(model)
            return 1.0

        def example_inputs(self) -> Any:
            return example

    return CheckedTask(Own())


def fit(checked: CheckedTask) -> nn.Module:
    model = Model()
    checked.fit(model, start=0.0, on_step=lambda loss: None)
    return model


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model(torch.rand(8, 3), torch.rand(8, 4)),
        lambda model: model(torch.rand(8, 3).double()),  # of other precision, and without a state
        lambda model: model(torch.rand(8, 3), state=torch.rand(8, 9)),  # of another size
        lambda model: model(torch.rand(8, 3), labels=torch.ones(8, dtype=torch.int64)),
        lambda model: model(torch.rand(8, 3), None, torch.ones(8)),
        lambda model: pickle.dumps(copy.deepcopy(model)),  # as an average of the weights is kept
    ],
)
@pytest.mark.parametrize("example", [EXAMPLE, {"x": EXAMPLE[0], "state": EXAMPLE[1]}], ids=["in order", "by name"])
def test_what_is_alike_is_taken(call: Callable[[nn.Module], Any], example: Any) -> None:
    assert not fit(task(call, example))._forward_pre_hooks


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model(torch.ones(8, 3, dtype=torch.int64)),
        lambda model: model(torch.rand(8, 5, 3)),
        lambda model: model(x=torch.rand(3)),
        lambda model: model(torch.rand(8, 3), torch.ones(8, 4, dtype=torch.int32)),
    ],
    ids=["integers", "more dimensions", "fewer dimensions", "the second"],
)
@pytest.mark.parametrize("example", [EXAMPLE, {"x": EXAMPLE[0], "state": EXAMPLE[1]}], ids=["in order", "by name"])
def test_what_files_will_not_be_given_is_refused(call: Callable[[nn.Module], Any], example: Any) -> None:
    checked = task(call, example)
    for feeds in (fit, lambda checked: checked.tried(Model(), "validation")):
        with pytest.raises(UsageError) as refused:
            feeds(checked)
        assert (refused.value.code, refused.value.name) == ("bad-member", "example_inputs")


@pytest.mark.parametrize(
    "batch",
    [
        (torch.rand(8, 5, 3), torch.rand(8, 4)),
        (torch.rand(8, 3), torch.ones(8, 4, dtype=torch.int64)),
        (torch.rand(8, 3),),
    ],
    ids=["more dimensions", "integers", "fewer tensors"],
)
@pytest.mark.parametrize("member", ["inputs", "training_inputs"])
def test_inputs_that_are_not_like_the_example_are_refused(member: str, batch: tuple[Tensor, ...]) -> None:
    checked = task(lambda model: None)
    setattr(checked.given, member, lambda *split: batch)
    with pytest.raises(UsageError) as refused:
        checked.inputs("validation") if member == "inputs" else checked.training_inputs()
    assert (refused.value.code, refused.value.name) == ("bad-member", member)


def test_a_compiled_model_is_trained_as_it_was() -> None:
    model = Model()
    with as_example(model, EXAMPLE, None):
        answer = torch.compile(model, backend="eager", fullgraph=True)(as_fed(torch.rand(8, 3)))
    assert answer.isfinite()
