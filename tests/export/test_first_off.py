"""A file that is not its network names the operator, the module and the line of the first value that differs."""

from __future__ import annotations

import inspect
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import DwindleError, ParityFailed, UsageError
from dwindle.export.executorch.errors import MEANINGS, translated
from dwindle.export.first_off import first_off
from dwindle.export.fold import deployable
from dwindle.export.one_target import export_networks
from dwindle.export.onnx.target import Onnx
from dwindle.export.target import Outputs, Target

HERE = Path(__file__).name
Inputs = tuple[Tensor, ...]


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x).relu()
        return x + self.down(y * torch.sigmoid(y))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(8, 8), Gate(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gate(self.stem(x).tanh()).relu())


class Miscompiled(Onnx):
    """Writes another operator in the place of one."""

    def write(self, module: nn.Module, inputs: Inputs, path: Path, *, pack: bool) -> str:
        encoding = super().write(module, inputs, path, pack=pack)
        model = onnx.load(path)
        for node in model.graph.node:
            if node.op_type == "Sigmoid":
                node.op_type = "Tanh"
        onnx.save(model, path)
        return encoding


class Crippled(Onnx):
    """A runtime that lacks an operator."""

    def run(self, path: Path, inputs: Inputs, *, batch: int = 1) -> Outputs:
        if any(node.op_type == "Sigmoid" for node in onnx.load(path).graph.node):
            raise RuntimeError("error 0x14")
        return super().run(path, inputs)


class Illiterate(Onnx):
    """A format that lacks an operator, and does not say which."""

    def write(self, module: nn.Module, inputs: Inputs, path: Path, *, pack: bool) -> str:
        encoding = super().write(module, inputs, path, pack=pack)
        if any(node.op_type == "Sigmoid" for node in onnx.load(path).graph.node):
            path.unlink()
            raise UsageError("it cannot be written", code="not-convertible")
        return encoding


def exported(target: Target, folder: Path) -> DwindleError:
    torch.manual_seed(0)
    network, inputs = Net().eval().requires_grad_(False), (torch.randn(6, 8),)
    example = (inputs[0][:1],)
    networks = {role: (network, deployable(network, example)) for role in ("net", "dense")}
    with pytest.raises(DwindleError) as failed:
        export_networks(networks, example, inputs, folder / "out", target)
    return failed.value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "kind", "code"),
    [
        (Miscompiled(), ParityFailed, "outputs-differ"),
        (Miscompiled("int8"), ParityFailed, "outputs-differ"),
        (Crippled(), ParityFailed, "not-runnable"),
        (Crippled("w8a8").calibrated((torch.randn(16, 8),)), ParityFailed, "not-runnable"),
        (Illiterate(), UsageError, "not-convertible"),
    ],
    ids=["miscompiled", "miscompiled-int8", "not-run", "not-run-w8a8", "not-written"],
)
def test_the_first_operator_is_named_with_its_module_and_line(
    target: Target, kind: type[DwindleError], code: str, tmp_path: Path
) -> None:
    error = exported(target, tmp_path)
    line = inspect.getsourcelines(Gate.forward)[1] + 2
    assert isinstance(error, kind)
    assert (error.code, error.name) == (code, "aten.sigmoid.default")
    assert f"aten.sigmoid.default in gate ({HERE}, line {line})" in str(error)


def test_of_a_right_file_no_operator_is_named() -> None:
    torch.manual_seed(0)
    example = (torch.randn(1, 8),)
    assert first_off(Onnx(), deployable(Net().eval(), example), example, (torch.randn(4, 8),), pack=False) is None


@pytest.mark.parametrize("words", ["loading method forward failed with error 0x14", "failed with error: 0x10"])
def test_a_bare_number_of_executorch_is_translated(words: str) -> None:
    with pytest.raises(RuntimeError, match="running it ended with ExecuTorch's error 0x1") as failed:  # noqa: SIM117
        with translated("running it"):
            raise RuntimeError(words)
    assert any(meaning in str(failed.value) for meaning in MEANINGS.values())


def test_the_numbers_are_executorchs_own() -> None:
    import re

    import executorch

    (folder,) = executorch.__path__
    header = Path(folder, "include", "executorch", "runtime", "core", "error.h").read_text()
    stated = {int(number, 16): name for name, number in re.findall(r"^  (\w+) = (0x[0-9a-f]+),", header, re.MULTILINE)}
    assert {number: meaning.partition(":")[0] for number, meaning in MEANINGS.items()} == {
        number: name for number, name in stated.items() if number
    }
