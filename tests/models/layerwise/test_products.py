from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dwindle.models.layerwise.products import product

SIZES = st.integers(1, 3)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A convolution of any kind, and inputs for it."""
    transposed, dims, groups = draw(st.booleans()), draw(st.integers(1, 2)), draw(SIZES)
    kernel, stride, dilation = (tuple(draw(SIZES) for _ in range(dims)) for _ in range(3))
    options = {"stride": stride, "dilation": dilation, "groups": groups, "bias": False}
    channels = (groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)))
    layer: nn.Module
    if transposed:
        kinds: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d)
        options["padding"] = tuple(draw(st.integers(0, size - 1)) for size in kernel)
        options["output_padding"] = tuple(
            draw(st.integers(0, max(one, other) - 1)) for one, other in zip(stride, dilation, strict=True)
        )
    else:
        kinds = (nn.Conv1d, nn.Conv2d)
        options["padding"] = tuple(draw(st.integers(0, 2)) for _ in range(dims))
        options["padding_mode"] = draw(st.sampled_from(["zeros", "circular", "reflect"]))
        if draw(st.booleans()):
            options |= {"padding": "same", "stride": 1}
    layer = kinds[dims - 1](*channels, kernel, **options)
    return layer, torch.randn(2, channels[0], *[draw(st.integers(7, 9)) for _ in range(dims)])


@given(convolutions())
@settings(deadline=None)
def test_a_convolution_is_its_matrices_times_what_it_sees(made: tuple[nn.Module, Tensor]) -> None:
    layer, inputs = made
    outputs, matrices = layer(inputs), product(layer)
    assert matrices is not None
    positions = torch.arange(matrices.positions(outputs)).flip(0)
    rows, seen = matrices.rows(layer.weight), matrices.gather_inputs(inputs, positions)
    assert seen.shape == (len(rows), len(positions), matrices.inputs)
    torch.testing.assert_close(
        seen @ rows.transpose(1, 2), matrices.gather_outputs(outputs, positions), rtol=1e-4, atol=1e-5
    )


@given(convolutions())
@settings(deadline=None)
def test_matrices_go_back_to_the_weight_that_they_came_from(made: tuple[nn.Module, Tensor]) -> None:
    matrices = product(made[0])
    assert matrices is not None
    assert torch.equal(matrices.weight(matrices.rows(made[0].weight)), made[0].weight)


def test_a_linear_layer_sees_one_position_per_token() -> None:
    layer = nn.Linear(5, 3, bias=False)
    inputs, matrices = torch.randn(2, 4, 5), product(layer)
    assert matrices is not None
    outputs, positions = layer(inputs), torch.tensor([7, 0])
    assert matrices.positions(outputs) == 8
    assert torch.equal(matrices.gather_inputs(inputs, positions)[0], inputs[[1, 0], [3, 0]])
    assert torch.equal(matrices.gather_outputs(outputs, positions)[0], outputs[[1, 0], [3, 0]])


def test_what_does_not_multiply_by_its_weight_is_no_product() -> None:
    assert product(nn.Embedding(3, 4)) is None
    assert product(nn.BatchNorm1d(3)) is None
    assert product(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))) is None
