"""A layer's shape is read from the text that documents have of it, and nothing else is read as one."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dwindle.price import Shape, shapes_of, tally

WIDTHS = st.integers(1, 4096)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    dims = draw(st.integers(0, 3))
    if not dims:
        return Shape(draw(WIDTHS), draw(WIDTHS), tuple(draw(st.lists(WIDTHS, max_size=2))))
    sides = st.tuples(*[st.integers(1, 9)] * dims)
    size, padding = draw(st.tuples(*[st.integers(1, 64)] * dims)), draw(st.tuples(*[st.integers(0, 4)] * dims))
    kernel, stride, dilation = (draw(sides) for _ in range(3))
    groups = draw(st.sampled_from((1, 2, 8)))
    inputs, outputs = (groups * draw(st.integers(1, 99)) for _ in range(2))
    shape = Shape(inputs, outputs, size, kernel, stride, padding, dilation, groups)
    assume(min(shape.spatial) > 0)
    return shape


@given(shapes())
def test_a_shape_is_read_as_it_was_written(shape: Shape) -> None:
    assert Shape.parse(str(shape)) == shape


@given(st.lists(shapes(), max_size=6))
def test_layers_are_counted_by_their_shape(layers: list[Shape]) -> None:
    held = tally([*layers, *layers])
    assert len(held) <= len(layers)
    assert sorted(map(str, shapes_of(held).elements())) == sorted(map(str, [*layers, *layers]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "64",
        "0>8",
        "8>0",
        "8>8 k3x3",  # of no size
        "8>8 14x14 k3x3 s0x0",
        "8>8 14x14 k3x3 s1",
        "8>8 2x2 k3x3",  # smaller than the kernel
        "8>8 14x14 p1x1",
        "8>8 14x14x14x14 k3x3",
        "8>8 14x14 k3x3 g0",
        "8>8 14x14 s1x1 k3x3",
        "99999999>8",
        "8>8 14x14 k3x3 and more",
        "٣>٣",
    ],
)
def test_nothing_else_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="layer"):
        Shape.parse(text)
