"""Operations of the interpreter against Core ML's own definition of them: coremltools' `value_inference`, in NumPy."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dwindle.errors import RuntimeUnavailable
from dwindle.export.coreml import mil_ops
from dwindle.export.coreml.mil_ops import OPERATIONS
from dwindle.export.coreml.mil_shapes import counted_from_zero
from dwindle.export.coreml.mil_unproven import UNDEFINED

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 3, 4, 5)).astype(np.float32)
Y = RANDOM.standard_normal((2, 1, 4, 5)).astype(np.float32)
UNIT = np.tanh(X).astype(np.float32)
WHOLE = RANDOM.integers(-3, 4, (3, 4)).astype(np.int32)
CHANNELS = np.array([0.1, 0.2, 0.3], np.float32)
YES, NO = X > 0, Y > 0

INFERRED: dict[str, dict[str, Any]] = {
    **{name: {"x": X} for name in ("abs", "atan", "ceil", "cosh", "exp2", "round", "sign", "sinh", "square", "tan")},
    **{name: {"x": UNIT} for name in ("acos", "asin", "atanh")},
    **{name: {"x": X, "y": Y} for name in ("floor_div", "mod", "maximum", "real_div")},
    **{name: {"x": YES, "y": NO} for name in ("logical_or", "logical_xor", "logical_and")},
    **{
        name: {"x": abs(X) + 0.1, "axes": [1, -1], "keep_dims": True}
        for name in (
            "reduce_prod",
            "reduce_l1_norm",
            "reduce_sum_square",
            "reduce_log_sum",
            "reduce_log_sum_exp",
            "reduce_mean",
        )
    },
    **{name: {"x": X, "axis": 1, "keep_dims": False} for name in ("reduce_argmax", "reduce_argmin")},
    "threshold": {"x": X, "alpha": np.float32(0.2)},
    "log": {"x": abs(X), "epsilon": np.float32(0.1)},
    "prelu": {"x": X, "alpha": CHANNELS},
    "softplus_parametric": {"x": X, "alpha": CHANNELS, "beta": CHANNELS},
    "clamped_relu": {"x": X, "alpha": np.float32(0.3), "beta": np.float32(0.5)},
    "linear_activation": {"x": X, "alpha": np.float32(0.3), "beta": np.float32(0.5)},
    "scaled_tanh": {"x": X, "alpha": np.float32(0.3), "beta": np.float32(0.5)},
    "softsign": {"x": X},
    "band_part": {"x": X, "lower": 1, "upper": 0},
    "cumsum": {"x": X, "axis": 1, "reverse": True},
    "fill": {"shape": [2, 3], "value": np.float32(0.5)},
    "identity": {"x": X},
    "range_1d": {"start": 2, "end": 9, "step": 3},
    "argsort": {"x": X, "axis": 1, "ascending": True},
    "topk": {"x": X, "k": 2, "axis": 2},
    "tile": {"x": X, "reps": [1, 2, 1, 3]},
    "slice_by_size": {"x": X, "begin": [0, 1, 2, 0], "size": [-1, 2, 1, 3]},
    "gather": {"x": X, "indices": [[-1, 0], [1, 1]], "axis": 2},
    "gather_along_axis": {"x": WHOLE, "indices": [[0, -1, 2, 1]], "axis": 0},
    "scatter_along_axis": {
        "data": WHOLE,
        "indices": [[2, 0, 1, 2]],
        "updates": np.array([[9, 8, 7, 6]], np.int32),
        "axis": 0,
        "mode": "update",
    },
}
"""Operations by name, each with inputs for which coremltools can infer its value."""

DOCUMENTED: dict[str, tuple[dict[str, Any], Any]] = {
    "crop": ({"x": [[[1, 2, 3], [4, 5, 6]]], "crop_height": [1, 0], "crop_width": [0, 1]}, [[[4, 5]]]),
    "one_hot": (
        {"indices": [1, 0], "one_hot_vector_size": 3, "axis": 0, "on_value": 5, "off_value": 1},
        [[1, 5], [5, 1], [1, 1]],
    ),
    "scatter": (
        {"data": [[1, 2, 3], [4, 5, 6]], "indices": [1, 0], "updates": [[5, 6, 7], [8, 9, 10]], "mode": "add"},
        [[9, 11, 13], [9, 11, 13]],
    ),
    "scatter_nd": (
        {"data": [1, 2, 3, 4], "indices": [[2], [0]], "updates": [7, 8], "mode": "update"},
        [8, 2, 7, 4],
    ),
    "gather_nd": ({"x": [[1, 2], [3, 4]], "indices": [[1, 0], [0, 1]]}, [3, 2]),
    "slice_update": (
        {"x": [[1, 2], [3, 4]], "update": [[9], [8]], "begin": [0, 1], "end": [2, 2]},
        [[1, 9], [3, 8]],
    ),
    "shape": ({"x": [[1, 2, 3]]}, [1, 3]),
    "fill_like": ({"ref_tensor": [[1, 2]], "value": 4}, [[4, 4]]),
    "quantize": ({"input": [0.9, -0.6], "scale": 0.5, "output_dtype": "int8", "zero_point": 1}, [3, 0]),
    "dequantize": ({"input": [3, 0], "scale": 0.5, "zero_point": 1}, [1.0, -0.5]),
    "resize_bilinear": (
        {"x": [[[0.0, 1.0]]], "target_size_height": 1, "target_size_width": 5, "sampling_mode": "OFFSET_CORNERS"},
        [[[0.1, 0.3, 0.5, 0.7, 0.9]]],
    ),
    "resample": (
        {
            "x": [[[[1.0, 2.0], [3.0, 4.0]]]],
            "coordinates": [[[[-1.0, -1.0], [0.0, 0.0], [1.0, -1.0]]]],  # each x, y
            "sampling_mode": "bilinear",
            "padding_mode": "constant",
            "padding_value": 0.0,
            "coordinates_mode": "normalized_minus_one_to_one",
            "align_corners": True,
        },
        [[[[1.0, 2.5, 2.0]]]],
    ),
    "l2_norm": ({"x": [[[3.0, 4.0]]], "epsilon": 0.0}, [[[0.6, 0.8]]]),
    "pixel_unshuffle": ({"x": [[[[1, 2], [3, 4]]]], "downscale_factor": 2}, [[[[1]], [[2]], [[3]], [[4]]]]),
    "local_response_norm": (
        {"x": [[[2.0], [1.0]]], "size": 3, "alpha": 3.0, "beta": 1.0, "k": 1.0},
        [[[2 / 6], [1 / 6]]],
    ),
    "rnn": (
        {
            "x": [[[1.0]], [[2.0]]],
            "initial_h": [[0.5]],
            "weight_ih": [[1.0]],
            "weight_hh": [[2.0]],
            "activation": "relu",
            "output_sequence": True,
        },
        [[[2.0]], [[6.0]]],
    ),
    "gru": (
        {
            "x": [[[1.0]]],
            "initial_h": [[2.0]],
            "weight_ih": [[1.0], [3.0], [0.0]],
            "weight_hh": [[-1.0], [1.0], [0.5]],
            "recurrent_activation": "linear",
            "activation": "linear",
        },
        [[[2.0]]],  # r = 1 - 2, z = 1, whatever o is
    ),
    "lstm": (
        {
            "x": [[[1.0]]],
            "initial_h": [[2.0]],
            "initial_c": [[5.0]],
            "weight_ih": [[1.0], [2.0], [3.0], [4.0]],  # of i, f, o, z
            "weight_hh": [[0.0], [0.0], [0.0], [0.5]],
            "recurrent_activation": "linear",
            "cell_activation": "linear",
            "activation": "linear",
        },
        [[[45.0]]],  # c = 2 * 5 + 1 * (4 + 1) = 15, h = 3 * c
    ),
}
"""Operations that coremltools infers no value of, each with inputs and what its documentation makes of them."""

TESTED = INFERRED.keys() | DOCUMENTED.keys()


def computed(name: str, given: dict[str, Any]) -> list[np.ndarray]:
    def tensor(value: Any) -> Any:
        found = value if isinstance(value, str) else torch.as_tensor(np.asarray(value))
        if isinstance(found, Tensor):
            return {torch.int32: found.long(), torch.float64: found.float()}.get(found.dtype, found)
        return found

    made = OPERATIONS[name](**{key: tensor(value) for key, value in given.items()})
    return [value.numpy() for value in (made if isinstance(made, tuple) else (made,))]


@pytest.mark.parametrize("name", INFERRED)
def test_it_computes_what_core_ml_defines(name: str) -> None:
    from coremltools.converters.mil.mil import Builder, Function

    with Function({}):
        made = getattr(Builder, name)(**INFERRED[name])
    expected = [value.val for value in (made if isinstance(made, tuple | list) else (made,))]
    for one, other in zip(computed(name, INFERRED[name]), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_it_computes_what_core_ml_documents(name: str) -> None:
    given, expected = DOCUMENTED[name]
    np.testing.assert_allclose(computed(name, given)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "size", "expected"),
    [
        (
            [2, 2],
            (7, 7),
            [[4.0, 7.0, 4.75], [25.0, 28.0, 15.25], [21.25, 22.75, 12.0]],
        ),
        ([2], (7,), [0.5, 3.5, 3.0]),
    ],
)
def test_an_average_counts_what_ceil_mode_adds(kernel: list[int], size: tuple[int, ...], expected: Any) -> None:
    """Measured on Core ML by https://github.com/apple/coremltools/pull/2844."""
    x = np.arange(np.prod(size), dtype=np.float32).reshape(1, 1, *size)
    given = {"x": x, "kernel_sizes": kernel, "strides": [3] * len(kernel), "pad_type": "custom", "ceil_mode": True}
    (made,) = computed("avg_pool", given)
    np.testing.assert_allclose(made[0, 0], expected)


