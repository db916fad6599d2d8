"""Ultralytics' own trainer and validator under dwindle, on eight drawn images: masks held, schedules rewound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dwindle.errors import UsageError

pytestmark = [pytest.mark.needs("ultralytics"), pytest.mark.slow]

PER_EPOCH, EPOCHS = 2, 3
NETWORK = {
    "nc": 2,
    "scales": {"n": [0.33, 0.125, 64]},
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "Conv", [128, 3, 2]], [-1, 1, "Conv", [128, 3, 2]],
                 [-1, 1, "Conv", [128, 3, 2]], [-1, 1, "Conv", [128, 3, 2]]],
    "head": [[[2, 3, 4], 1, "Detect", ["nc"]]],
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Light squares of two colours on dark images of 64 pixels, as Ultralytics wants a data set."""
    import yaml

    at = tmp_path_factory.mktemp("squares")
    random = np.random.RandomState(0)
    for split, count in (("train", 8), ("val", 4)):
        for part in ("images", "labels"):
            (at / part / split).mkdir(parents=True)
        for index in range(count):
            pixels = random.randint(0, 40, (64, 64, 3)).astype(np.uint8)
            kind, (x, y) = index % 2, random.randint(4, 36, 2)
            pixels[y : y + 24, x : x + 24] = (240, 40, 40) if kind else (40, 240, 40)
            Image.fromarray(pixels).save(at / "images" / split / f"{index}.png")
            box = f"{kind} {(x + 12) / 64:.4f} {(y + 12) / 64:.4f} {24 / 64} {24 / 64}\n"
            (at / "labels" / split / f"{index}.txt").write_text(box)
    names = {0: "green", 1: "red"}
    described = {"path": str(at), "train": "images/train", "val": "images/val", "names": names}
    (at / "data.yaml").write_text(yaml.safe_dump(described))
    return str(at / "data.yaml")


def task(folder: Path, data: str, **options: Any) -> Any:
    import yaml
    from ultralytics import YOLO

    from dwindle.models import UltralyticsTask

    (folder / "yolov8n-tiny.yaml").write_text(yaml.safe_dump(NETWORK))
    torch.manual_seed(0)
    given = {"epochs": EPOCHS, "imgsz": 64, "batch": 4, "device": "cpu", "optimizer": "SGD", **options}
    return UltralyticsTask(YOLO(folder / "yolov8n-tiny.yaml", task="detect"), data, **given)


def weights(module: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_each_step_is_reported_and_its_masks_hold(tmp_path: Path, data: str) -> None:
    own = task(tmp_path, data)
    assert own.steps == EPOCHS * PER_EPOCH
    network, losses = own.network, []
    weight = network.model[1].conv.weight

    def on_step(loss: float) -> None:
        losses.append(loss)
        weight.data[0] = 0

    threads = torch.get_num_threads()
    on_step(0)
    own.fit(network, start=0.0, on_step=on_step)
    assert len(losses) == own.steps + 1
    assert not weight[0].any()  # the average that it ends on too
    assert weight[1].any()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (threads, False)
    shown = own.inputs("test")[0]
    assert shown.shape == (4, 3, 64, 64)
    assert 0 <= shown.min() < shown.max() <= 1
    assert network.eval()(shown).shape == (4, 6, 84)
    judged = own.evaluate(network, "validation")
    assert own.evaluate(lambda images: network.eval()(images), "test") == pytest.approx(judged)  # as a runtime answers


def test_it_learns(tmp_path: Path, data: str) -> None:
    own = task(tmp_path, data, epochs=60, optimizer="AdamW", lr0=0.01, mosaic=0.0, warmup_epochs=1)
    before = own.evaluate(own.network, "train")
    own.fit(own.network, start=0.0, on_step=lambda loss: None)
    assert own.evaluate(own.network, "train") > before + 10


@pytest.mark.parametrize("warmup", [0, 2])
def test_the_learning_rate_is_rewound_by_the_trainers_own_schedule(tmp_path: Path, data: str, warmup: int) -> None:
    own = task(tmp_path, data, epochs=4, warmup_epochs=warmup)

    def rates(start: float) -> list[list[float]]:
        seen: list[list[float]] = []
        own.fit(
            own.network,
            start=start,
            on_step=lambda loss: seen.append([group["lr"] for group in own.optimizer.param_groups]),
        )
        return seen

    whole = rates(0.0)
    for first in (3, 4):
        assert rates(first / 8) == [pytest.approx(each) for each in whole[first:]]
    assert rates(0.0) == [pytest.approx(each) for each in whole]


@pytest.mark.parametrize("at", [2, 3])
def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path: Path, data: str, at: int) -> None:
    own, saved = task(tmp_path, data), {}
    network = own.network

    def on_step(loss: float) -> None:
        if not saved and int(own.state_dict()["position"][1]) == at:
            saved.update(weights=weights(network), task=own.state_dict())

    own.fit(network, start=0.0, on_step=on_step)
    fresh = task(tmp_path, data)
    fresh.network.load_state_dict(saved["weights"])
    fresh.load_state_dict(saved["task"], fresh.network)
    steps: list[float] = []
    fresh.fit(fresh.network, start=0.0, on_step=steps.append)
    assert len(steps) == own.steps - at
    assert equal(weights(fresh.network), weights(network))
    assert equal(fresh.state_dict(), own.state_dict())


@pytest.mark.parametrize(
    "options",
    [{"resume": True}, {"compile": True}, {"batch": -1}, {"time": 1.0}, {"device": "0,1"}, {"quantize": 8}],
)
def test_what_cannot_be_trained_is_refused_early(tmp_path: Path, data: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as raised:
        task(tmp_path, data, **options)
    assert raised.value.option == next(iter(options))


def test_other_models_and_data_that_is_not_there(tmp_path: Path, data: str) -> None:
    from ultralytics import YOLO

    from dwindle.models import UltralyticsTask

    with pytest.raises(UsageError) as raised:
        UltralyticsTask(YOLO("yolov8n-cls.yaml"), data)
    assert (raised.value.code, raised.value.name) == ("unsupported", "classify")
    with pytest.raises(UsageError) as raised:
        task(tmp_path, str(tmp_path / "none.yaml"))
    assert (raised.value.code, raised.value.option) == ("unreadable", "data")


def test_a_detector_goes_the_whole_way(tmp_path: Path, data: str) -> None:
    from dwindle.compress import compress
    from dwindle.export import export

    own = task(tmp_path, data)
    net = compress(own.network, tmp_path / "net.dwindle", task=own, density=0.4, rounds=1, granularity="unstructured")
    assert net.done
    assert net.history[-1].density == pytest.approx(0.4, abs=0.01)
    (manifest,) = export(net, ["onnx"])
    assert manifest.file.bytes < manifest.dense.bytes
