"""Runs on data that has no labels: what is judged is how like the dense network's the answers are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dwindle.bench import diff
from dwindle.bench.views.diff_table import diff_table
from dwindle.checkpoint import DOCUMENT, Checkpoint
from dwindle.compress import Request, compress
from dwindle.errors import BudgetMissed, UsageError
from dwindle.metrics import AGREEMENT, LOSSLESS, SQNR
from dwindle.models.build import ModelSpec, build, restore
from dwindle.models.tasks import restore_task
from dwindle.origin import requested

pytestmark = pytest.mark.usefixtures("one_model")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of handwritten digits, which nothing says the classes of."""
    folder = tmp_path_factory.mktemp("images")
    for index, pixels in enumerate(load_digits().images[:240]):
        Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(folder / f"{index:03}.png")
    return str(folder)


def calibrated(images: str, trained: str, **options: Any) -> Request:
    return Request("zoo:resnet8", {"data": images}, method="calibrate", weights=trained, rehearsal=False, **options)


@pytest.mark.slow
def test_a_folder_without_classes_is_enough(images: str, trained: str, tmp_path: Path) -> None:
    done = compress(calibrated(images, trained, density=0.5), tmp_path / "net.dwindle")
    dense, pruned = done.history
    assert (dense.validation, done.metrics["dense_test"]) == (100.0, 100.0)
    assert 60 < pruned.validation <= 100
    assert done.metric == AGREEMENT
    assert json.loads((done.path / DOCUMENT).read_text())["metric"] == AGREEMENT
    again = Checkpoint.load(done.path)
    assert again.metric == AGREEMENT
    assert AGREEMENT in again._repr_html_()
    task = restore_task(again)
    assert (task.metric, task.labels("test"), task.class_names) == (AGREEMENT, None, None)
    assert task.evaluate(restore(again), "test") == pytest.approx(done.metrics["test"], abs=2)
    figures = {figure.name for figure in diff(done, again).figures}
    assert AGREEMENT in figures
    assert "accuracy" not in figures
    diff_table(diff(done, again))


@pytest.mark.slow
def test_as_far_as_answers_may_change(images: str, trained: str, tmp_path: Path) -> None:
    request = calibrated(images, trained, max_change=0.1, prune_per_round=0.6)
    done = compress(request, tmp_path / "net.dwindle")
    assert done.history[-1].density < 1
    assert done.history[-1].validation >= 90
    assert requested(done.origin).max_change == 0.1


@pytest.mark.slow
def test_the_number_of_classes_is_that_of_the_weights(images: str, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    save_file(build(ModelSpec("zoo:resnet8", 7, (1, 8, 8))).state_dict(), file)
    done = compress(calibrated(images, str(file), density=0.9), tmp_path / "net.dwindle")
    assert done.origin["model"]["classes"] == 7


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"method": "lr-rewind", "density": 0.5}, "method"),
        ({"max_drop": 1.0}, "max_drop"),
        ({"density": 0.5, "expect_accuracy": 90.0}, "expect_accuracy"),
    ],
)
def test_what_needs_labels_is_refused_without(
    options: dict[str, Any], option: str, images: str, trained: str, tmp_path: Path
) -> None:
    request = Request("zoo:resnet8", {"data": images}, weights=trained, **{"method": "calibrate", **options})
    with pytest.raises(UsageError) as refused:
        compress(request, tmp_path / "net.dwindle")
    assert (refused.value.code, refused.value.option) == ("no-labels", option)
    assert not (tmp_path / "net.dwindle").exists()


def test_with_labels_a_change_is_no_budget(trained: str, tmp_path: Path) -> None:
    request = Request("zoo:resnet8", "digits", method="calibrate", weights=trained, max_change=0.02)
    with pytest.raises(UsageError) as refused:
        compress(request, tmp_path / "net.dwindle")
    assert (refused.value.code, refused.value.option) == ("conflict", "max_change")


class Signals:
    """A task with inputs alone."""

    def inputs(self, split: str) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(len(split))
        return (torch.randn(96, 12, 5, generator=generator),)

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self.inputs("train")[0][:1],)


def denoiser() -> nn.Module:
    """A network whose outputs are no scores."""
    return nn.Sequential(nn.Conv1d(12, 24, 3, padding=1), nn.ReLU(), nn.Conv1d(24, 12, 3, padding=1))


def _denoising(folder: Path, **options: Any) -> Request:
    torch.manual_seed(0)
    save_file(denoiser().state_dict(), folder / "weights.safetensors")
    return Request(
        f"{__name__}:denoiser",
        {"task": f"{__name__}:Signals"},
        method="calibrate",
        weights=str(folder / "weights.safetensors"),
        rehearsal=False,
        granularity="unstructured",
        **options,
    )


def test_outputs_that_are_no_scores_are_judged_by_their_noise(tmp_path: Path) -> None:
    done = compress(_denoising(tmp_path, density=0.6), tmp_path / "net.dwindle")
    assert done.metric == SQNR
    assert done.metrics["dense_test"] == LOSSLESS
    assert 3 < done.metrics["test"] < LOSSLESS
    assert restore_task(done, trust=True).metric == SQNR


def test_noise_may_be_a_share_of_the_outputs(tmp_path: Path) -> None:
    done = compress(_denoising(tmp_path, max_change=0.1, prune_per_round=0.1), tmp_path / "net.dwindle")
    assert done.history[-1].density < 1
    assert done.history[-1].validation >= 20, "a tenth is 20 dB"


def test_a_change_that_no_round_keeps_to_is_missed(tmp_path: Path) -> None:
    with pytest.raises(BudgetMissed) as missed:
        compress(_denoising(tmp_path, max_change=1e-9), tmp_path / "net.dwindle")
    assert missed.value.option == "max_change"


def test_a_task_with_inputs_alone_trains_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        compress(replace(_denoising(tmp_path, density=0.6), method="finetune"), tmp_path / "net.dwindle")
    assert refused.value.option == "method"


class Measured:
    """A task that can judge and not train."""

    def inputs(self, split: str) -> tuple[Tensor, ...]:
        return (torch.randn(64, 8, generator=torch.Generator().manual_seed(len(split))),)

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self.inputs("train")[0][:1],)

    def evaluate(self, model: nn.Module, split: str) -> float:
        (given,) = self.inputs(split)
        with torch.no_grad():
            return float((model(given).argmax(1) == given[:, :3].argmax(1)).float().mean()) * 100


def test_a_task_that_only_judges_is_enough_to_calibrate_by(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    options = {"task": Measured(), "density": 0.5, "granularity": "unstructured", "rehearsal": False}
    done = compress(Request(model, method="calibrate", **options), tmp_path / "net.dwindle")  # type: ignore[arg-type]
    assert done.metric == "accuracy"
    with pytest.raises(UsageError) as refused:
        compress(Request(model, **options), tmp_path / "other.dwindle")  # type: ignore[arg-type]
    assert (refused.value.code, refused.value.option, refused.value.name) == ("missing-member", "method", "fit")
