"""The tutorials' command lines run in the order in which they stand, on smaller networks and fewer steps."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dwindle.bench import Bench
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.models.build import ModelSpec, build, restore
from tests.docs.pages import ROOT, blocks, command_lines, of_dwindle
from tests.texts import films, tiny_bert

TUTORIALS = ROOT / "docs/tutorials"


def lines(page: str, instead: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The words after `dwindle` of a page's command lines, each of some words replaced by others."""
    ours = [words for line in command_lines(TUTORIALS / page) if (words := of_dwindle(line)) is not None]
    replaced = [[new for word in words for new in instead.get(word, [word])] for words in ours]
    used = {word for words in ours for word in words}
    assert instead.keys() <= used, instead.keys() - used
    return replaced


def photographs(folder: Path, pixels: int) -> None:
    """Bright and dark noise, in a folder each."""
    random = np.random.default_rng(0)
    for name, low in {"dark": 0, "bright": 128}.items():
        (folder / name).mkdir(parents=True)
        for index in range(20):
            picture = random.integers(low, low + 128, (pixels, pixels, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / name / f"{index}.png")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, from which modules are imported."""
    monkeypatch.setenv("DWINDLE_BF16", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("short_slices")
def test_your_own_loop(here: Path) -> None:
    python = [block.code for block in blocks(TUTORIALS / "own-loop.md", "python") if block.not_run is None]
    (here / "my_code.py").write_text(python[0])
    exec("\n".join(python), {"__name__": "page"})
    for words in lines("own-loop.md", {"10%": ["20%", "--rounds", "1"]}):
        if "my_code:task" not in words:  # a LightningModule's
            assert main(words) == 0, words
    kept = Checkpoint.load(here / "pruned.dwindle")
    assert kept.history[-1].density == pytest.approx(0.2, abs=0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("short_slices")
def test_a_detector(here: Path) -> None:
    python = [block.code for block in blocks(TUTORIALS / "detector.md", "python") if block.not_run is None]
    (here / "my_detector.py").write_text("\n".join(python))
    page: dict[str, Any] = {"__name__": "page"}
    exec("\n".join(python), page)
    for words in lines("detector.md", {"60KB": ["60KB", "--rounds", "1"]}):
        assert main(words) == 0, words
    kept = Checkpoint.load(here / "detector.dwindle")
    assert kept.metric == "AP50"
    assert (here / "detector.dwindle/exports/onnx/net.onnx").stat().st_size <= 60_000
    network, there, right = restore(kept, trust=True).eval(), 0, 0
    for image, real, kinds in page["Shapes"]().data["test"][:40]:
        with torch.no_grad():
            scores, boxes = network(image[None])
        there += len(real)
        for name, _, box in page["shown"](scores[0], boxes[0], 0.3):
            of_class = real[kinds == page["CLASSES"].index(name)]
            right += bool((page["ops"].box_iou(torch.tensor([box]), of_class) >= 0.5).any())
    assert right > there / 2


@pytest.mark.slow
@pytest.mark.needs("transformers")
@pytest.mark.usefixtures("short_slices")
def test_a_text_classifier(here: Path) -> None:
    tiny_bert(here / "bert")
    films(here / "reviews.csv")
    instead = {
        "hf:google/bert_uncased_L-4_H-256_A-4": ["hf:./bert"],
        "64": ["12"],
        "3": ["12", "--batch-size", "16"],
        "0.0001": ["0.01"],
        "30%": ["50%", "--rounds", "1"],
    }
    for words in lines("text.md", instead):
        assert main(words) == 0, words
    kept = Checkpoint.load(here / "reviews.dwindle")
    assert kept.metrics["dense_test"] > 90
    assert (here / "reviews.dwindle/exports/onnx/net.onnx").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("short_slices")
def test_without_training(here: Path) -> None:
    photographs(here / "photos", 16)
    torch.manual_seed(0)
    state = build(ModelSpec("zoo:resnet8", 2, (3, 16, 16))).state_dict()
    save_file(state, here / "trained.safetensors")
    pruned = {name: value * (value.abs() > 0.05) if value.dim() == 4 else value for name, value in state.items()}
    save_file(pruned, here / "pruned.safetensors")
    for words in lines(
        "without-training.md", {"torchvision:resnet18": ["zoo:resnet8"], "224": ["16"], "12MB": ["150KB"]}
    ):
        assert main(words) == 0, words
    assert (here / "net.dwindle/exports/onnx/net.onnx").stat().st_size <= 150_000
    assert Checkpoint.load(here / "kept.dwindle").history[-1].density < 1


@pytest.mark.slow
@pytest.mark.needs("litert")
@pytest.mark.usefixtures("short_slices")
def test_a_latency_budget_for_a_phone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the profile of a phone that comes with dwindle, as there is no phone here."""
    (limits,) = (block.code for block in blocks(TUTORIALS / "phone.md", "toml"))
    (here / "budget.toml").write_text(limits.replace("latency = 4", "latency = 0.6"))
    small = {"zoo:resnet20": ["zoo:resnet8"], "4ms": ["0.6ms"], "cifar10": ["digits", "--epochs", "2", "--rounds", "1"]}
    for words in lines("phone.md", small):
        assert main(words) == 0, words
    assert "predicted, not measured" in capsys.readouterr().out
    found = Bench.load(here / "net.dwindle/bench.json")
    dense, compressed = found.predicted
    assert compressed.ms is not None
    assert compressed.ms <= 0.6 < (dense.ms or 0)
    assert (compressed.device, compressed.measured) == ("cortex-a76", None)
    (here / "budget.toml").write_text(limits.replace("latency = 4", f"latency = {0.9 * compressed.ms}"))
    assert main(["gate", "net.dwindle", "--limits", "budget.toml"]) == 3
