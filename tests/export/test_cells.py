"""Recurrent cells, computed in int8 by the real runtimes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.export.cells import CellsInParts
from dwindle.export.fold import deployable
from dwindle.export.parity import compare
from dwindle.export.targets import load
from dwindle.export.w8a8 import quantize
from dwindle.models.signature import flat, signature_of

Cell = type[nn.LSTMCell | nn.GRUCell | nn.RNNCell]
CELLS: tuple[Cell, ...] = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)


class Stepping(nn.Module):
    """One step of a stream: its state is the input and the output behind the first."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell, self.last = cell(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        made = self.cell(x, state if len(state) > 1 else state[0])
        state = made if isinstance(made, tuple) else (made,)
        return self.last(state[0]), *state


def stepping(cell: Cell) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    states = 2 if cell is nn.LSTMCell else 1
    real = (torch.randn(48, 6), *(torch.randn(48, 8).clamp(-2, 2) for _ in range(states)))
    network, one = Stepping(cell).eval().requires_grad_(False), tuple(tensor[:1] for tensor in real)
    return flat(network, signature_of(network, one)), real


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", [*CELLS, partial(nn.RNNCell, nonlinearity="relu")])
def test_the_parts_of_a_cell_compute_the_same(cell: Callable[..., nn.Module], bias: bool) -> None:
    torch.manual_seed(0)
    whole, x, hidden = cell(6, 8, bias=bias), torch.randn(5, 6), torch.randn(5, 8)
    for state in (None, (hidden, torch.randn(5, 8)) if isinstance(whole, nn.LSTMCell) else hidden):
        with CellsInParts():
            parts = whole(x, state)
        torch.testing.assert_close(parts, whole(x, state))


@pytest.mark.parametrize("cell", CELLS)
def test_the_weights_of_a_cell_are_int8(cell: Cell) -> None:
    network, real = stepping(cell)
    found = {layer.weight.rpartition(".")[2] for layer in quantize(network, real).layers}
    assert found == {"weight_ih", "weight_hh", "weight"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (nn.LSTMCell, "onnx"),
        (nn.GRUCell, "executorch"),
        (nn.LSTMCell, "coreml"),
        (nn.RNNCell, "onnx"),
        (nn.LSTMCell, "executorch"),
        pytest.param(nn.LSTMCell, "litert", marks=pytest.mark.needs("litert")),
    ],
)
def test_a_step_of_a_stream_is_its_file(cell: Cell, name: str, tmp_path: Path) -> None:
    network, real = stepping(cell)
    one = tuple(tensor[:1] for tensor in real)
    shipped, target = deployable(network, one), load(name, "w8a8").calibrated(real)
    path = tmp_path / f"net{target.suffix}"
    target.write(shipped, one, path, pack=True)
    parity = compare(target, path, network, shipped, real).parity
    assert parity.relative is not None
    assert parity.relative < 0.05
    assert parity.weights_equal


@pytest.mark.slow
@pytest.mark.needs("litert")
def test_a_sequence_whose_bias_is_read_in_two_shapes_is_its_litert_file(tmp_path: Path) -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.steps, self.last = nn.Linear(6, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.last(self.steps(self.first(x).relu())[0][:, -1])
            return scores

    torch.manual_seed(0)
    network, real = Reading().eval().requires_grad_(False), (torch.randn(32, 5, 6),)
    one = (real[0][:1],)
    shipped, target = deployable(network, one), load("litert", "w8a8").calibrated(real)
    target.write(shipped, one, tmp_path / "net.tflite", pack=True)
    assert compare(target, tmp_path / "net.tflite", network, shipped, real).parity.weights_equal
