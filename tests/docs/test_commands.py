"""The pages' command lines run in the order in which they stand, on smaller networks and fewer steps."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dwindle import registry
from dwindle.bench import Bench
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.compress import Request, compress
from dwindle.export import export
from dwindle.models.build import ModelSpec, build, restore
from tests.docs.pages import CONTRIBUTING, PAGES, ROOT, blocks, command_lines, name, of_dwindle
from tests.texts import films, tiny_bert

DOCS = ROOT / "docs"
RUN: set[str] = set()
"""The pages whose command lines a test of this file runs."""
Test = TypeVar("Test", bound=Callable[..., None])


def runs(page: str) -> Callable[[Test], Test]:
    """Says of a test that it runs every command line of a page that isn't marked as not run."""
    RUN.add(page)
    return lambda test: test


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=name)
def test_every_command_line_is_run_or_its_block_says_why_not(page: Path) -> None:
    run = {" ".join(words) for each in RUN for words in command_lines(DOCS / each)}
    ours = {" ".join(words) for words in command_lines(page) if of_dwindle(words) is not None}
    assert ours <= run, "let a test below run these, or mark their block: <!-- not run: why -->"


def lines(page: str, instead: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The words after `dwindle` of a page's command lines, each of some words replaced by others."""
    ours = [words for line in command_lines(DOCS / page) if (words := of_dwindle(line)) is not None]
    replaced = [[new for word in words for new in instead.get(word, [word])] for words in ours]
    used = {word for words in ours for word in words}
    assert instead.keys() <= used, instead.keys() - used
    return replaced


def photographs(folder: Path, pixels: int) -> None:
    """Bright and dark noise, in a folder each."""
    random = np.random.default_rng(0)
    for shade, low in {"dark": 0, "bright": 128}.items():
        (folder / shade).mkdir(parents=True)
        for index in range(20):
            picture = random.integers(low, low + 128, (pixels, pixels, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / shade / f"{index}.png")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, from which modules are imported."""
    monkeypatch.setenv("DWINDLE_BF16", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@runs("tutorials/own-loop.md")
@pytest.mark.slow
@pytest.mark.usefixtures("short_slices")
def test_your_own_loop(here: Path) -> None:
    python = [block.code for block in blocks(DOCS / "tutorials/own-loop.md", "python") if block.not_run is None]
    (here / "my_code.py").write_text(python[0])
    exec("\n".join(python), {"__name__": "page"})
    for words in lines("tutorials/own-loop.md", {"10%": ["20%", "--rounds", "1"]}):
        assert main(words) == 0, words
    kept = Checkpoint.load(here / "pruned.dwindle")
    assert kept.history[-1].density == pytest.approx(0.2, abs=0.01)


@runs("tutorials/detector.md")
@pytest.mark.slow
@pytest.mark.usefixtures("short_slices")
def test_a_detector(here: Path) -> None:
    python = [block.code for block in blocks(DOCS / "tutorials/detector.md", "python") if block.not_run is None]
    (here / "my_detector.py").write_text("\n".join(python))
    page: dict[str, Any] = {"__name__": "page"}
    exec("\n".join(python), page)
    for words in lines("tutorials/detector.md", {"60KB": ["60KB", "--rounds", "1"]}):
        assert main(words) == 0, words
    kept = Checkpoint.load(here / "detector.dwindle")
    assert kept.metric == "AP50"
    assert (here / "detector.dwindle/exports/onnx/net.onnx").stat().st_size <= 60_000
    network, there, right = restore(kept, trust=True).eval(), 0, 0
    for image, real, kinds in page["Shapes"]().data["test"][:40]:
        with torch.no_grad():
            scores, boxes = network(image[None])
        there += len(real)
        for kind, _, box in page["shown"](scores[0], boxes[0], 0.3):
            of_class = real[kinds == page["CLASSES"].index(kind)]
            right += bool((page["ops"].box_iou(torch.tensor([box]), of_class) >= 0.5).any())
    assert right > there / 2


@runs("tutorials/text.md")
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
    for words in lines("tutorials/text.md", instead):
        assert main(words) == 0, words
    kept = Checkpoint.load(here / "reviews.dwindle")
    assert kept.metrics["dense_test"] > 90
    assert (here / "reviews.dwindle/exports/onnx/net.onnx").is_file()


@runs("tutorials/without-training.md")
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
        "tutorials/without-training.md", {"torchvision:resnet18": ["zoo:resnet8"], "224": ["16"], "12MB": ["150KB"]}
    ):
        assert main(words) == 0, words
    assert (here / "net.dwindle/exports/onnx/net.onnx").stat().st_size <= 150_000
    assert Checkpoint.load(here / "kept.dwindle").history[-1].density < 1


@runs("tutorials/phone.md")
@pytest.mark.slow
@pytest.mark.needs("litert")
@pytest.mark.usefixtures("short_slices")
def test_a_latency_budget_for_a_phone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the profile of a phone that comes with dwindle, as there is no phone here."""
    (limits,) = (block.code for block in blocks(DOCS / "tutorials/phone.md", "toml"))
    (here / "budget.toml").write_text(limits.replace("latency = 4", "latency = 0.6"))
    small = {"zoo:resnet20": ["zoo:resnet8"], "4ms": ["0.6ms"], "cifar10": ["digits", "--epochs", "2", "--rounds", "1"]}
    for words in lines("tutorials/phone.md", small):
        assert main(words) == 0, words
    assert "predicted, not measured" in capsys.readouterr().out
    found = Bench.load(here / "net.dwindle/bench.json")
    dense, compressed = found.predicted
    assert compressed.ms is not None
    assert compressed.ms <= 0.6 < (dense.ms or 0)
    assert (compressed.device, compressed.measured) == ("cortex-a76", None)
    (here / "budget.toml").write_text(limits.replace("latency = 4", f"latency = {0.9 * compressed.ms}"))
    assert main(["gate", "net.dwindle", "--limits", "budget.toml"]) == 3


@runs("tutorials/own-network.md")
@pytest.mark.slow
@pytest.mark.usefixtures("short_slices")
def test_your_network_to_core_ml_and_onnx(here: Path) -> None:
    """Without a download: from fresh weights."""
    photographs(here / "photos", 16)
    photos = ["photos", "--image-size", "16", "--epochs", "4", "--rounds", "1", "--recipe", "paper"]
    instead = {
        "timm:mobilenetv3_large_100": ["zoo:resnet8"],
        "--pretrained": [],
        "photos": photos,
        "2MB": ["150KB"],
    }
    for words in lines("tutorials/own-network.md", instead):
        if words[0] == "gate":  # an image as input and the classes' names take some bytes
            words[words.index("--max-size") + 1] = "160KB"
        assert main(words) == 0, words
    assert sum(file.stat().st_size for file in (here / "net.dwindle/exports/coreml").rglob("net.mlpackage/**/*"))
    assert (here / "report.html").is_file()


SMALL = {"zoo:resnet20": ["zoo:resnet8"], "fashion-mnist": ["digits", "--epochs", "1", "--rounds", "1"]}
"""What how-tos compress, in seconds."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has been exported to ONNX."""
    request = Request("zoo:resnet8", {"data": "digits", "epochs": 2}, density=0.3, rounds=1)
    net = compress(request, tmp_path_factory.mktemp("small") / "net.dwindle")
    export(net, ["onnx"])
    return net.path


@pytest.fixture
def net(here: Path, small: Path) -> Path:
    """A copy of it as `net.dwindle` in the working directory."""
    return Path(shutil.copytree(small, here / "net.dwindle"))


def run(page: str, instead: Mapping[str, Sequence[str]]) -> None:
    """Runs a page's command lines; what an earlier one compressed makes room for the next."""
    for words in lines(page, instead):
        out = Path(words[words.index("-o") + 1]) if words[0] == "compress" and "-o" in words else None
        if out and out.exists():
            shutil.rmtree(out)
        assert main(words) == 0, words


@runs("tutorials/ci.md")
@pytest.mark.slow
@pytest.mark.needs("litert")
@pytest.mark.usefixtures("short_slices")
def test_a_budget_in_ci(here: Path, net: Path) -> None:
    made = export(net, ["litert", "onnx"])
    assert main(["bench", "net.dwindle"]) == 0
    shutil.copy(net / "bench.json", here / "main.json")
    for folder in ("app/models", "main/models"):
        (here / folder).mkdir(parents=True)
        shutil.copy(net / "exports/litert/dense.tflite", here / folder / "digits.tflite")
    for manifest in made:
        dense = net / "exports" / manifest.target / manifest.dense.name
        shutil.copy(dense, here / f"app/model{dense.suffix}")
    np.savez(here / "samples.npz", image=np.random.default_rng(0).random((4, 1, 8, 8), np.float32))
    any_files, init, held, reference, checkpoint, update = lines("tutorials/ci.md", {})
    for words in (any_files, init, held, reference, update):
        assert main(words) == 0, words
    limits = next(block.code for block in blocks(DOCS / "tutorials/ci.md", "toml") if "[gate]" in block.code)
    (here / "budget.toml").write_text(limits.split("[gate.device")[0].replace("100KB", "200KB"))
    assert main(checkpoint) == 0
    assert {"trend.html", "model.svg", "gate.xml", "summary.md"} <= {path.name for path in here.iterdir()}


@runs("how-to/attest.md")
@pytest.mark.slow
@pytest.mark.needs("attest", "openssl")
@pytest.mark.usefixtures("net")
def test_attest(here: Path) -> None:
    (keys,) = (block.code for block in blocks(DOCS / "how-to/attest.md", "sh") if block.not_run)
    subprocess.run(["sh", "-e", "-c", keys], cwd=here, check=True, capture_output=True)
    attest, *others = lines("how-to/attest.md", {})
    assert main(attest) == 0
    (here / "app").mkdir()
    for path in ("exports/onnx/net.onnx", "attestations/onnx/net.onnx.intoto.json"):
        shutil.copy(here / "net.dwindle" / path, here / "app")
    for words in others:
        assert main(words) == 0, words


@runs("how-to/choose-budget.md")
@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_choose_a_budget() -> None:
    data = ["digits", "--epochs", "1", "--prune-per-round", "50%"]  # not `rounds`, which two granularities don't take
    run("how-to/choose-budget.md", {**SMALL, "fashion-mnist": data})


@runs("how-to/choose-granularity.md")
@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_choose_a_granularity() -> None:
    run("how-to/choose-granularity.md", SMALL)


@runs("how-to/choose-precision.md")
@pytest.mark.slow
@pytest.mark.needs("litert")
@pytest.mark.usefixtures("net")
def test_choose_a_precision(here: Path) -> None:
    (here / "net.py").write_text(
        "from dwindle.models.build import ModelSpec, build\n\n\n"
        "def factory():\n    return build(ModelSpec('zoo:resnet8', 10, (1, 8, 8)))\n"
    )
    torch.manual_seed(0)
    torch.save(build(ModelSpec("zoo:resnet8", 10, (1, 8, 8))).state_dict(), here / "net.pt")
    instead = {
        "zoo:resnet20": ["zoo:resnet8"],
        "fashion-mnist": ["digits"],
        "20KB": ["20KB", "--epochs", "1", "--rounds", "1"],
        "1": ["100"],  # --max-drop of a network that has hardly been trained
    }
    run("how-to/choose-precision.md", instead)


@runs("how-to/devices.md")
@pytest.mark.slow
@pytest.mark.needs("litert")
@pytest.mark.usefixtures("here")
def test_measure_on_a_device() -> None:
    instead = {"zoo:mobilenetv2": ["zoo:resnet8"], "cifar10": ["digits"], "8ms": ["0.6ms"]}
    run("how-to/devices.md", instead)


@runs("how-to/extend.md")
@pytest.mark.slow
def test_a_score_of_a_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "our_package").mkdir()
    (here / "our_package/scores.py").write_text(blocks(DOCS / "how-to/extend.md", "python")[0].code)
    ours = EntryPoint("relative", "our_package.scores:relative", "dwindle.scores")
    packaged = registry.entries
    monkeypatch.setattr(
        registry, "entries", lambda group: {**packaged(group), **({ours.name: ours} if group == ours.group else {})}
    )
    monkeypatch.syspath_prepend(here)
    run("how-to/extend.md", SMALL)


@runs("how-to/in-the-app.md")
@pytest.mark.slow
@pytest.mark.needs("litert")
@pytest.mark.usefixtures("net")
def test_run_the_file_in_an_app(capsys: pytest.CaptureFixture[str]) -> None:
    run("how-to/in-the-app.md", {})
    assert "final class Network" in capsys.readouterr().out


@runs("how-to/read-report.md")
@pytest.mark.slow
@pytest.mark.usefixtures("net")
def test_read_the_report(here: Path) -> None:
    for other in ("small.dwindle", "smaller.dwindle"):
        shutil.copytree(here / "net.dwindle", here / other)
    run("how-to/read-report.md", {})
    assert (here / "frontier.html").is_file()


@runs("how-to/resume.md")
@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_resume_a_run() -> None:
    for words in lines("how-to/resume.md", SMALL):
        assert main(words) == 0, words


@runs("how-to/training.md")
@pytest.mark.slow
def test_set_how_it_trains(here: Path) -> None:
    (options,) = (block.code for block in blocks(DOCS / "how-to/training.md", "toml"))
    small = options.replace("zoo:resnet20", "zoo:resnet8").replace("fashion-mnist", "digits")
    (here / "net.toml").write_text(f"{small}rounds = 1\n")
    run("how-to/training.md", {"30": ["1"]})
    assert Checkpoint.load(here / "net.dwindle").origin["recipe"] == "best"


@runs("how-to/trust.md")
@pytest.mark.slow
def test_use_a_checkpoint_from_elsewhere(here: Path) -> None:
    (here / "my_code.py").write_text(blocks(DOCS / "tutorials/own-loop.md", "python")[0].code)
    network = ["my_code:net", "--task", "my_code:Loop", "--density", "20%", "--rounds", "1"]
    assert main(["compress", *network, "-o", "net.dwindle"]) == 0
    run("how-to/trust.md", {})
