from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dwindle.compress import Request, compress
from dwindle.compress.recalibrate import can_recalibrate, recalibrate, recalibrate_by
from dwindle.compress.resolve import resolve
from dwindle.compress.watcher import Watcher
from dwindle.errors import DwindleError, UsageError
from dwindle.models.build import restore
from dwindle.models.checked_task import CheckedTask
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task
from tests.tasks import PlainTask


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Dropout(0.5))
    model.append(nn.Conv2d(4, 5, 3)).append(nn.BatchNorm2d(5))
    return model.eval()


def test_every_norms_statistics_are_those_of_what_inference_shows_it_without_dropout() -> None:
    model = network()
    images = torch.randn(128, 3, 8, 8) * 3 + 1
    recalibrate(model, (images,))
    for index in (1, 5):
        seen = model[:index](images).detach()
        assert torch.allclose(model[index].running_mean, seen.mean((0, 2, 3)), atol=1e-4)
        assert torch.allclose(model[index].running_var, seen.var((0, 2, 3)), rtol=1e-3)


def test_a_channel_that_few_images_wake_is_fitted_to_all_of_them() -> None:
    """Over small batches its variance is none in most: their average is not what one batch of all finds."""
    model = nn.Sequential(nn.BatchNorm1d(1), nn.ReLU(), nn.BatchNorm1d(1)).eval()
    images = torch.zeros(256, 1)
    images[0] = 1
    recalibrate(model, (images,))
    assert model(images).detach().var() == pytest.approx(1, rel=0.01)


def test_what_is_too_much_for_one_batch_takes_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwindle.compress.recalibrate.BATCH", 3 * 8 * 8 * 50)
    model = network()
    images = torch.randn(100, 3, 8, 8) * 3 + 1
    recalibrate(model, (images,))
    halves = [model[0](half).detach() for half in images.split(50)]
    assert torch.allclose(model[1].running_var, sum(half.var((0, 2, 3)) for half in halves) / 2, rtol=1e-4)


def test_everything_else_is_left_as_it_was() -> None:
    model = network()
    model[3].train()
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" not in name}
    generator = torch.get_rng_state()
    recalibrate(model, (torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(1)),))
    assert torch.equal(generator, torch.get_rng_state())
    assert [part.training for part in model] == [False, False, False, True, False, False]
    assert (model[1].momentum, model[5].momentum) == (0.3, 0.1)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items() if "tracked" not in name)


def test_no_batch_is_too_small_to_have_a_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwindle.compress.recalibrate.BATCH", 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    recalibrate(model, (torch.randn(5, 3),))
    assert model[1].running_var.isfinite().all()


def test_a_network_without_batch_norm_or_without_its_statistics_is_fine() -> None:
    for model in (nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))):
        recalibrate(model, (torch.randn(8, 3),))


@pytest.mark.slow
def test_a_run_that_asks_for_it_ends_on_statistics_of_its_own_weights(tmp_path: Path) -> None:
    digits = {"data": "digits", "epochs": 1}
    done = compress(Request("zoo:resnet8", digits, density=0.5, rounds=1, recalibrate=True), tmp_path / "net.dwindle")
    shipped, again = restore(done), restore(done)
    recalibrate(again, make_task({**digits, "seed": 0}).training_inputs())
    for name, found in shipped.state_dict().items():
        torch.testing.assert_close(found, again.state_dict()[name], rtol=1e-5, atol=1e-6)


@pytest.fixture
def no_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in task, without what it could be recalibrated by."""
    monkeypatch.setattr(ImageClassification, "inputs", None)
    monkeypatch.delattr(ImageClassification, "training_inputs")
    monkeypatch.setattr(ImageClassification, "example_inputs", lambda self: (torch.zeros(1, 1, 8, 8),))


@pytest.mark.usefixtures("no_inputs")
def test_a_task_without_inputs_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        compress(Request("zoo:resnet8", "digits", density=0.5, recalibrate=True), tmp_path / "net.dwindle")
    assert (raised.value.code, raised.value.option, raised.value.name) == ("missing-member", "recalibrate", "inputs")
    assert not (tmp_path / "net.dwindle").exists()


def without_batch_norm(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, num_classes))


@pytest.mark.usefixtures("no_inputs")
def test_a_network_without_batch_norm_needs_no_inputs_to_recalibrate_by(tmp_path: Path) -> None:
    own = "tests.compress.test_recalibrate:without_batch_norm"
    request = Request(own, {"data": "digits", "epochs": 1}, density=0.5, rounds=1, recipe="best")
    assert compress(request, tmp_path / "net.dwindle").history[-1].density == pytest.approx(0.5, abs=0.01)


def test_without_training_inputs_a_task_is_recalibrated_by_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task({"data": "digits", "seed": 0})
    assert can_recalibrate(task)
    augmented = task.training_inputs()[0]
    monkeypatch.delattr(ImageClassification, "training_inputs")
    assert can_recalibrate(task)
    assert torch.equal(task.training_inputs()[0], task.inputs("train")[0])
    assert len(augmented) > len(task.inputs("train")[0])
    monkeypatch.setattr(ImageClassification, "inputs", None)
    assert not can_recalibrate(task)


def test_inputs_that_the_model_does_not_take_are_one_sentence() -> None:
    class Wrong(PlainTask):
        def inputs(self, split: str) -> tuple[torch.Tensor, ...]:
            return (torch.zeros(5, 7),)

    with pytest.raises(DwindleError) as raised:
        recalibrate_by(CheckedTask(Wrong()), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    assert (raised.value.code, raised.value.name) == ("task-failed", "inputs")


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 1000])
def test_a_sharp_fall_that_batch_norm_alone_makes_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Watcher, "note", lambda self, text: said.append(text))
    train = ImageClassification.fit

    def fit(self: ImageClassification, model: nn.Module, **options: Any) -> None:
        train(self, model, **options)
        if options["start"] == 0 and len(calls) == 1:
            model.bn.running_mean.add_(lag)
        calls.append(model)

    calls: list[nn.Module] = []
    monkeypatch.setattr(ImageClassification, "fit", fit)
    request = Request("zoo:resnet8", {"data": "digits", "epochs": 3}, density=0.9, rounds=1)
    compress(request, tmp_path / "net.dwindle", Watcher())
    found = [text for text in said if "with batch norm recalibrated: start a new run with `recalibrate`" in text]
    assert len(found) == (lag > 0), said


def test_the_best_recipe_recalibrates_unless_told_not_to() -> None:
    def recalibrates(**options: Any) -> bool | None:
        return resolve(Request("zoo:resnet8", "digits", density=0.5, **options)).request.recalibrate

    assert recalibrates(recipe="best")
    assert not recalibrates(recipe="best", recalibrate=False)
    assert not recalibrates(recipe="paper")
    assert not recalibrates()
