from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import ParityFailed, RuntimeUnavailable, UsageError
from dwindle.export import target_options, targets
from dwindle.export.coreml.read import MODEL, read
from dwindle.export.coreml.target import CoreML
from dwindle.export.executorch import coreml as executorch_coreml
from dwindle.export.executorch.coreml import ExecuTorchCoreML
from dwindle.export.fold import deployable
from dwindle.export.parity import check
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]


class Written(NamedTuple):
    network: nn.Module
    shipped: nn.Module
    net: Path
    printed: str


@pytest.fixture(scope="module")
def written(
    trained: Changed,
    masked: Changed,
    example: Inputs,
    captured_output: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Written:
    folder = tmp_path_factory.mktemp("executorch_coreml")
    network = masked(trained(resnet8(in_channels=1)), 0.1).eval()
    shipped = deployable(network, example)
    with captured_output(folder / "printed"):
        words = ExecuTorchCoreML().write(shipped, example, folder / "net.pte", pack=True)
    assert words == "bitmask + fp16 survivors"
    return Written(network, shipped, folder / "net.pte", (folder / "printed").read_text())


@pytest.mark.slow
def test_the_package_inside_is_the_network(written: Written, samples: Inputs) -> None:
    parity = check(ExecuTorchCoreML(), written.net, written.network, written.shipped, samples)
    assert parity.weights_equal == len(list(written.shipped.parameters())) == 20
    assert parity.relative is not None
    assert parity.relative < 1.3e-3


@pytest.mark.slow
def test_nothing_is_printed(written: Written) -> None:
    assert written.printed == ""


def test_executorch_reads_one_call_of_core_ml_and_what_it_needs_to_make_it(written: Written) -> None:
    """By ExecuTorch's own reader, as its delegate on a device would find it."""
    plan, _ = executorch_coreml._plan(written.net.read_bytes())
    (delegate,), (chain,) = plan.delegates, plan.chains
    assert delegate.id == "CoreMLBackend"
    assert plan.inputs + plan.outputs == chain.instructions[0].instr_args.args
    specs = {spec.key: spec.value for spec in delegate.compile_specs}
    assert (specs["model_type"], specs["min_deployment_target"]) == (b"model", b"7")  # iOS 16's
    with executorch_coreml._unpacked(written.net) as package:
        import json

        metadata = json.loads((package.parent / "metadata.json").read_text())
        described = read(package)[0].description
        assert metadata["inputNames"] == [value.name for value in described.input]
        assert metadata["outputNames"] == [value.name for value in described.output]
        assert metadata["identifier"].startswith("executorch_")
        assert {path.name for path in package.rglob("*") if path.is_file()} == {
            "Manifest.json", "model.mlmodel", "weight.bin",
        }  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("one_model")
def test_zeros_are_packed(written: Written, example: Inputs, trained: Changed, masked: Changed, tmp_path: Path) -> None:
    dense = tmp_path / "dense.pte"
    assert ExecuTorchCoreML().write(written.shipped, example, dense, pack=False) == "dense fp16"
    size = written.net.stat().st_size
    assert 4 * size < dense.stat().st_size
    packed_bytes = ExecuTorchCoreML().packer(trained(resnet8(in_channels=1), seed=5), example)
    assert packed_bytes(written.network) == size
    sparser = masked(trained(resnet8(in_channels=1), seed=3), 0.02)
    ExecuTorchCoreML().write(deployable(sparser, example), example, tmp_path / "net.pte", pack=True)
    assert packed_bytes(sparser) == (tmp_path / "net.pte").stat().st_size < size


@pytest.mark.slow
def test_in_fewer_bits_too(written: Written, example: Inputs, samples: Inputs, tmp_path: Path) -> None:
    int8 = ExecuTorchCoreML("int8")
    words = int8.write(written.shipped, example, tmp_path / "net.pte", pack=True)
    assert words.startswith("bitmask + int8 survivors")
    assert (tmp_path / "net.pte").stat().st_size < written.net.stat().st_size
    assert check(int8, tmp_path / "net.pte", written.network, written.shipped, samples).weights_equal == 20
    older = targets.load("executorch-coreml", "int8", "iOS16")
    assert str(older.note).startswith("iOS16 has no sparse form of int8")


@pytest.mark.slow
def test_one_weight_that_differs_is_found(written: Written, example: Inputs, samples: Inputs, tmp_path: Path) -> None:
    content = bytearray(written.net.read_bytes())
    files = CoreML().files(written.shipped, example, pack=True)[0]
    weight = written.shipped.stage2[0].conv2.weight
    survivors = weight.half()[weight != 0].numpy().tobytes()
    assert survivors in files["Data/com.apple.CoreML/weights/weight.bin"]
    content[content.index(survivors) + 20] ^= 1
    (tmp_path / "net.pte").write_bytes(content)
    with pytest.raises(ParityFailed) as failed:
        check(ExecuTorchCoreML(), tmp_path / "net.pte", written.network, written.shipped, samples)
    assert (failed.value.code, failed.value.name) == ("weights-differ", "stage2.0.conv2.weight")
    assert "1 of 9216 weights" in str(failed.value)


@pytest.mark.parametrize("keep", [0, 5000, -1])
def test_a_truncated_file_is_found(written: Written, samples: Inputs, tmp_path: Path, keep: int) -> None:
    (tmp_path / "net.pte").write_bytes(written.net.read_bytes()[:keep])
    with pytest.raises(ParityFailed) as failed:
        check(ExecuTorchCoreML(), tmp_path / "net.pte", written.network, written.shipped, samples)
    assert (failed.value.code, failed.value.path) == ("unreadable", tmp_path / "net.pte")


@pytest.mark.slow
def test_equal_exports_are_equal(written: Written, example: Inputs, tmp_path: Path) -> None:
    ExecuTorchCoreML().write(written.shipped, example, tmp_path / "net.pte", pack=True)
    assert (tmp_path / "net.pte").read_bytes() == written.net.read_bytes()


@pytest.mark.slow
def test_what_core_ml_takes_a_part_of_is_refused(tmp_path: Path) -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.last(torch.diagonal(y.t() @ y)[None])

    network, x = Partly().eval().requires_grad_(False), torch.randn(1, 8)
    with pytest.raises(UsageError) as refused:
        ExecuTorchCoreML().write(network, (x,), tmp_path / "net.pte", pack=True)
    assert (refused.value.code, refused.value.name) == ("partly-delegated", "aten::diagonal_copy")
    assert not (tmp_path / "net.pte").exists()


def test_what_a_file_delegates_to_is_said_by_name() -> None:
    assert target_options.delegated(["onnx", "executorch"], None) == ["onnx", "executorch"]
    assert target_options.delegated(["onnx", "executorch"], "xnnpack") == ["onnx", "executorch"]
    assert target_options.delegated(["onnx", "executorch"], "coreml") == ["onnx", "executorch-coreml"]
    with pytest.raises(UsageError) as refused:
        target_options.delegated(["executorch"], "corelm")
    assert (refused.value.option, refused.value.name) == ("delegate", "corelm")
    with pytest.raises(UsageError) as refused:
        target_options.delegated(["onnx"], "coreml")
    assert (refused.value.code, refused.value.option) == ("unused-option", "delegate")


def test_without_the_delegate_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executorch_coreml, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailable) as unavailable:
        targets.load("executorch-coreml")
    assert (unavailable.value.code, unavailable.value.name) == ("not-installed", "executorch")


@pytest.mark.slow
def test_outputs_are_those_of_the_core_ml_target(
    written: Written, example: Inputs, samples: Inputs, tmp_path: Path
) -> None:
    package = tmp_path / "net.mlpackage"
    CoreML().write(written.shipped, example, package, pack=True)
    np.testing.assert_array_equal(ExecuTorchCoreML().run(written.net, samples)[0], CoreML().run(package, samples)[0])
    assert (package / MODEL).exists()
