"""The forms in which a .mnn file holds a convolution's weights: dense, or with their zeros left out.

Linear layers are convolutions of 1×1 to MNN. `Convolution2D` of the schema, `IDSTEncoder.hpp` and
`ConvolutionCommon.cpp` of MNN's sources define the forms:

- dense fp32 (`weight`), fp16 (type 3), or int8 codes with a scale per output channel (type 1)
- int8 codes in which each survivor follows the distance from the one before it (type 2); computed densely
- fp32 survivors and the place of each (`index`), computed by sparse kernels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwindle.export.mnn.flat import Table
from dwindle.export.quantize import SCALES, Stored

Array = NDArray[Any]

CONVOLUTION, DEPTHWISE = 12, 13
"""The schema's OpType of those layers whose weights have other forms than dense fp32."""
BLOCKS = (16, 8, 4, 2, 1)
"""Output channels that MNN's sparse kernels can compute together. Those of ARM compute four, or one."""
Thresholds = Mapping[int, float]
"""The share of zeros beyond which a layer is computed faster sparsely, by block; empty: it never is."""
THRESHOLDS: Thresholds = {1: 0.6, 2: 0.5, 4: 0.3, 8: 0.3, 16: 0.3}
"""MNN's own."""
WINOGRAD: Thresholds = {1: 0.84, 2: 0.84, 4: 0.69, 8: 0.69, 16: 0.69}
"""Those of convolutions that MNN computes by Winograd's algorithm where they are dense: where the instructions of a
ResNet-18, between 70 and 90% zeros, are those of the dense file (studies/sparse/mnn.md)."""
_EXTRA = 1.5
"""How many weights a block's kernel may multiply for one that survives before a smaller block is better: a kernel of
four channels executes about half the instructions per weight of one that computes a single channel."""
_TABLES = 160
"""Bytes that the numbers of a sparse layer take, about."""
_FP16, _CODES, _STEPS = 3, 1, 2
_ZERO = 128
"""The byte of the code 0."""


class Written(NamedTuple):
    """The fields of a Convolution2D that hold its weights, and the block that they are computed by; 0: densely."""

    fields: Table
    block: int


def encode(weights: Stored, *, pack: bool, thresholds: Thresholds) -> Written:
    """A layer's weights, of shape (output channels, …), in the form that suits them.

    pack: leave zeros out where that takes fewer bytes and, in fp32 and fp16, no more time. thresholds: the layer's.
    """
    values = weights.values
    if weights.scale is not None:
        return Written(_int8(values, SCALES[weights.scale].astype("<f4").reshape(-1), pack=pack), 0)
    half = values.dtype == np.float16
    fewer = 8 * np.count_nonzero(values) + _TABLES < values.nbytes
    block = best_block(values, thresholds) if pack and fewer else 0
    if block:
        return Written(_survivors(values.astype("<f4"), block), block)
    if half:
        return Written({"quanParameter": {"type": _FP16, "buffer": np.frombuffer(values.tobytes(), "i1")}}, 0)
    return Written({"weight": values.reshape(-1)}, 0)


def best_block(values: Array, thresholds: Thresholds = THRESHOLDS) -> int:
    """The block of output channels by which MNN computes a layer with the least work; 0: densely is faster."""
    nonzero = values.reshape(len(values), -1) != 0
    survivors = max(int(nonzero.sum()), 1)
    for block in (block for block in BLOCKS if block <= len(nonzero) and block in thresholds):
        elements, _ = covered(nonzero, block)
        if elements <= (_EXTRA if block > 1 else 1) * survivors and 1 - elements / nonzero.size > thresholds[block]:
            return block
    return 0


def covered(nonzero: Array, block: int) -> tuple[int, int]:
    """The weights in blocks that are not all zero, and the number of these blocks.

    nonzero: shape (output channels, inputs). The channels left over after the last whole block count one by one.
    """
    whole = len(nonzero) // block * block
    blocks = int(nonzero[:whole].reshape(-1, block, nonzero.shape[1]).any(1).sum())
    rest = int(nonzero[whole:].sum())
    return blocks * block + rest, blocks + rest


def _survivors(values: Array, block: int) -> Table:
    flat = values.reshape(-1)
    places = flat.nonzero()[0]
    places = places if places.size else np.zeros(1, np.int64)  # MNN refuses an empty list
    elements, blocks = covered(values.reshape(len(values), -1) != 0, block)
    numbers = {"NNZElement": elements, "blockNumber": blocks, "sparseBlockKernel": 1, "sparseBlockOC": block}
    return {
        "quanParameter": {"alpha": flat[places], "weightSize": flat.size, "index": places.astype("<u4")},
        # in alphabetical order, by which MNN looks them up
        "sparseParameter": {
            "method": int(block > 1),
            "args": [{"key": key.encode(), "i": number} for key, number in numbers.items()],
        },
    }


