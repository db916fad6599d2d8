"""MACs against figures worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, library, nn
from torchvision.ops import deform_conv2d

from dwindle.compress.blocks import Blocks
from dwindle.compress.budget import Budget, Solver
from dwindle.compress.macs import count, macs
from dwindle.compress.network import Network
from dwindle.compress.surgery.choice import find_groups
from dwindle.errors import UsageError


def test_layers_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 16, 3, padding=1, groups=4),
        nn.ConvTranspose2d(16, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 64, 10),
    ).train()
    assert macs(model, (torch.randn(1, 3, 8, 8),)) == {
        "0": 16 * 8 * 27,
        "1": 16 * 16 * 2 * 9,
        "2": 16 * 16 * 4 * 4,
        "4": 2560,
    }
    assert model.training


def test_a_forward_that_looks_at_values_is_counted_on_the_sample() -> None:
    class Looks(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else x

    assert macs(Looks(4, 4), (torch.ones(1, 4),)) == {"": 16}
    assert not macs(Looks(4, 4), (-torch.ones(1, 4),))


def test_sizes_kept_as_tensors_are_looked_at() -> None:
    """As the strides of YOLO's detection head are, which make its anchors."""

    class Anchors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.strides = nn.Conv2d(3, 4, 1), torch.tensor([8.0, 16.0])

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * torch.cat([torch.full((2,), float(stride)) for stride in self.strides])

    assert macs(Anchors(), (torch.randn(1, 3, 4, 4),)) == {"conv": 3 * 4 * 16}


def test_a_sample_that_the_model_does_not_take_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        macs(nn.Linear(4, 4), (torch.randn(1, 5),))
    assert (caught.value.code, caught.value.option) == ("bad-model", "model")


def test_the_model_is_left_alone() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.steps = nn.Linear(4, 4), 0
            self.grid: Tensor | None = None
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            self.calls += 1
            self.grid = self.linear(x) if self.grid is None else self.grid
            return self.grid

    model = Keeps().train()
    assert macs(model, (torch.randn(1, 4),)) == {"linear": 16}
    assert model.training
    assert model.grid is None
    assert (model.steps, float(model.calls)) == (0, 0.0)


