"""`precision` mixed: bits and density of each layer, chosen together for a size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress
from dwindle.compress.blocks import Blocks
from dwindle.compress.mixed import AMONG, apply, within
from dwindle.compress.network import Network
from dwindle.compress.qat import Rounding
from dwindle.compress.resolve import resolve
from dwindle.compress.size import Sizer
from dwindle.compress.tensor_options import WIDTHS, Trial, measured
from dwindle.compress.watcher import Watcher
from dwindle.errors import UsageError
from dwindle.export import export, targets
from dwindle.export.fold import deployable, tensors
from dwindle.export.quantize import quantized, stored
from dwindle.models.build import restore
from dwindle.record import Choice

pytestmark = pytest.mark.usefixtures("one_model")
INPUTS = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
SAMPLES = (torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)


def network() -> Network:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16),
        nn.ReLU(), nn.Conv2d(16, 24, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip
    return Network(made.eval(), INPUTS)


def test_candidates_are_worth_their_bytes_and_their_losses_are_those_of_the_network() -> None:
    whole = network()
    folded = deployable(whole.model, INPUTS)
    options, trial = measured(whole, Blocks(), targets.load("onnx", "mixed"), SAMPLES)
    assert set(options) == {"0.weight", "3.weight", "5.weight", "8.weight"}
    for name, own in options.items():
        sizes = [one.option.bytes for one in own]
        assert sizes == sorted(sizes)
        assert {one.choice.precision for one in own} <= set(WIDTHS)
        assert own[0].choice.density < 1
        assert own[-1].option.loss < 1e-4 < own[0].option.loss  # of fp16 next to nothing is lost
        for one in own[:: max(1, len(own) // 3)]:
            changed = deployable(whole.model, INPUTS)
            weight = torch.from_numpy(one.held.decoded())
            assert int((weight != 0).sum()) <= max(1, round(one.choice.density * weight.numel()))
            with torch.no_grad():
                changed.get_parameter(name).copy_(weight)
                if one.bias is not None:
                    changed.get_parameter(name.replace("weight", "bias")).copy_(one.bias)
                moved = (changed(*SAMPLES) - folded(*SAMPLES)).square().sum()
                wanted = folded(*SAMPLES)
                variance = (wanted - wanted.mean(0)).square().sum()
            assert one.option.loss == pytest.approx(float(moved / variance), rel=1e-3, abs=1e-9)
    assert trial.loss({}) == 0


@pytest.mark.parametrize("target", ["onnx", pytest.param("coreml", marks=pytest.mark.slow)])
def test_what_is_chosen_fits_and_more_room_loses_less(target: str) -> None:
    whole = network()
    count = Sizer(targets.load(target, "mixed").mixing(whole.widths), INPUTS)
    dense = count(whole.model)
    options, _ = measured(whole, Blocks(), targets.load(target, "mixed"), SAMPLES)
    losses = []
    for share in (0.5, 0.8):
        chosen = within(whole, Blocks(), options, round(share * dense), count)
        assert set(chosen) == set(options)
        losses.append(sum(one.option.loss for one in chosen.values()))
    assert losses[1] < losses[0]
    assert within(whole, Blocks(), options, 100, count) == {}


@pytest.mark.parametrize("target", ["onnx", pytest.param("coreml", marks=pytest.mark.slow)])
def test_a_file_stores_each_tensor_in_its_own_precision(target: str, tmp_path: Path) -> None:
    shipped = deployable(network().model, INPUTS)
    widths = {"0.weight": "int8", "5.weight": "palette3", "8.weight": "fp16"}
    made = targets.load(target, "mixed").mixing(widths)
    held = made.stored(shipped)
    assert held["5.weight"].kind == "palette3"
    assert (held["0.weight"].bits, held["3.weight"].bits, held["8.weight"].bits) == (8, 16, 16)
    path = tmp_path / f"net{made.suffix}"
    made.write(shipped, INPUTS, path, pack=True)
    decoded, expected = made.decode(path, shipped), tensors(made.as_stored(shipped, activations=False))
    for name in (*widths, "3.weight"):
        read = torch.from_numpy(decoded[name].copy())
        assert torch.equal(read, expected[name].to(read.dtype)), name


def test_training_rounds_each_tensor_as_its_own_precision_does() -> None:
    model = network().model
    widths = {"0.weight": "int8", "5.weight": "palette2"}
    folded = deployable(model, INPUTS)
    shipped = tensors(quantized(folded, stored(folded, widths)))
    rounding = Rounding(model, INPUTS, targets.load("onnx", "mixed").mixing(widths))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    rounding.round()
    assert torch.allclose(tensors(deployable(model, INPUTS))["0.weight"], shipped["0.weight"], rtol=1e-5, atol=1e-7)
    assert len(model.get_parameter("5.weight")[0].unique()) <= 4
    assert torch.equal(model.get_parameter("8.weight"), before["8.weight"])
    rounding.close()
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


class Heard(Watcher):
    def __init__(self, stop_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.stop_at = stop_at

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        if done == self.stop_at:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on_with_what_it_chose(trained: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"calib_samples": 100, "save_every": 0.0, "precision": "mixed", "size": "20KB"}
    request = Request("zoo:resnet8", "digits", method="calibrate", weights=trained, **options)
    with pytest.raises(KeyboardInterrupt):
        compress(request, tmp_path / "net.dwindle", Heard(stop_at=15))
    halfway = Checkpoint.load(tmp_path / "net.dwindle")
    assert not halfway.done
    assert halfway.choices
    heard = Heard()
    done = compress(request, tmp_path / "net.dwindle", heard)
    assert done.choices == halfway.choices
    assert not any("precision mixed" in note for note in heard.notes)  # it was chosen already
    [coreml] = export(done, ["coreml"], precision="mixed")
    assert coreml.precision == "mixed"
    assert coreml.parity.weights_equal


@pytest.mark.slow
def test_a_run_meets_the_size_and_export_takes_what_was_chosen(trained: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"calib_samples": 100, "precision": "mixed", "size": "20KB", "rehearsal": False}
    heard = Heard()
    request = Request("zoo:resnet8", "digits", method="calibrate", weights=trained, **options)
    done = compress(request, tmp_path / "net.dwindle", heard)
    assert sum("precision mixed" in note for note in heard.notes) == 1
    dense, pruned = done.history
    assert pruned.bytes is not None
    assert pruned.bytes <= 20_000
    # Of 359 images, solved on 100: the same choice at sizes within 81 bytes of each other lost 4.7, 5.0 and 6.4 points.
    assert pruned.validation > dense.validation - 10
    assert len({choice.precision for choice in done.choices.values()}) > 1
    [onnx] = export(done, ["onnx"])
    assert onnx.precision == "mixed"
    assert onnx.file.bytes == pruned.bytes
    folded = deployable(restore(done).eval(), (torch.zeros(1, 1, 8, 8),))
    kinds = {name: held.kind for name, held in stored(folded, done.widths).items()}
    for name, choice in done.choices.items():
        assert kinds[name] == choice.precision * choice.precision.startswith("palette"), name
    assert "mixed" in targets.possible("coreml", mixed=True)
    assert "mixed" not in targets.possible("coreml")
    document = json.loads((done.path / "checkpoint.json").read_text())
    assert "choices.json" in document["files"]


@pytest.mark.slow
def test_bits_alone_are_a_round_that_prunes_nothing(trained: str, tmp_path: Path, monkeypatch: Any) -> None:
    def bits_alone(network: Network, *others: object) -> dict[str, Choice]:
        return {name: Choice("palette2", 1.0) for name, weight in network.model.named_parameters() if weight.dim() > 1}

    monkeypatch.setattr("dwindle.compress.mixed.chosen", bits_alone)
    request = Request(
        "zoo:resnet8", "digits", method="calibrate", weights=trained, size="40KB", precision="mixed", rehearsal=False
    )
    done = compress(request, tmp_path / "net.dwindle")
    dense, rounded = done.history
    assert rounded.density == 1
    assert rounded.bytes is not None
    assert rounded.bytes <= 40_000
    assert rounded.validation != dense.validation
    assert export(done, ["onnx"])[0].file.bytes == rounded.bytes


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"density": 0.1}, "size"),
        ({"size": 20_000, "density": 0.1}, "density"),
        ({"size": 20_000, "layer_share": ("fc=10%",)}, "layer_share"),
        ({"size": 20_000, "score": "lamp"}, "score"),
        ({"size": 20_000, "granularity": "2:4"}, "granularity"),
        ({"size": 20_000, "method": "amc"}, "method"),
        ({"size": 20_000, "target": "litert"}, "precision"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(options: dict[str, Any], option: str) -> None:
    request = Request("zoo:resnet8", {"data": "digits", "epochs": 1}, precision="mixed", **options)
    with pytest.raises(UsageError) as refused:
        resolve(request)
    assert refused.value.option == option


@pytest.mark.slow
def test_a_network_that_was_compressed_at_one_precision_has_no_mixed_file(trained: str, tmp_path: Path) -> None:
    request = Request("zoo:resnet8", "digits", method="calibrate", weights=trained, density=0.3, rehearsal=False)
    done = compress(request, tmp_path / "net.dwindle")
    with pytest.raises(UsageError) as refused:
        export(done, ["onnx"], precision="mixed")
    assert (refused.value.code, refused.value.option) == ("not-mixed", "precision")


def test_fewer_precisions_are_tried_too() -> None:
    assert AMONG[0] == WIDTHS
    assert all("int8" in own for own in AMONG)


def test_a_trial_leaves_its_network_as_it_was() -> None:
    whole = network()
    trial = Trial(deployable(whole.model, INPUTS), SAMPLES)
    held = stored(deployable(whole.model, INPUTS), "palette1")["5.weight"]
    first = trial.loss({"5.weight": (held, None)})
    assert first > 0
    assert trial.loss({"5.weight": (held, None)}) == first
    apply(whole, {"5.weight": Choice("palette1", 0.5)})
    assert whole.widths == {"5.weight": "palette1"}


@pytest.mark.slow
def test_rounds_of_retraining_train_through_what_was_chosen_once(tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[Network] = []

    def choice(network: Network, *others: object) -> dict[str, Choice]:
        asked.append(network)
        large = [name for name, weight in network.model.named_parameters() if weight.dim() > 1]
        return {name: Choice("palette2" if place % 2 else "int8", 0.3) for place, name in enumerate(large)}

    monkeypatch.setattr("dwindle.compress.mixed.chosen", choice)
    options: dict[str, Any] = {"size": "30KB", "precision": "mixed", "qat": 0.5, "rounds": 2, "rehearsal": False}
    request = Request("zoo:resnet8", {"data": "digits", "epochs": 1}, save_every=0.0, **options)

    class Stop(Watcher):
        def step(self, index: int, done: int, total: int | None, loss: float) -> None:
            if index == 1 and total and done == total - 2:  # while weights are rounded
                raise KeyboardInterrupt

    whole = compress(request, tmp_path / "whole.dwindle", Watcher())
    with pytest.raises(KeyboardInterrupt):
        compress(request, tmp_path / "parts.dwindle", Stop())
    parts = compress(request, tmp_path / "parts.dwindle", Watcher())
    assert len(asked) == 2  # once for each folder, and not again on resuming
    assert len(whole.history) == 3
    assert whole.history[-1].bytes is not None
    assert whole.history[-1].bytes <= 30_000
    assert [record.validation for record in parts.history] == [record.validation for record in whole.history]
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, parts.weights[name]), name
    folded = deployable(restore(whole).eval(), (torch.zeros(1, 1, 8, 8),))
    held = stored(folded, whole.widths)
    assert held["stage1.0.conv1.weight"].kind == "palette2"
    assert export(whole, ["onnx"])[0].file.bytes == whole.history[-1].bytes
