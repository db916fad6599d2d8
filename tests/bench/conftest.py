"""A checkpoint small enough to bench in seconds, with real files that real runtimes load."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import pytest
import torch
from torch import nn

from dwindle.checkpoint import Checkpoint, finish, start
from dwindle.manifest import File, Manifest, Parity
from dwindle.mask_files import pack_masks
from dwindle.record import Round

TASK = '''
import torch

class Blobs:
    """Ten noisy prototypes of 1x8x8; enough like a task to be evaluated."""

    def __init__(self):
        made = torch.Generator().manual_seed(0)
        self.truth = torch.arange(40) % 10
        prototypes = torch.randn(10, 1, 8, 8, generator=made)
        self.images = prototypes[self.truth] + 0.4 * torch.randn(40, 1, 8, 8, generator=made)

    def fit(self, model, *, start, on_step):
        pass

    @torch.no_grad()
    def evaluate(self, model, split):
        answers = torch.cat([model(images) for images in self.images.split(16)])
        return 100 * (answers.argmax(1) == self.truth).double().mean().item()

    def inputs(self, split):
        return (self.images,)

    def labels(self, split):
        return self.truth

    def example_inputs(self):
        return (self.images[:1],)
'''


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


@pytest.fixture(scope="session")
def nets() -> tuple[Net, Net]:
    """Dense and pruned, eval mode."""
    torch.manual_seed(0)
    dense, pruned = Net().eval(), Net().eval()
    pruned.load_state_dict(dense.state_dict())
    with torch.no_grad():
        pruned[3].weight *= torch.rand_like(pruned[3].weight) < 0.3
    return dense, pruned


@pytest.fixture(scope="session")
def onnx_files(nets: tuple[Net, Net], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    for name, net in zip(("dense", "net"), nets, strict=True):
        onnx.save(as_onnx(net), folder / f"{name}.onnx")
    return folder / "dense.onnx", folder / "net.onnx"


@pytest.fixture(scope="session")
def pte_files(nets: tuple[Net, Net], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Dense and pruned, delegated to XNNPACK."""
    from dwindle.export.architecture import one_model
    from dwindle.export.executorch.target import ExecuTorch

    folder, example = tmp_path_factory.mktemp("pte"), (torch.zeros(1, 1, 8, 8),)
    with one_model():
        for name, net in zip(("dense", "net"), nets, strict=True):
            ExecuTorch().write(net, example, folder / f"{name}.pte", pack=True)
    return folder / "dense.pte", folder / "net.pte"


@pytest.fixture(scope="session")
def tflite_files(nets: tuple[Net, Net], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Dense and pruned, the latter's zeros packed."""
    from dwindle.export.architecture import one_model
    from dwindle.export.fold import deployable
    from dwindle.export.litert.target import LiteRT

    folder, example = tmp_path_factory.mktemp("tflite"), (torch.zeros(1, 1, 8, 8),)
    with one_model():
        for name, net in zip(("dense", "net"), nets, strict=True):
            LiteRT().write(deployable(net, example), example, folder / f"{name}.tflite", pack=name == "net")
    return folder / "dense.tflite", folder / "net.tflite"


def as_onnx(net: Net) -> onnx.ModelProto:
    """Written by hand: torch's exporter takes seconds to start."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    weights = {name.replace(".", ""): tensor.numpy() for name, tensor in net.state_dict().items()}
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["x", "0weight", "0bias"], ["conv"], pads=[1, 1, 1, 1]),
            node("Relu", ["conv"], ["relu"]),
            node("Flatten", ["relu"], ["flat"]),
            node("Gemm", ["flat", "3weight", "3bias"], ["y"], transB=1),
        ],
        "net",
        [value("x", onnx.TensorProto.FLOAT, [1, 1, 8, 8])],
        [value("y", onnx.TensorProto.FLOAT, [1, 10])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the task `blobs:Blobs` importable, and trusted: whose code may run is for other tests to ask."""
    (tmp_path / "blobs.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "blobs", raising=False)
    monkeypatch.setattr("dwindle.models.tasks.require_trust", lambda *asked: None)


@pytest.fixture
def checkpoint(tmp_path: Path, nets: tuple[Net, Net], blobs: None) -> Checkpoint:
    """A finished one with three rounds and no exports."""
    dense, pruned = nets
    origin = {"model": {"spec": "blobs:net"}, "task": {"task": "blobs:Blobs"}, "target": "onnx", "size": 12_000}
    history = tuple(
        Round(i, density, size, validation, 0.1, 3.0)
        for i, (density, size, validation) in enumerate([(1.0, 21_000, 97.5), (0.5, 15_000, 97.8), (0.3, 11_800, 97.1)])
    )
    fresh = replace(start(tmp_path / "net.dwindle", origin), done=True, history=history)
    fresh = replace(fresh, metrics={"test": 96.5, "dense_test": 97.0})
    masks = {"3.weight": pruned[3].weight != 0}
    tensors = {"weights": pruned.state_dict(), "dense": dense.state_dict(), "masks": pack_masks(masks)}
    return finish(fresh, tensors, {})


Exported = Callable[..., Manifest]


@pytest.fixture
def export(checkpoint: Checkpoint) -> Exported:
    """Puts a pair of files under the checkpoint's exports, with their manifest."""

    def put(target: str, dense: Path, compressed: Path, precision: str = "fp32") -> Manifest:
        folder = checkpoint.exports / target
        folder.mkdir(parents=True, exist_ok=True)
        for path in (dense, compressed):
            (folder / path.name).write_bytes(path.read_bytes())
        parity = Parity(1e-6, 1e-7, 1e-4, 1.0, 40, 2)
        file, reference = (File.of(folder / path.name) for path in (compressed, dense))
        manifest = Manifest(target, precision, "bitmask + fp32 survivors", file, reference, parity, {"torch": "2"})
        manifest.write(folder)
        return manifest

    return put


ODD = '''
import ctypes, os, sys, time

from dwindle.bench.missing import Missing
from dwindle.bench.runtimes.runtime import Runtime

class Odd(Runtime):
    """Does what its file says; otherwise gives back its input."""

    name = "odd"
    target = "odd"

    def check(self):
        return None

    def version(self):
        return "1.0"

    def load(self, path, threads):
        how = path.read_text()
        print("loading", how)                        # through Python's buffer
        os.write(1, b"raw chatter on descriptor 1")  # as a C library would
        if how == "refuse":
            raise ValueError("not a model")
        if how == "fault":
            ctypes.string_at(0)
        inferences = 0

        def infer(arrays):
            nonlocal inferences
            inferences += 1
            if how == "killed" and inferences > 1:
                os.kill(os.getpid(), 9)
            if how == "crash":
                print("about to fall over", file=sys.stderr, flush=True)
                os.abort()
            if how == "leave":
                os._exit(7)
            if how == "hang":
                time.sleep(600)
            return arrays

        return infer

class Absent(Odd):
    name = "absent"

    def check(self):
        return Missing("its hardware is elsewhere", "buy it")
'''


@pytest.fixture
def odd_runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs another package's runtimes `odd` and `absent`, as pip would, here and in subprocesses."""
    site = tmp_path / "site"
    info = site / "odd-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "odd_runtime.py").write_text(ODD)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dwindle.runtimes]\nodd = odd_runtime:Odd\nabsent = odd_runtime:Absent\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "odd_runtime", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(site))