class Uses(nn.Module):
    """An operator with a matrix of its own."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function, self.matrix = function, nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.matrix, x)


VECTOR, MATRIX, BATCH = torch.randn(8), torch.randn(8, 8), torch.randn(2, 8, 8)
PRODUCTS = {
    "LSTM": (nn.LSTM(8, 6), torch.randn(5, 2, 8), 5 * 2 * 4 * 6 * (8 + 6)),
    "stacked LSTM, both ways": (
        nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True),
        torch.randn(2, 5, 8),
        2 * 5 * 2 * 4 * 6 * ((8 + 6) + (12 + 6)),
    ),
    "projected LSTM": (nn.LSTM(8, 6, proj_size=3), torch.randn(5, 2, 8), 5 * 2 * (4 * 6 * (8 + 3) + 6 * 3)),
    "GRU": (nn.GRU(8, 6), torch.randn(5, 2, 8), 5 * 2 * 3 * 6 * (8 + 6)),
    "RNN": (nn.RNN(8, 6), torch.randn(5, 2, 8), 5 * 2 * 6 * (8 + 6)),
    "LSTMCell": (nn.LSTMCell(8, 6), torch.randn(2, 8), 2 * 4 * 6 * (8 + 6)),
    "GRUCell": (nn.GRUCell(8, 6), torch.randn(2, 8), 2 * 3 * 6 * (8 + 6)),
    "Bilinear": (Uses(lambda m, x: F.bilinear(x, x, m[None])), VECTOR[None], 64),
    "mv": (Uses(lambda m, x: m.mv(x)), VECTOR, 64),
    "matmul by a vector": (Uses(lambda m, x: m @ x), VECTOR, 64),
    "addmv": (Uses(lambda m, x: torch.addmv(x, m, x)), VECTOR, 64),
    "dot": (Uses(lambda m, x: m[0].dot(x)), VECTOR, 8),
    "addmm": (Uses(lambda m, x: torch.addmm(x[0], x, m)), MATRIX, 512),
    "addbmm": (Uses(lambda m, x: torch.addbmm(m, x, x)), BATCH, 2 * 512),
    "baddbmm": (Uses(lambda m, x: torch.baddbmm(m, x, x)), BATCH, 2 * 512),
    "cdist": (Uses(lambda m, x: torch.cdist(x, m)), MATRIX, 512),
    "einsum": (Uses(lambda m, x: torch.einsum("ij,bj->bi", m, x)), MATRIX, 512),
    "tensordot": (Uses(lambda m, x: torch.tensordot(m, x, 1)), MATRIX, 512),
    "attention": (Uses(lambda m, x: F.scaled_dot_product_attention(x, x, x)), BATCH, 2 * 2 * 512),
    "masked attention": (Uses(lambda m, x: F.scaled_dot_product_attention(x, x, x, m)), BATCH, 2 * 2 * 512),
    "causal attention": (
        Uses(lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
        BATCH[None],
        2 * 2 * 512,
    ),
    "grouped-query attention": (
        Uses(lambda m, x: F.scaled_dot_product_attention(x, x[:, :1], x[:, :1], enable_gqa=True)),
        BATCH[None],
        2 * 2 * 512,
    ),
    "deformable convolution": (
        Uses(lambda m, x: deform_conv2d(x, x.new_zeros(1, 18, 6, 6), m[:, :3, None, None].expand(8, 3, 3, 3))),
        torch.randn(1, 3, 8, 8),
        36 * 8 * 27,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_product_is_counted(name: str) -> None:
    model, x, expected = PRODUCTS[name]
    counted = count(model, (x,))
    assert sum(counted.layers.values()) == expected
    assert not counted.uncounted


def test_an_operator_without_a_formula_is_named() -> None:
    @library.custom_op("dwindle_test::twice", mutates_args=())
    def twice(x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight * 2

    @twice.register_fake
    def _(x: Tensor, weight: Tensor) -> Tensor:
        return x.new_empty(x.shape[0], weight.shape[1])

    model = Uses(lambda m, x: torch.ops.dwindle_test.twice(x, m))
    assert count(model, (MATRIX,)).uncounted == ("dwindle_test.twice",)
    network = Network(model, (MATRIX,))
    with pytest.raises(UsageError) as caught:
        Solver(Budget(macs=0.5), Blocks(), lambda model: 1, "onnx").check_feasible(network)
    assert (caught.value.code, caught.value.name) == ("uncounted", "dwindle_test.twice")


def test_a_norm_of_weights_is_no_product() -> None:
    counted = count(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), (torch.randn(1, 4),))
    assert (sum(counted.layers.values()), counted.uncounted) == (32, ())


def test_attention_counts_its_products() -> None:
    layer = nn.TransformerEncoderLayer(24, 6, 20, batch_first=True)
    assert macs(layer, (torch.randn(1, 5, 24),)) == {
        "self_attn": 5 * 24 * 72 + 2 * 5 * 5 * 24 + 5 * 24 * 24,  # the fused call keeps out_proj to itself
        "linear1": 5 * 24 * 20,
        "linear2": 5 * 20 * 24,
    }


@pytest.mark.slow
def test_two_ways_of_counting_agree() -> None:
    """The counter in torch, on a run; ours, on the trace."""
    model, example = torchvision.models.shufflenet_v2_x0_5(), (torch.randn(1, 3, 64, 64),)
    assert sum(macs(model, example).values()) == find_groups(model, example).macs()


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_trace_counts_the_same(name: str) -> None:
    """A budget of MACs is met by what the trace says, and judged by what the counter says."""
    operation, x, expected = PRODUCTS[name]

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.operation, self.up, self.down = operation, nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            output = self.operation(x)
            return (output[0] if isinstance(output, tuple) else output), self.down(self.up(y).relu())

    model, inputs = Beside().eval(), (x, torch.randn(1, 4))
    assert find_groups(model, inputs).macs() == sum(macs(model, inputs).values()) == expected + 48


def test_parameters_that_activations_are_multiplied_by_are_told_by_use() -> None:
    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.matrix = nn.Parameter(torch.randn(6, 3, 3, 3)), nn.Parameter(torch.randn(6, 5))
            self.table, self.left = nn.Parameter(torch.randn(9, 5)), nn.Parameter(torch.randn(4, 5))
            self.tokens, self.gain = nn.Parameter(torch.randn(7, 5)), nn.Parameter(torch.randn(6, 8, 8))
            self.scaled, self.linear = nn.Parameter(torch.randn(5, 5)), nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.conv2d(x, self.kernel, padding=1) * self.gain
            x = torch.einsum("bchw,cd->bd", x, self.matrix)
            x = x + nn.functional.embedding(torch.tensor([2]), self.table) + self.linear(self.tokens).sum(0)
            return self.left @ (x @ (self.scaled * 2)).T

    assert set(count(Uses(), (torch.randn(1, 3, 8, 8),)).kernels) == {
        "kernel", "matrix", "table", "left", "linear.weight",
    }  # fmt: skip