@pytest.mark.parametrize("sides", [[0, 0, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]])
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_core_ml_pads_the_last_two_dimensions_only(sides: list[int], mode: str) -> None:
    """Measured on Core ML by https://github.com/apple/coremltools/pull/2701."""
    with pytest.raises(ValueError, match=mode):
        computed("pad", {"x": X, "pad": sides, "mode": mode})


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("upsample_nearest_neighbor", {"x": X, "scale_factor_height": 1.5, "scale_factor_width": 1.0}),
        ("gru", {**DOCUMENTED["gru"][0], "bias": [1.0, 0.0, 0.0]}),
        ("scatter", {"data": [1, 2], "indices": [0, 0], "updates": [3, 4], "mode": "update"}),
        ("conv", {"x": X, "weight": X, "pad_type": "same", "strides": [2, 2]}),
    ],
)
def test_what_is_not_documented_is_unproven(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(RuntimeUnavailable) as raised:
        computed(name, given)
    assert raised.value.code == "unproven"


def test_from_ios_17_no_index_counts_from_the_end() -> None:
    with pytest.raises(ValueError, match="iOS 17"):
        counted_from_zero(OPERATIONS["gather"])(x=torch.ones(3), indices=torch.tensor([-1]))


def defined() -> dict[str, set[str]]:
    """Where coremltools defines each operation of MIL: the names of modules in `ops.defs`."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    versions = SSAOpRegistry.core_ops.items()
    return {name: {kind.__module__.rpartition(".")[2] for kind in own.values()} for name, own in versions}


def test_each_operation_has_its_source_beside_it() -> None:
    """The comment above its group names the module that defines it."""
    noted, group = {}, set[str]()
    for line in inspect.getsource(mil_ops).splitlines():
        if said := re.search(r"# (\w+)(;.*)?$", line):
            group = {said[1]}
        if entry := re.match(r'\s+"(\w+)":', line):
            noted[entry[1]] = group
    assert noted.keys() == OPERATIONS.keys()
    where = defined()
    assert {name for name, said in noted.items() if said.isdisjoint(where[name])} == set()


def test_all_that_the_converter_of_pytorch_emits_is_known() -> None:
    """Each operation is defined here, or it is said why nothing here can compute it."""
    from coremltools.converters.mil.frontend import torch as frontend

    folder = Path(frontend.__file__).parent
    emitted = {name for path in folder.rglob("*.py") for name in re.findall(r"\bmb\.(\w+)\(", path.read_text())}
    storage = {name for name in defined() if name.startswith("const")}  # which `read` decodes
    assert len(emitted) > 80
    assert (emitted & defined().keys()) - storage <= OPERATIONS.keys() | UNDEFINED.keys()
