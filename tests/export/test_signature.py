"""Networks with several inputs and outputs, of any type, in every format and through every stage."""

from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from dwindle.bench import bench
from dwindle.bench.result import COMPRESSED
from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress
from dwindle.errors import ParityFailed
from dwindle.export import export
from dwindle.export.coreml.read import read
from dwindle.export.fold import deployable
from dwindle.export.parity import compare
from dwindle.export.target import Outputs
from dwindle.export.targets import load
from dwindle.manifest import Manifest
from dwindle.models.build import restore
from dwindle.models.signature import flat, input_names, output_names, signature_of
from tests.networks import Detector, Listener, Reader, sentences

NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Tensor]]] = {
    "detector": (Detector, {"image": torch.rand(5, 3, 8, 8)}),
    "stream": (Listener, {"frames": torch.rand(5, 5, 8), "state": torch.rand(5, 1, 16)}),
    "text": (Reader, sentences(5)),
}
FAST = [*((name, "onnx") for name in NETWORKS), ("stream", "coreml"), ("text", "executorch"), ("detector", "pytorch")]
LITERT = [("detector", "litert"), ("stream", "litert"), ("text", "litert")]
OTHERS = [pair for pair in product(NETWORKS, ("coreml", "executorch", "pytorch")) if pair not in FAST]
CASES = [
    *FAST,
    *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHERS),
    *(pytest.param(*pair, marks=[pytest.mark.slow, pytest.mark.needs("litert")]) for pair in LITERT),
]


def made(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    kind, inputs = NETWORKS[name]
    network = kind().eval().requires_grad_(False)
    real = tuple(inputs.values())
    example = tuple(tensor[:1] for tensor in real)
    return flat(network, signature_of(network, example, tuple(inputs) if name == "text" else None)), real


@pytest.mark.parametrize(("name", "format_"), CASES)
def test_every_output_is_compared(name: str, format_: str, tmp_path: Path) -> None:
    target = load(format_)
    (network, real), path = made(name), tmp_path / f"net{target.suffix}"
    example = tuple(tensor[:1] for tensor in real)
    shipped = deployable(network, example)
    target.write(shipped, example, path, pack=True)
    found = compare(target, path, network, shipped, real)
    assert found.parity.relative is not None
    assert found.parity.output in found.names
    assert [one.shape for one in found.outputs] == [tuple(one.shape) for one in network(*real)]
    assert found.parity.top1_agreement is None


@pytest.mark.parametrize(
    "name", ["text", *(pytest.param(name, marks=pytest.mark.slow) for name in ("detector", "stream"))]
)
def test_files_bear_the_names_of_the_signature(name: str, tmp_path: Path) -> None:
    network, real = made(name)
    names = input_names(network, len(real)), output_names(network)
    example = tuple(tensor[:1] for tensor in real)
    load("onnx").write(network, example, tmp_path / "net.onnx", pack=True)
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert tuple(tuple(value.name for value in values) for values in (graph.input, graph.output)) == names
    load("coreml").write(network, example, tmp_path / "net.mlpackage", pack=True)
    described = read(tmp_path / "net.mlpackage")[0].description
    assert tuple(tuple(one.name for one in values) for values in (described.input, described.output)) == names


@pytest.mark.slow
@pytest.mark.needs("litert")
def test_a_litert_file_bears_the_names_of_the_signature(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    network, real = made("text")
    load("litert").write(network, tuple(tensor[:1] for tensor in real), tmp_path / "net.tflite", pack=True)
    runner = Interpreter(str(tmp_path / "net.tflite")).get_signature_runner()
    assert set(runner.get_input_details()) == set(input_names(network, 2))
    assert set(runner.get_output_details()) == set(output_names(network))


def test_an_output_that_is_off_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (network, real), path = made("detector"), tmp_path / "net.onnx"
    example = tuple(tensor[:1] for tensor in real)
    target = load("onnx")
    target.write(network, example, path, pack=True)
    boxes, scores, label = target.run(path, real)

    def off(*_: Any) -> Outputs:
        return boxes, scores, label + (label == label.max())

    monkeypatch.setattr(target, "run", off)
    with pytest.raises(ParityFailed) as failed:
        compare(target, path, network, network, real)
    assert (failed.value.code, failed.value.name) == ("outputs-differ", "label")


@pytest.fixture(scope="module")
def read_through(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("reading") / "net.dwindle"
    request = Request("tests.networks:Reader", task={"task": "tests.networks:Reading"}, density=0.5, rounds=1)
    done = compress(request, folder)
    export(done, ["onnx", "executorch"], trust=True)
    return done


@pytest.mark.slow
def test_a_network_that_is_given_names_goes_the_whole_way(read_through: Checkpoint) -> None:
    signature = Checkpoint.load(read_through.path).signature
    assert signature is not None
    assert [one.dtype for one in signature.inputs] == ["int64", "int64"]
    for name in ("onnx", "executorch"):
        assert Manifest.read(read_through.exports / name).signature == signature
    scores, rest = restore(read_through, trust=True)(**sentences(3))
    assert (scores.shape, rest["embedding"].shape) == ((3, 4), (3, 32))


@pytest.mark.slow
@pytest.mark.usefixtures("short_slices")
def test_bench_judges_a_file_as_the_network(read_through: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwindle.bench.measure.PROCESSES", 2)
    found = bench(read_through.path, trust=True)
    for target in ("onnx", "executorch"):
        (row,) = found.find(target, COMPRESSED)
        assert row.accuracy is not None, row.reasons
        assert (row.accuracy.metric, row.accuracy.value) == ("right", read_through.metrics["test"])
        assert row.accuracy.top1 is None
        assert row.latency is not None
