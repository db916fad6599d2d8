"""Whole runs that train nothing: `method` calibrate and `method` keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress, plan
from dwindle.compress.masks import prunable
from dwindle.compress.resolve import resolve
from dwindle.compress.watcher import Watcher
from dwindle.errors import UsageError
from dwindle.export import export
from dwindle.models.build import restore
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task
from dwindle.origin import requested

pytestmark = pytest.mark.usefixtures("one_model")


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(self: ImageClassification, *model: object, **options: object) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr(ImageClassification, "fit", fit)


class Listener(Watcher):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[int, int, int | None]] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        self.steps.append((index, done, total))


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_one_round_meets_the_budget_without_training(trained: str, tmp_path: Path) -> None:
    heard = Listener()
    request = Request("zoo:resnet8", "digits", size="60KB", method="calibrate", weights=trained, calib_samples=300)
    done = compress(request, tmp_path / "net.dwindle", heard)
    dense, pruned = done.history
    assert pruned.bytes <= 60_000 < dense.bytes
    assert pruned.loss is None
    assert pruned.validation > dense.validation - 5
    total = heard.steps[-1][2]
    assert total in (20, 30, 40)
    assert heard.steps == [(1, step + 1, total) for step in range(total)]
    assert any("300 samples" in note for note in heard.notes)
    network = restore(done)
    zeros = sum(int((weight == 0).sum()) for weight in prunable(network).values())
    assert zeros >= (1 - pruned.density) * sum(weight.numel() for weight in prunable(network).values()) - 1
    assert done.origin["calib_samples"] == 300


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_channels_go_without_training_too(trained: str, tmp_path: Path) -> None:
    request = Request("zoo:resnet8", "digits", macs=0.6, align=4, method="calibrate", weights=trained)
    done = compress(request, tmp_path / "net.dwindle")
    assert done.history[-1].macs is not None
    assert done.history[0].macs is not None
    assert done.history[-1].macs <= 0.6 * done.history[0].macs
    assert done.metrics["test"] > 60


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_as_far_as_validation_allows(trained: str, tmp_path: Path) -> None:
    request = Request(
        "zoo:resnet8", "digits", max_drop=2.0, prune_per_round=0.7, method="calibrate", weights=trained
    )  # fmt: skip
    done = compress(request, tmp_path / "net.dwindle")
    assert done.history[-1].density < 0.4
    assert done.history[-1].validation >= done.history[0].validation - 2


def distilled(trained: str, folder: Path, watcher: Watcher, **options: Any) -> Checkpoint:
    request = Request("zoo:resnet8", "digits", method="calibrate", weights=trained, rehearsal=False, **options)
    return compress(request, folder / f"{options['distill']}.dwindle", watcher)


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_the_dense_networks_answers_win_back_what_is_lost(trained: str, tmp_path: Path) -> None:
    heard = Listener()
    solved, taught = (distilled(trained, tmp_path, heard, density=0.08, distill=passes) for passes in (0, 10))
    assert taught.history[-1].density == solved.history[-1].density < 0.09
    assert taught.history[-1].validation > solved.history[-1].validation
    assert taught.history[-1].loss is not None
    assert taught.origin["distill"] == 10
    assert any("10 passes" in note for note in heard.notes)


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_what_is_taught_stays_only_where_validation_is_better_for_it(
    trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwindle.compress.calibrate.distill.RATE", 1.0)  # which ruins any network
    heard = Listener()
    solved, taught = (distilled(trained, tmp_path, heard, density=0.2, distill=passes) for passes in (0, 2))
    assert taught.history[-1].validation == solved.history[-1].validation
    assert all(torch.equal(taught.weights[name], value) for name, value in solved.weights.items())
    assert any("stays as it was solved" in note for note in heard.notes)


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_what_is_taught_through_the_rounding_is_what_the_file_holds(trained: str, tmp_path: Path) -> None:
    common: dict[str, Any] = {"density": 0.3, "precision": "palette2", "distill": 10, "rehearsal": False}
    taught = {
        share: compress(
            Request("zoo:resnet8", "digits", method="calibrate", weights=trained, qat=share, **common),
            tmp_path / f"{share}.dwindle",
        )
        for share in (0.0, 0.7)
    }
    assert taught[0.7].history[-1].validation > taught[0.0].history[-1].validation


class Interrupt(Listener):
    """Ends the run after so many layers, all steps counted."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        if done == self.at:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("budget", "at"),
    [
        pytest.param({"density": 0.2}, (17,), id="weights"),
        pytest.param({"macs": 0.6, "align": 4}, (3, 10), id="channels"),
        pytest.param({"max_drop": 2.0, "prune_per_round": 0.7}, (4,), id="max-drop"),
        pytest.param({"density": 0.5, "distill": 7}, (5, 17), id="distilled"),
        pytest.param({"macs": 0.6, "align": 4, "distill": 7}, (12, 18), id="distilled, channels"),
    ],
)
def test_a_run_that_was_interrupted_goes_on_at_its_layer_to_the_same_weights(
    trained: str, tmp_path: Path, budget: dict[str, Any], at: tuple[int, ...]
) -> None:
    common: dict[str, Any] = {"calib_samples": 100, "rehearsal": False, "save_every": 0.0}
    request = Request("zoo:resnet8", "digits", method="calibrate", weights=trained, **common, **budget)
    whole = compress(request, tmp_path / "whole.dwindle")
    for place in at:
        with pytest.raises(KeyboardInterrupt):
            compress(request, tmp_path / "parts.dwindle", Interrupt(place))
    heard = Listener()
    parts = compress(request, tmp_path / "parts.dwindle", heard)
    assert [record.validation for record in parts.history] == [record.validation for record in whole.history]
    assert [done for _, done, _ in heard.steps][:1] in ([], [at[-1] + 1])
    assert parts.history[-1].loss == whole.history[-1].loss
    assert not (tmp_path / "parts.dwindle" / "rounds").exists()
    for name, tensor in restore(parts).state_dict().items():
        torch.testing.assert_close(tensor, restore(whole).state_dict()[name], rtol=0, atol=0)


