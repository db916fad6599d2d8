"""The forms that a constant of a Core ML program can take, as the operations that decode them.

Forms and layout are the same as coremltools writes, byte for byte. From iOS 16: a plain `const`, a bit mask and its
survivors (`constexpr_sparse_to_dense`), int8 with a scale per row (`constexpr_affine_dequantize`), a palette
(`constexpr_lut_to_dense`). From iOS 18: int8 and int4 with a scale per block (`constexpr_blockwise_shift_scale`), and
survivors that are codes (`constexpr_sparse_blockwise_shift_scale`, `constexpr_lut_to_sparse`), palettes of 3, 2 and 1
bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from dwindle.export.codes import bitmask
from dwindle.export.coreml.blob import INLINE, Codes, packed
from dwindle.export.quantize import SCALES, Stored

Array = NDArray[Any]
Parts = dict[str, Array | Codes | str]
PLAIN = "dense {}"


class Step(NamedTuple):
    """An operation of a form. The last one of a form makes the tensor, and those before it what the last one reads."""

    kind: str
    parts: Parts
    """Its constants, and the outputs of other steps by name."""
    outputs: dict[str, Array]
    """For each output, by name, an array of its type and shape."""


def forms(
    name: str, array: Array, stored: Stored | None, modern: bool, *, pack: bool, computed: bool = False
) -> dict[str, list[Step]]:
    """Every form of a tensor, by its description in words.

    array: its values; weights are in fp16, or in fp32 where what reads them computes in that. stored: its codes, where
    it has any. modern: for iOS 18. Without `pack` no form packs zeros. computed: codes are what is computed with, so
    that no form without them will do where there is another.
    """
    kind = f"fp{8 * array.dtype.itemsize}"
    found = {PLAIN.format(kind): [Step("const", {"val": array}, {name: array})]}
    if array.size < INLINE:
        return found
    if pack and array.dtype.kind == "f":
        found[f"bitmask + {kind} survivors"] = [_sparse(name, array, modern)]
    if stored is None or array.dtype != np.float16:  # of what computes in fp32, the codes would round once more
        return found
    coded = _coded(name, array, stored, modern, pack=pack)
    return coded if computed and coded else {**found, **coded}


def _coded(name: str, array: Array, stored: Stored, modern: bool, *, pack: bool) -> dict[str, list[Step]]:
    words = stored.kind or "int8"
    if modern:
        found = {f"dense {words}": _dense(name, array, stored)}
        if pack and (stored.bits == 8 or np.count_nonzero(stored.values) >= INLINE):
            found[f"bitmask + {words} survivors"] = _sparse_codes(name, array, stored)
        return found
    if stored.palette is not None and stored.bits < 4:
        return {}
    if stored.scale is None:
        return {f"dense {words}": [_old_palette(name, array, stored)]}
    if stored.palette is None and stored.scale.shape[1] == 1:
        return {"dense int8": [_affine(name, array, stored)]}
    return {}


def _sparse(name: str, array: Array, modern: bool) -> Step:
    alive = _alive(array)
    parts: Parts = {"nonzero_data": array[alive], "mask": alive}
    if not modern:
        mask, _ = bitmask.encode(alive)
        parts = {"nonzero_data": array[alive], "mask": mask, "shape": np.array(array.shape, np.uint32)}
    return Step("constexpr_sparse_to_dense", parts, {name: array})


def _affine(name: str, array: Array, stored: Stored) -> Step:
    scale = SCALES[stored.scale].reshape(-1)
    parts: Parts = {
        "quantized_data": stored.values,
        "scale": scale,
        "zero_point": np.zeros(len(scale), np.int8),
        "axis": np.array(0, np.int32),
    }
    return Step("constexpr_affine_dequantize", parts, {name: array})


def _old_palette(name: str, array: Array, stored: Stored) -> Step:
    assert stored.palette is not None
    indices = packed(stored.values.astype(ml_dtypes.uint4))
    parts: Parts = {
        "indices": indices, "lut": stored.palette, "shape": np.array(array.shape, np.uint32),
    }  # fmt: skip
    return Step("constexpr_lut_to_dense", parts, {name: array})


def _dense(name: str, array: Array, stored: Stored) -> list[Step]:
    if stored.palette is None:
        return [_scaled(name, array, _codes(stored), stored)]
    # Scales after a dense palette are read wrongly before iOS 26 (coremltools' canonicalize_quantized_lut_pattern).
    palette = stored.palette
    codes: Array | Codes = _codes(stored)
    if stored.bits < 4:
        # Without zeros they are left out; with them there is one value too many for the bits.
        if stored.values.all():
            palette, codes = palette[1:], Codes((stored.values - 1).astype(np.uint8), stored.bits)
        else:
            palette = np.pad(palette, (0, (2 << stored.bits) - palette.size))
            whole = stored.values.astype(np.uint8)
            codes = whole.astype(ml_dtypes.uint4) if stored.bits == 3 else Codes(whole, stored.bits + 1)
    rows = palette if stored.scale is None else palette * SCALES[stored.scale].reshape(-1, 1)
    lut = rows.reshape(-1, *[1] * (array.ndim - 1), palette.size, 1)
    return [Step("constexpr_lut_to_dense", {"indices": codes, "lut": lut}, {name: array})]


def _sparse_codes(name: str, array: Array, stored: Stored) -> list[Step]:
    alive = _alive(stored.values)
    mask, survivors = f"{name}m", f"{name}v"
    outputs = {mask: alive, survivors: array[alive]}
    if stored.palette is None:
        parts: Parts = {"data_mask": alive, "nonzero_data": _codes(stored)[alive]}
        parts["scale"] = SCALES[stored.scale]
        first = Step("constexpr_sparse_blockwise_shift_scale", parts, outputs)
    else:
        survivors_codes: Array | Codes = _codes(stored)[alive]
        palette = stored.palette
        if stored.bits < 4:  # zeros are the mask's
            palette, survivors_codes = palette[1:], Codes((stored.values[alive] - 1).astype(np.uint8), stored.bits)
        lut = palette.reshape(*[1] * array.ndim, -1, 1)
        parts = {"indices_mask": alive, "indices_nonzero_data": survivors_codes, "lut": lut}
        first = Step("constexpr_lut_to_sparse", parts, outputs)
    scaled = stored.palette is not None and stored.scale is not None
    made = f"{name}l" if scaled else name
    whole = Step("constexpr_sparse_to_dense", {"nonzero_data": survivors, "mask": mask}, {made: array})
    return [first, whole, _scaled(name, array, made, stored)] if scaled else [first, whole]


def _scaled(name: str, array: Array, data: Array | str, stored: Stored) -> Step:
    return Step("constexpr_blockwise_shift_scale", {"data": data, "scale": SCALES[stored.scale]}, {name: array})


def _codes(stored: Stored) -> Array:
    if stored.palette is not None:
        return stored.values.astype(ml_dtypes.uint4)
    return stored.values.astype(ml_dtypes.int4) if stored.bits == 4 else stored.values


def _alive(array: Array) -> NDArray[np.bool_]:
    alive = np.asarray(array != 0)
    if not alive.any():
        alive.flat[0] = True  # a tensor without elements is legal on paper only: let the first zero survive
    return alive