def _int8(codes: Array, scales: Array, *, pack: bool) -> Table:
    form, content = _CODES, _shape(codes) + _SAMPLES + (codes.reshape(-1).astype("i2") + _ZERO).astype("u1").tobytes()
    if pack and codes.any():
        shorter = min((_steps(codes, bits) for bits in range(2, 9)), key=len)
        form, content = (_STEPS, shorter) if len(shorter) < len(content) else (form, content)
    wide = max(len(codes), codes[0].size) >= 1 << 16
    return {
        "quanParameter": {
            "type": form, "buffer": np.frombuffer(content, "i1"), "alpha": scales, "aMaxOrBits": 8, "quantScale": 1.0,
            "shapeInt32": int(wide),
        }
    }  # fmt: skip


_SAMPLES = bytes([0]) + np.arange(-128, 128).astype("i1").tobytes()
"""The values that codes stand for: a count, in which 0 is 256, and the values."""


def _shape(codes: Array) -> bytes:
    shape = (len(codes), codes[0].size)
    return bytes([2]) + np.array(shape, "<u4" if max(shape) >= 1 << 16 else "<u2").tobytes()


def _steps(codes: Array, bits: int) -> bytes:
    """The survivors, each with its distance from the one before. Where that is too long for `bits`, zeros stand
    between."""
    flat, longest = codes.reshape(-1), (1 << bits) - 1
    places = flat.nonzero()[0]
    gaps = np.diff(places, prepend=0)
    zeros = np.maximum(gaps - 1, 0) // longest  # before each survivor
    steps = np.full(len(places) + zeros.sum(), longest)
    at = np.cumsum(zeros + 1) - 1
    steps[at] = gaps - zeros * longest
    kept = np.full(len(steps), _ZERO, "u1")
    kept[at] = flat[places].astype("i2") + _ZERO
    distances = np.unpackbits(steps.astype("u1")[:, None], axis=1)[:, 8 - bits :]
    head = np.array(len(steps), "<u4").tobytes() + bytes([bits])
    return _shape(codes) + head + np.packbits(distances).tobytes() + _SAMPLES + kept.tobytes()


def sizes(layer: Table) -> tuple[int, int]:
    """The bytes of a Convolution2D that say which weights survive, and those that say what they are."""
    quantized = layer.get("quanParameter", {})
    held = sum(part.nbytes for part in (layer.get("weight"), quantized.get("alpha")) if part is not None)
    if "index" in quantized:
        return quantized["index"].nbytes, held
    buffer = quantized.get("buffer", np.zeros(0, "i1"))
    mask = 0
    if quantized.get("type") == _STEPS:
        start = 9 if quantized.get("shapeInt32") else 5
        count, bits = np.frombuffer(buffer.tobytes(), "<u4", 1, start)[0], buffer[start + 4]
        mask = -(-int(count) * int(bits) // 8)
    return mask, held + len(buffer) - mask


def decode(layer: Table) -> Array:
    """A Convolution2D's weights as MNN computes with them, flat, in fp32; raises ValueError for a damaged one."""
    quantized = layer.get("quanParameter")
    if quantized is None:
        weights: Array = layer.get("weight", np.zeros(0, "<f4"))
        return weights
    if "index" in quantized:
        places, values, size = quantized["index"], quantized.get("alpha", np.zeros(0)), quantized.get("weightSize", 0)
        if len(places) != len(values) or size > 1 << 31 or (places >= size).any():
            raise ValueError(f"{len(values)} survivors at {len(places)} places do not fit {size} weights")
        whole = np.zeros(size, "<f4")
        whole[places] = values
        return whole
    content = quantized.get("buffer", np.zeros(0, "i1")).tobytes()
    if quantized.get("type") == _FP16:
        return np.frombuffer(content, "<f2").astype("<f4")
    if quantized.get("type") not in (_CODES, _STEPS):
        raise ValueError(f"it has weights of the unknown form {quantized.get('type')}")
    start = 9 if quantized.get("shapeInt32") else 5
    rows, columns = (int(size) for size in np.frombuffer(content, "<u4" if start == 9 else "<u2", 2, 1))
    scales = quantized.get("alpha", np.zeros(0, "<f4"))
    if rows * columns > 1 << 31 or len(scales) != rows:
        raise ValueError(f"{len(scales)} scales do not fit {rows} rows of {columns}")
    codes = np.zeros(rows * columns, "i2")
    if quantized["type"] == _CODES:
        codes[:] = np.frombuffer(content, "u1", offset=start + len(_SAMPLES))
        codes -= _ZERO
    else:
        count, bits = int(np.frombuffer(content, "<u4", 1, start)[0]), content[start + 4]
        if not 0 < bits <= 8 or count > 8 * len(content):
            raise ValueError(f"it has {count} distances of {bits} bits")
        length = -(-count * bits // 8)
        packed = np.frombuffer(content, "u1", length, start + 5)
        steps = np.packbits(
            np.pad(np.unpackbits(packed)[: count * bits].reshape(count, bits), ((0, 0), (8 - bits, 0))), axis=1
        )
        places = np.cumsum(steps.reshape(-1).astype(np.int64))
        if count and places[-1] >= codes.size:
            raise ValueError(f"a weight lies at {places[-1]} of {codes.size}")
        codes[places] = np.frombuffer(content, "u1", count, start + 5 + length + len(_SAMPLES)).astype("i2") - _ZERO
    scaled: Array = codes.astype("<f4").reshape(rows, columns) * scales[:, None]
    return scaled.reshape(-1)