@pytest.mark.usefixtures("no_training")
def test_a_network_with_zeros_is_kept_as_it_is(trained: str, tmp_path: Path) -> None:
    weights = load_file(trained)
    weights["stage2.0.conv1.weight"][:, ::2] = 0
    file = tmp_path / "pruned.safetensors"
    save_file(weights, file)
    done = compress(Request("zoo:resnet8", "digits", method="keep", weights=str(file)), tmp_path / "net.dwindle")
    dense, kept = done.history
    assert kept.validation == dense.validation
    assert kept.density < 1 == dense.density
    for name, tensor in restore(done).state_dict().items():
        assert torch.equal(tensor, weights[name])
    mask = load_file(tmp_path / "net.dwindle" / "masks.safetensors")
    assert mask


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_a_network_without_zeros_is_kept_dense_which_is_said(trained: str, tmp_path: Path) -> None:
    heard = Listener()
    done = compress(Request("zoo:resnet8", "digits", method="keep", weights=trained), tmp_path / "net.dwindle", heard)
    assert [one.density for one in done.history] == [1.0, 1.0]
    for name, tensor in restore(done).state_dict().items():
        assert torch.equal(tensor, load_file(trained)[name])
    assert any("no zeros" in note for note in heard.notes)
    (manifest,) = export(done, ["onnx"])
    assert manifest.parity.weights_equal


def test_a_task_without_inputs_is_refused_before_anything_is_saved(
    trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageClassification, "inputs", None)
    monkeypatch.delattr(ImageClassification, "training_inputs")
    monkeypatch.setattr(ImageClassification, "example_inputs", lambda self: (torch.zeros(1, 1, 8, 8),))
    request = Request("zoo:resnet8", "digits", density=0.5, method="calibrate", weights=trained)
    with pytest.raises(UsageError) as refused:
        compress(request, tmp_path / "net.dwindle")
    assert refused.value.name == "inputs"
    assert not (tmp_path / "net.dwindle").exists()


@pytest.mark.slow
def test_a_plan_takes_no_training(trained: str) -> None:
    found = plan(Request("zoo:resnet8", "digits", density=0.2, method="calibrate", weights=trained))
    assert (found.rounds, found.steps, found.seconds) == (1, 0, 0.0)
    assert found.untrained_loss is not None
    harder = plan(Request("zoo:resnet8", "digits", density=0.02, method="calibrate", weights=trained, rehearsal=False))
    assert harder.untrained_loss is not None
    assert found.untrained_loss < 10 < harder.untrained_loss


@pytest.mark.parametrize(
    "options",
    [{"method": "calibrate", "density": 0.2}, {"method": "calibrate", "density": 0.2, "calib_samples": 64},
     {"method": "keep"}],
    ids=str,
)  # fmt: skip
def test_what_is_recorded_makes_the_same_request(options: dict[str, Any], trained: str) -> None:
    asked = resolve(Request("zoo:resnet8", "digits", weights=trained, **options))
    task = make_task(dict(asked.task_options)).origin
    recorded = json.loads(json.dumps({"model": {"spec": "zoo:resnet8"}, "task": task, **asked.origin}))
    again = requested(recorded)
    assert again.weights == "FILE"
    assert (again.method, again.density, again.calib_samples) == (
        options["method"],
        options.get("density"),
        options.get("calib_samples"),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_codes_are_chosen_by_the_samples_here_and_at_export(trained: str, tmp_path: Path) -> None:
    request = Request(
        "zoo:resnet8", "digits", size="12KB", precision="int4", method="calibrate", weights=trained,
        calib_samples=200, rounding="calibrated", rehearsal=False,
    )  # fmt: skip
    heard = Listener()
    done = compress(request, tmp_path / "net.dwindle", heard)
    assert done.origin["rounding"] == "calibrated"
    assert any("codes are chosen by 200 samples" in note for note in heard.notes)
    said: list[str] = []
    [chosen] = export(done, ["onnx"], progress=said.append)
    assert chosen.rounding == "calibrated"
    assert any("codes are chosen by 200 samples" in line for line in said)
    assert chosen.file.bytes <= 12_000
    [nearest] = export(done, ["onnx"], rounding="nearest")
    assert nearest.rounding == "nearest"
    assert chosen.quality is not None
    assert nearest.quality is not None
    assert chosen.quality.sqnr is not None
    assert nearest.quality.sqnr is not None
    assert chosen.quality.sqnr > nearest.quality.sqnr + 3
