"""Choosing how each tensor of a file is encoded, so that all tensors together take the fewest bytes.

Tensors of one code are packed into one string, so that the graph pays once for each code that is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwindle.export.codes import rice, two_of_four
from dwindle.export.quantize import Stored

Array = NDArray[Any]


_PART = 30
"""About how many bytes of a graph take a tensor out of its string."""


class Code(NamedTuple):
    """How tensors are encoded in a file. Those of one code and one type of value share one call of its function."""

    kind: str
    """`plain` (a tensor by itself), `dense` (all values in one string), `rice` or `pairs` (2:4)."""
    values: str
    """`fp32`, `fp16`, `int8`, `int4`, a palette's name; the dtype's name for tensors that are stored unchanged."""
    bits: int
    """Of a value. A palette's code takes one more than its palette's where zeros, which that lacks, are packed too."""
    k: int = 0
    """The parameter of `rice`; 0 is a bit mask."""
    block: int = 1
    """How many values are pruned together."""


@dataclass(frozen=True)
class Form:
    """A tensor in a code."""

    code: Code
    values: Array
    """All values, in the order in which they are packed: blocks in rows, shape (blocks, block)."""
    positions: NDArray[np.intp]
    """Of the surviving blocks; empty for what isn't sparse."""
    turn: tuple[int, int, int] | None
    """The shape that `values` has before its last two axes are swapped into the tensor's own; None: it is that."""
    size: float
    """Bytes: of mask and survivors, and about what the graph takes for this tensor."""


def forms(tensor: Stored, *, pack: bool, half: bool = False) -> dict[Code, Form]:
    """Every form worth considering for a tensor, by its code. Without `pack`, only those that store zeros.

    half: whether the graph computes with fp16 as it is stored.
    """
    array, values = tensor.values, _values(tensor)
    none = np.zeros(0, np.intp)
    as_read = (np.float32, np.float16) if half else (np.float32,)
    unpacked = (np.int8,) if half else (np.float16, np.int8)
    kind = "plain" if array.dtype not in unpacked or (tensor.axis is not None and not pack) else "dense"
    bits = _bits(tensor, array)
    size = array.size * bits / 8 + _PART * (kind == "dense")
    plain = Form(Code(kind, values, bits), array.reshape(-1, 1), none, None, size)
    found = {plain.code: plain}
    if not pack or (kind == "plain" and (array.dtype not in as_read or not array.ndim or not array.size)):
        return found
    for turn, block, flat in _orders(array):
        blocks = flat.reshape(-1, block)
        alive = _any(blocks)
        positions = np.flatnonzero(alive)
        bits = _bits(tensor, blocks[positions])
        payload = positions.size * block * bits / 8
        for k, mask in enumerate(rice.bits(positions)):
            form = Form(Code("rice", values, bits, k, block), blocks, positions, turn, payload + mask / 8 + _PART)
            if form.code not in found or form.size < found[form.code].size:
                found[form.code] = form
    if pairs := _pairs(tensor):
        found[pairs.code] = pairs
    return found


def choose(tensors: Mapping[str, Mapping[Code, Form]], overhead: Callable[[frozenset[Code]], int]) -> dict[str, Form]:
    """A form for each tensor, so that all take about the fewest bytes.

    overhead: what the graph takes for codes that are used. Starts with each tensor's smallest form and drops one
    code after the other while that makes the file smaller, the one that saves most first.
    """

    def best(allowed: frozenset[Code]) -> dict[str, Form]:
        return {
            name: min((form for code, form in own.items() if code in allowed), key=lambda form: form.size)
            for name, own in tensors.items()
        }

    def total(plan: Mapping[str, Form]) -> float:
        return sum(form.size for form in plan.values()) + overhead(_codes(plan.values()))

    kept = {code for own in tensors.values() for code in own if code.kind in ("plain", "dense")}
    plan = best(frozenset(code for own in tensors.values() for code in own))
    while True:
        used = _codes(plan.values())
        candidates = [best((used | kept) - {code}) for code in used - kept]
        candidates.append(best(frozenset(kept)))
        smaller = min(candidates, key=total)
        if total(smaller) >= total(plan):
            return plan
        plan = smaller


def _codes(chosen: Iterable[Form]) -> frozenset[Code]:
    return frozenset(form.code for form in chosen)


def _orders(array: Array) -> Iterable[tuple[tuple[int, int, int] | None, int, Array]]:
    """(turn, block, flat): the orders in which a tensor may be packed, and the blocks that survive together in each.

    Blocks are of output channels, at one input channel and kernel position, or of input channels, at one
    output channel and kernel position. A block of four is worth trying only where one of two was.
    """
    yield None, 1, array.reshape(-1)
    if array.ndim < 2:
        return
    out, inner = array.shape[:2]
    survivors = np.count_nonzero(array)
    for axis, length in ((0, out), (1, inner)):
        for block in (2, 4, 8, 16):
            if length % block:
                break
            if axis == 0:
                turned = array.reshape(out // block, block, -1).transpose(0, 2, 1)
            else:
                turned = array.reshape(out, inner, -1).transpose(0, 2, 1)
            flat = turned.reshape(-1)
            if block * np.count_nonzero(_any(flat.reshape(-1, block))) > 1.25 * survivors:
                break
            yield (turned.shape[0], turned.shape[1], turned.shape[2]), block, flat


def _any(blocks: Array) -> NDArray[np.bool_]:
    """Which rows aren't zero throughout. Column by column: numpy takes ten times as long along short rows."""
    alive = blocks[:, 0] != 0
    for column in blocks.T[1:]:
        alive |= column != 0
    return np.asarray(alive)


def _values(tensor: Stored) -> str:
    return tensor.kind or {"float32": "fp32", "float16": "fp16"}.get(tensor.values.dtype.name, tensor.values.dtype.name)


def _bits(tensor: Stored, packed: Array) -> int:
    """How many bits each of the packed values takes."""
    outside = tensor.palette is not None and tensor.bits < 4
    return tensor.bits + (outside and not packed.all())


def _pairs(tensor: Stored) -> Form | None:
    array = tensor.values
    if array.ndim < 2 or array.shape[1] % 4:
        return None
    turned = array.reshape(*array.shape[:2], -1).transpose(0, 2, 1)
    groups = turned.reshape(-1, 4)
    if not two_of_four.fits(groups != 0):
        return None
    codes, positions = two_of_four.encode(groups != 0)
    bits = _bits(tensor, groups.reshape(-1)[positions])
    size = codes.size + positions.size * bits / 8 + _PART
    return Form(
        Code("pairs", _values(tensor), bits),
        groups.reshape(-1, 1),
        positions,
        (turned.shape[0], turned.shape[1], turned.shape[2]),
        size,
    )
