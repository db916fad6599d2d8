"""The forms that a constant of a Core ML program can take, as the operations that decode them.

Forms and layout are coremltools' own, byte for byte. From iOS 16: a plain `const`, a bit mask and its survivors
(`constexpr_sparse_to_dense`), int8 with a scale per row (`constexpr_affine_dequantize`), a palette
(`constexpr_lut_to_dense`). From iOS 18: int8 and int4 with a scale per block (`constexpr_blockwise_shift_scale`), and
survivors that are codes (`constexpr_sparse_blockwise_shift_scale`, `constexpr_lut_to_sparse`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from dwindle.export.codes import bitmask
from dwindle.export.coreml.blob import INLINE, packed
from dwindle.export.quantize import SCALES, Stored

Array = NDArray[Any]
PLAIN = "dense fp16"


class Step(NamedTuple):
    """An operation of a form. The last one makes the tensor, those before it what that needs."""

    kind: str
    parts: dict[str, Array | str]
    """Its constants, and the outputs of other steps by name."""
    outputs: dict[str, Array]
    """Arrays of the type and shape of what it makes."""


def forms(name: str, array: Array, held: Stored | None, modern: bool, *, pack: bool) -> dict[str, list[Step]]:
    """Every form of a tensor, by what it is in words.

    array: its values, in fp16 where it is a weight. held: its codes, if it has such. modern: for iOS 18. Without
    `pack` no form is one for zeros.
    """
    found = {PLAIN: [Step("const", {"val": array}, {name: array})]}
    if array.size < INLINE:
        return found
    if pack and array.dtype == np.float16:
        found["bitmask + fp16 survivors"] = [_sparse(name, array, modern)]
    if held is None:
        return found
    words = held.kind or "int8"
    if not modern:
        if held.scale is None:
            found[f"dense {words}"] = [_old_palette(name, array, held)]
        elif held.palette is None and held.scale.shape[1] == 1:
            found["dense int8"] = [_affine(name, array, held)]
        return found
    found[f"dense {words}"] = _dense(name, array, held)
    if pack and (held.bits == 8 or np.count_nonzero(held.values) >= INLINE):
        found[f"bitmask + {words} survivors"] = _sparse_codes(name, array, held)
    return found


def _sparse(name: str, array: Array, modern: bool) -> Step:
    alive = _alive(array)
    parts: dict[str, Array | str] = {"nonzero_data": array[alive], "mask": alive}
    if not modern:
        mask, _ = bitmask.encode(alive)
        parts = {"nonzero_data": array[alive], "mask": mask, "shape": np.array(array.shape, np.uint32)}
    return Step("constexpr_sparse_to_dense", parts, {name: array})


def _affine(name: str, array: Array, held: Stored) -> Step:
    scale = SCALES[held.scale].reshape(-1)
    parts: dict[str, Array | str] = {
        "quantized_data": held.values,
        "scale": scale,
        "zero_point": np.zeros(len(scale), np.int8),
        "axis": np.array(0, np.int32),
    }
    return Step("constexpr_affine_dequantize", parts, {name: array})


def _old_palette(name: str, array: Array, held: Stored) -> Step:
    assert held.palette is not None
    indices = packed(held.values.astype(ml_dtypes.uint4))
    parts: dict[str, Array | str] = {
        "indices": indices, "lut": held.palette, "shape": np.array(array.shape, np.uint32),
    }  # fmt: skip
    return Step("constexpr_lut_to_dense", parts, {name: array})


def _dense(name: str, array: Array, held: Stored) -> list[Step]:
    if held.palette is None:
        return [_scaled(name, array, _codes(held), held)]
    # Scales after a dense palette are read wrongly before iOS 26 (coremltools' canonicalize_quantized_lut_pattern).
    rows = held.palette if held.scale is None else held.palette * SCALES[held.scale].reshape(-1, 1)
    lut = rows.reshape(-1, *[1] * (array.ndim - 1), held.palette.size, 1)
    return [Step("constexpr_lut_to_dense", {"indices": _codes(held), "lut": lut}, {name: array})]


def _sparse_codes(name: str, array: Array, held: Stored) -> list[Step]:
    alive = _alive(held.values)
    mask, survivors = f"{name}m", f"{name}v"
    outputs = {mask: alive, survivors: array[alive]}
    if held.palette is None:
        parts: dict[str, Array | str] = {"data_mask": alive, "nonzero_data": _codes(held)[alive]}
        parts["scale"] = SCALES[held.scale]
        first = Step("constexpr_sparse_blockwise_shift_scale", parts, outputs)
    else:
        lut = held.palette.reshape(*[1] * array.ndim, -1, 1)
        parts = {"indices_mask": alive, "indices_nonzero_data": _codes(held)[alive], "lut": lut}
        first = Step("constexpr_lut_to_sparse", parts, outputs)
    scaled = held.palette is not None and held.scale is not None
    made = f"{name}l" if scaled else name
    whole = Step("constexpr_sparse_to_dense", {"nonzero_data": survivors, "mask": mask}, {made: array})
    return [first, whole, _scaled(name, array, made, held)] if scaled else [first, whole]


def _scaled(name: str, array: Array, data: Array | str, held: Stored) -> Step:
    return Step("constexpr_blockwise_shift_scale", {"data": data, "scale": SCALES[held.scale]}, {name: array})


def _codes(held: Stored) -> Array:
    if held.palette is not None:
        return held.values.astype(ml_dtypes.uint4)
    return held.values.astype(ml_dtypes.int4) if held.bits == 4 else held.values


def _alive(array: Array) -> NDArray[np.bool_]:
    alive = np.asarray(array != 0)
    if not alive.any():
        alive.flat[0] = True  # a tensor without elements is legal on paper only: let the first zero survive
    return alive
