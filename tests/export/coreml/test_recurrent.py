"""Recurrent layers in Core ML files: their weights packed, and counted without converting again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.export.coreml.program import convert
from dwindle.export.coreml.read import main_block, operations, read
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable
from dwindle.export.parity import check


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.rows, self.head = kind(16, 48, batch_first=True, bidirectional=True), nn.Linear(96, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.rows(x)[0])
        return result


def pruned(kind: type[nn.LSTM | nn.GRU], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = Tagger(kind).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) < 0.2)
    return network


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "precision"), [(nn.LSTM, "fp16"), (nn.GRU, "int8")])
def test_weights_of_recurrent_layers_are_packed(kind: type[nn.LSTM | nn.GRU], precision: str, tmp_path: Path) -> None:
    network, inputs, target = pruned(kind, 0), (torch.randn(1, 4, 16),), CoreML(precision)
    shipped, path = deployable(network, inputs), tmp_path / "net.mlpackage"
    target.write(shipped, inputs, path, pack=True)
    parity = check(target, path, network, shipped, (torch.randn(4, 4, 16),))
    assert parity.weights_equal == 2 * 4 + 2  # with the biases, each direction's four, and the head's two
    block = main_block(read(path)[0])
    made = {one.outputs[0].name for one in operations(block) if one.type == "constexpr_sparse_to_dense"}
    shared = sum(one.type == "linear" and one.inputs["weight"].arguments[0].name in made for one in operations(block))
    assert len(made) >= 4
    assert shared > len(made)  # a step after the other reads the same constant
    bytes_of = target.packer(network, inputs)
    assert bytes_of(network) == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.slow
def test_what_the_converter_takes_from_a_bias_is_filled_in(kind: type[nn.LSTM | nn.GRU]) -> None:
    """The first step starts from zeros, so that only the bias, or parts of it, is left of what its weights compute."""
    inputs = (torch.randn(1, 2, 16),)
    first, second = deployable(pruned(kind, 0), inputs), deployable(pruned(kind, 1), inputs)
    program = convert(first, inputs, "iOS16")
    assert program.complete
    assert {part.tensor for part in program.parts.values()} == {"rows.bias_hh_l0", "rows.bias_hh_l0_reverse"}
    filled, target = program.filled(target_tensors(second)), CoreML("fp16")
    bias = second.get_parameter("rows.bias_hh_l0").half().numpy()
    name, part = next(item for item in program.parts.items() if item[1].tensor == "rows.bias_hh_l0")
    assert (filled[name] == part.of(bias, filled[name])).all()
    assert target.files(second, inputs, pack=True)[0].keys() == target.files(first, inputs, pack=True)[0].keys()


def target_tensors(network: nn.Module) -> dict[str, object]:
    return dict(CoreML("fp16").stored(network))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Linear(6, 4), nn.PReLU(4)), (6,)),
        ((nn.Conv1d(6, 4, 1), nn.PReLU(4), nn.Conv1d(4, 3, 1), nn.PReLU()), (6, 5)),
        ((nn.Conv3d(6, 4, 1), nn.PReLU(4)), (6, 2, 3, 2)),
    ],
    ids=["vector", "sequence", "volume"],
)
def test_a_slope_for_each_channel_of_anything(
    layers: tuple[nn.Module, ...], shape: tuple[int, ...], tmp_path: Path
) -> None:
    network, inputs = nn.Sequential(*layers).eval(), (torch.randn(1, *shape),)
    for layer in layers:
        if isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, -0.5, 0.9)
    shipped, path = deployable(network, inputs), tmp_path / "net.mlpackage"
    CoreML().write(shipped, inputs, path, pack=True)
    assert check(CoreML(), path, network, shipped, (torch.randn(4, *shape),)).relative is not None
    assert convert(shipped, inputs, "iOS16").complete
