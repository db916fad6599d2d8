"""A recorded step on a GPU trains as the step itself does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwindle.compress.masks import mask_applier, masks_hold, prunable
from dwindle.models.classify import ImageClassification, TaskSpec
from dwindle.models.data import Splits
from dwindle.models.datasets import load
from dwindle.models.recorded import Recorded

pytestmark = pytest.mark.needs("GPU")


@pytest.fixture(scope="module")
def few() -> Splits:
    digits, chosen = load("digits"), torch.arange(512)
    return replace(digits, train=digits.train[chosen])


def _task(splits: Splits, **changes: Any) -> ImageClassification:
    return ImageClassification(TaskSpec("digits", epochs=4, batch_size=64, crop=1, flip=False, **changes), splits)


class Waiting(nn.Module):
    """Its forward asks the GPU for a value."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.detach().sum()) > -1e9 else -x


def _network(*extra: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *extra, nn.Flatten(), nn.Dropout(0.2), nn.Linear(288, 10)
    )


def _trained(
    splits: Splits, *extra: nn.Module, hooked_at: int | None = None, **changes: Any
) -> tuple[list[float], nn.Module]:
    """The losses of two trainings under masks, and the network, whose batch norm stands still from a step on."""
    task, network, losses = _task(splits, **changes), _network(*extra), []
    masks = {name: torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
             for name, weight in prunable(network).items()}  # fmt: skip
    hold = mask_applier(network, masks)
    hold()

    def on_step(loss: float) -> None:
        hold()
        losses.append(loss)
        if len(losses) == hooked_at:
            network[1].register_forward_pre_hook(lambda module, inputs: module.train(False) and None)

    task.fit(network, start=0.0, on_step=on_step)
    task.fit(network, start=0.5, on_step=on_step)
    assert masks_hold(network, masks)
    return losses, network


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"schedule": "cosine", "nesterov": True}], ids=str)
def test_trains_as_the_step_does(few: Splits, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    monkeypatch.setenv("DWINDLE_BF16", "0")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    (losses, network), (anew, other) = _trained(few, **changes), _trained(few, record=False, **changes)
    assert losses == pytest.approx(anew, rel=1e-3)
    for (name, tensor), expected in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-2, atol=1e-3, msg=name)


def test_what_hooks_change_in_the_middle_of_a_training_is_recorded_anew(
    few: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWINDLE_BF16", "0")
    _, network = _trained(few, hooked_at=12)
    _, other = _trained(few, hooked_at=12, record=False)
    for own, expected in zip(network[1].buffers(), other[1].buffers(), strict=True):  # type: ignore[index]
        torch.testing.assert_close(own, expected, rtol=0.05, atol=1e-2)


def test_a_step_is_recorded_and_one_that_waits_for_the_gpu_runs_as_it_is(
    few: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Recorded] = []

    class Noted(Recorded):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr("dwindle.models.classify.Recorded", Noted)
    losses, _ = _trained(few)
    assert all(step.graph is not None for step in made)
    waited, _ = _trained(few, Waiting())
    assert all(step.graph is None for step in made[2:])
    assert len(made) == 4
    assert waited == pytest.approx(losses, rel=0.05)
