"""Rules for ops that move elements: run on the labels themselves."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dwindle.compress.surgery.labels import Labels, along, constants, core, spoiled, varying
from dwindle.compress.surgery.walk import Call, each


def move(labels: Labels, call: Call) -> Any:
    """No arithmetic and no sizes: labels go where elements go."""
    parts = call.activations(labels)
    if not all(part.any() for part in parts):  # a constant beside channels: does the code derive its width from them?
        labels.literal(*parts)
    return call.run(**each(labels.of, call.arguments))


def same(labels: Labels, call: Call) -> Any:
    """Dropout, a cast, a copy."""
    return labels.of(next(iter(call.arguments.values())))


def constant(labels: Labels, call: Call) -> Any:
    """Made from sizes alone."""
    return constants(call.shape)


def reshape(labels: Labels, call: Call) -> Any:
    """To a shape that the code may have written out."""
    x = labels.of(call["self"])
    result = x.reshape(call.shape) if x.numel() == call.shape.numel() else x.expand(call.shape)
    labels.literal(result)
    return result


def repeat(labels: Labels, call: Call) -> Any:
    """So many copies, of channels perhaps."""
    x = labels.of(call["self"])
    labels.literal(x)
    return call.run(self=x)


def shuffle(labels: Labels, call: Call) -> Any:
    """A channel shuffle: what has the same place in each group stays together."""
    x = labels.of(call["self"])
    sheet = labels.channels(x, 1).reshape(call["groups"], -1).abs()
    labels.sheets.append(sheet)
    labels.literal(sheet)
    return call.run(self=x)


def piece(labels: Labels, call: Call) -> Any:
    """Chunk, split, slice, select. Equal pieces of the channels stay equal: what has the same place in each of them
    goes together. Of a list of sizes each is its own; other unequal pieces are kept whole."""
    x = labels.of(call["self"])
    results = call.run(self=x)
    dim = (call["dim"] or 0) % x.dim()
    if dim in varying(x):
        parts = list(results) if isinstance(results, list | tuple) else [results]
        labels.literal(x, *parts)
        labels.literals_of(parts)
        sizes = {part.shape[dim] if part.dim() == x.dim() else 1 for part in parts}
        size, start = sizes.pop(), call["start"] or 0
        if sizes and call["split_sizes"]:
            return results
        if sizes or size == 0 or x.shape[dim] % size or start % size or call["step"] not in (None, 1):
            labels.pin(x, f"{call.op} takes unequal pieces of the channels")
        else:
            _tie_pieces(labels, x, dim, x.shape[dim] // size)
    return results


def glu(labels: Labels, call: Call) -> Any:
    """The first half times the sigmoid of the second."""
    x = labels.of(call["self"])
    dim = call["dim"] % x.dim()
    if dim in varying(x):
        _tie_pieces(labels, x, dim, 2)
    return x.chunk(2, dim)[0]


def _tie_pieces(labels: Labels, x: Tensor, dim: int, pieces: int) -> None:
    labels.merge(core(x).unflatten(dim, (pieces, -1)), dim)


def pick(labels: Labels, call: Call) -> Any:
    """Rows by their numbers, which are kept; channels that are picked so stay where they are."""
    x = labels.of(call["self"])
    indices = call["indices"] or [None] * call["dim"] + [call["index"]]
    for dim, index in enumerate(indices):
        if index is not None:
            labels.pin(labels.of(index), "positions in a table")
            x = _in_place(labels, call, x, dim)
    zeros = [None if index is None else torch.zeros(index.shape, dtype=torch.int64) for index in indices]
    return call.run(self=x, **({"indices": zeros} if call["indices"] else {"index": zeros[-1]}))


def sample(labels: Labels, call: Call) -> Any:
    """Interpolates each channel where a grid says."""
    labels.pin(labels.of(call["grid"]), "a grid to sample at")
    return along(labels.channels(labels.of(call["input"]), 1), call.shape, 1)


def columns(labels: Labels, call: Call) -> Any:
    """Windows of each channel side by side, as torch.nn.Unfold makes them."""
    inputs = labels.channels(labels.of(call["self"]), 1)
    return along(inputs.repeat_interleave(call.shape[1] // len(inputs)), call.shape, 1)


def uncolumns(labels: Labels, call: Call) -> Any:
    """Windows put back into each channel, as torch.nn.Fold does."""
    inputs = labels.channels(labels.of(call["self"]), 1)
    labels.literal(inputs)
    return along(labels.channels(inputs.reshape(call.shape[1], -1), 0), call.shape, 1)


def roll(labels: Labels, call: Call) -> Any:
    """Free within a channel."""
    x = labels.of(call["self"])
    for dim in call["dims"] or range(x.dim()):
        x = _in_place(labels, call, x, dim)
    return x


def _in_place(labels: Labels, call: Call, x: Tensor, dim: int) -> Tensor:
    """Channels along this dimension stay where they are, or, if others vary along another, go together."""
    if varying(x) == [dim % x.dim()]:
        labels.pin(x, f"{call.op} picks channels by number")
    return labels.merge(x, dim).expand(x.shape)


def pad(labels: Labels, call: Call) -> Any:
    """Padding within a channel keeps its label; channels that are added stay."""
    x, amounts = labels.of(call["self"]), call["pad"]
    padded = {x.dim() - 1 - i // 2 for i, amount in enumerate(amounts) if amount}
    with_value = call["mode"] in (None, "constant")
    if padded & set(varying(x)):
        labels.literal(x)
        if not with_value or min(amounts) < 0:
            labels.pin(x, f"{call.op} adds or drops channels by number")
            return labels.fixed(call.shape, f"comes out of {call.op}")
        return F.pad(x, amounts, value=int(labels.fixed((1,), f"added by {call.op}")))
    kept = core(x).expand([x.shape[dim] if dim in varying(x) else size for dim, size in enumerate(call.shape)])
    return spoiled(kept) if with_value and call["value"] else kept


def pool(labels: Labels, call: Call) -> Any:
    """Pooling and resizing, of each channel alone: only the extent of the other dimensions changes."""
    dim = -1 - next(int(letter) for letter in call.op if letter.isdigit())
    inputs = labels.channels(call.activations(labels)[0], dim)
    return [along(inputs, value.shape, dim) for value in call.values]
