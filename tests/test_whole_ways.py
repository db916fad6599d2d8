"""Networks as people ship them, made small, go every stage: several inputs and outputs, tokens, scales, a state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
import pytest
import torch
from torch import Tensor, nn

from dwindle.bench import bench, gate, report
from dwindle.bench.result import COMPRESSED
from dwindle.checkpoint import Checkpoint
from dwindle.compress import compress
from dwindle.compress.watcher import Watcher
from dwindle.export import export
from dwindle.metrics import SQNR
from dwindle.task import Split
from tests.networks import Scales, Vad, sentences
from tests.texts import bert

Inputs = tuple[Tensor, ...] | dict[str, Tensor]


@dataclass
class Samples:
    """A task without labels: a network is judged by how like the dense one's its answers are."""

    make: Callable[[int], Inputs]
    states: dict[str, str]

    def inputs(self, split: Split) -> Inputs:
        torch.manual_seed(len(split))
        return self.make(48)

    def example_inputs(self) -> Inputs:
        return self.make(1)


def scales() -> nn.Module:
    torch.manual_seed(0)
    network = Scales().train()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    network(torch.rand(16, 3, 32, 32))
    return network.eval()


def vad() -> nn.Module:
    torch.manual_seed(0)
    return Vad(17, (24, 16, 16)).eval()


WAYS: dict[str, tuple[Callable[[], nn.Module], Samples, int]] = {
    "tokens": (bert, Samples(sentences, {}), 2),
    "scales": (scales, Samples(lambda count: (torch.rand(count, 3, 32, 32),), {}), 3),
    "stream": (
        vad,
        Samples(lambda count: (torch.randn(count, 72), torch.randn(count, 2, 16)), {"state": "memory"}),
        2,
    ),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("tokens", marks=pytest.mark.needs("transformers")),
        pytest.param("scales", marks=pytest.mark.slow),
        "stream",
    ],
)
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, int]:
    """A network that lost channels without training, and how many outputs it has."""
    make, task, outputs = WAYS[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "net.dwindle"
    budget = {"macs": "70%", "granularity": "channel", "align": 1}
    kept = {"keep_samples": 8, "calib_samples": 48}
    return compress(make(), folder, Watcher(), task=task, method="calibrate", **budget, **kept), outputs


@pytest.mark.slow
def test_a_network_loses_channels_as_it_came(way: tuple[Checkpoint, int]) -> None:
    done, outputs = way
    signature = Checkpoint.load(done.path).signature
    assert signature is not None
    assert len(signature.outputs) == outputs
    dense, small = done.history
    assert small.density < dense.density
    assert done.metrics["dense_test"] == 144
    assert 0 < done.metrics["test"] < 144


@pytest.mark.slow
@pytest.mark.usefixtures("short_slices")
def test_its_files_are_exported_measured_shown_and_gated(way: tuple[Checkpoint, int]) -> None:
    done, _ = way
    (manifest,) = export(done, ["onnx"], precision="int8")
    assert manifest.signature == done.signature
    names = [each.name for each in (done.signature.outputs if done.signature else ())]
    graph = onnx.load(done.exports / "onnx/net.onnx").graph
    assert [each.name for each in graph.output] == names
    assert manifest.quality is not None
    assert manifest.quality.outputs.keys() == set(names)
    found = bench(done)
    (row,) = found.find("onnx", COMPRESSED)
    assert row.latency is not None, row.reasons
    assert row.accuracy is not None, row.reasons
    assert (row.accuracy.metric, row.accuracy.n) == (SQNR, 48)
    assert 0 < row.accuracy.value < done.metrics["test"] + 1, "int8 costs some"
    assert row.outputs is not None
    assert (row.outputs.n, row.outputs.sqnr.keys()) == (48, set(names))
    assert min(row.outputs.sqnr.values()) == pytest.approx(row.accuracy.value, abs=0.1)
    page = report(done).read_text()
    assert "pruned by calibrate" in page
    assert all(f"{name} {sqnr:.1f} dB" in page for name, sqnr in row.outputs.sqnr.items())
    small, large = (gate(done, max_size=size) for size in ("1KB", "10MB"))
    assert (small.exit_code, large.exit_code) == (3, 0)
    assert gate(done, min_accuracy=0).exit_code == 0
