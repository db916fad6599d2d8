"""What each op does to labels: a table from op to rule, in `RULES`, and the rules.

An op that is in no table and is not tagged pointwise by torch is not guessed at: what it touches is pinned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from dwindle.compress.labels import Call, Labels, Parameter, Rule, core, spoiled, varying

aten = torch.ops.aten

_NONE = torch.zeros((), dtype=torch.int32)


def rule_of(node: Node) -> Rule:
    """The rule for a node of the trace."""
    target: Any = node.target
    packet = getattr(target, "overloadpacket", None)
    if packet is None:
        return unknown
    if packet in RULES and target._overloadname != "other":  # max.other is the pointwise one
        return RULES[packet]
    return pointwise if torch.Tag.pointwise in target.tags else unknown


def unknown(labels: Labels, call: Call) -> Any:
    """Pins whatever goes in, and what comes out."""
    for value in _activations(labels, call):
        labels.pin(value, f"{call.op} is not an op whose channels can be followed")
    fixed = [labels.fixed(value.shape, f"comes out of {call.op}") for value in call.values]
    return fixed if len(fixed) > 1 else fixed[0]


# --- layers with weights: they bind labels to parameters ---------------------------------------------------------


def convolution(labels: Labels, call: Call) -> Any:
    """Convolutions of every rank, transposed or not, grouped or not.

    A grouped one keeps whole groups, as a depthwise one does: what goes into a group and what comes out of it is one
    class, and `groups` shrinks. Weights are [out, in/groups, ...], transposed ones [in, out/groups, ...].
    """
    x, weight, bias, groups = labels.of(call["input"]), call["weight"], call["bias"], call["groups"]
    if not isinstance(weight, Parameter) or not isinstance(bias, Parameter | None):
        return unknown(labels, call)
    dim = 1 - len(weight.shape)
    transposed = "transpose" in call.op or bool(call["transposed"])
    inputs, width = labels.channels(x, dim), call.shape[dim]
    kernel, positions = math.prod(weight.shape[2:]), call.values[0].numel() // width
    if transposed:
        positions = x.numel() // len(inputs)
    if groups == 1:
        _needs_zero(labels, inputs)
        outputs = labels.fresh(width)
        labels.bind(weight, int(not transposed), inputs, writes=False)
        labels.bind(weight, int(transposed), outputs, writes=True)
        labels.cost(positions * kernel, inputs, outputs)
    else:
        units = labels.channels(inputs.reshape(groups, -1), 0)
        outputs = units.abs().repeat_interleave(width // groups)
        rows = units.abs().repeat_interleave(weight.shape[0] // groups)
        labels.bind(weight, 0, rows, writes=True)
        labels.cost(positions * kernel * weight.shape[1], rows)
    labels.bind(bias, 0, outputs, writes=True)
    _functional(labels, call, inputs, outputs)
    return _along(outputs, call.shape, dim)


def linear(labels: Labels, call: Call) -> Any:
    """y = x Wᵀ + b, weights [out, in]."""
    x, weight, bias = labels.of(call["input"]), call["weight"], call["bias"]
    if not isinstance(weight, Parameter) or not isinstance(bias, Parameter | None):
        return unknown(labels, call)
    inputs, outputs = labels.channels(x, -1), labels.fresh(call.shape[-1])
    _needs_zero(labels, inputs)
    labels.bind(weight, 1, inputs, writes=False)
    labels.bind(weight, 0, outputs, writes=True)
    labels.bind(bias, 0, outputs, writes=True)
    labels.cost(x.numel() // x.shape[-1], inputs, outputs)
    _functional(labels, call, inputs, outputs)
    return _along(outputs, call.shape, -1)


def embedding(labels: Labels, call: Call) -> Any:
    """Rows of a table: its width is made here."""
    if not isinstance(call["weight"], Parameter):
        return unknown(labels, call)
    labels.pin(labels.of(call["indices"]), "positions in a table")
    outputs = labels.fresh(call.shape[-1])
    labels.bind(call["weight"], 1, outputs, writes=True)
    return _along(outputs, call.shape, -1)


def batch_norm(labels: Labels, call: Call) -> Any:
    """Batch and instance norm work on each channel alone. Weight and bias zero make the output zero;
    without them the running mean of a removed channel would stay behind."""
    x, weight, bias = labels.of(call["input"]), call["weight"], call["bias"]
    inputs = labels.channels(x, 1)
    statistics = call["running_mean"], call["running_var"]
    if any(isinstance(value, Tensor) for value in (weight, bias, *statistics)):
        return unknown(labels, call)
    for parameter in (weight, bias):
        labels.bind(parameter, 0, inputs, writes=True)
    for parameter in statistics:
        labels.bind(parameter, 0, inputs, writes=False)
    centred = statistics[0] is not None
    clean = inputs.abs() if weight is not None else -inputs.abs() if centred else inputs
    return _along(clean, call.shape, 1)


def group_norm(labels: Labels, call: Call) -> Any:
    """Statistics over a group of channels: exact as long as whole groups go."""
    x, weight, bias, groups = labels.of(call["input"]), call["weight"], call["bias"], call["num_groups"]
    units = labels.channels(labels.channels(x, 1).reshape(groups, -1), 0).abs()
    units = units.repeat_interleave(x.shape[1] // groups)
    labels.bind(weight, 0, units, writes=True)
    labels.bind(bias, 0, units, writes=True)
    _functional(labels, call, units)
    return _along(units if weight is not None or bias is None else -units, call.shape, 1)


def layer_norm(labels: Labels, call: Call) -> Any:
    """Averages over the last dimensions: a zero there still counts, so the width stays."""
    x, normalized = labels.of(call["input"]), len(call["normalized_shape"])
    if max(varying(x), default=-1) < x.dim() - normalized:
        return spoiled(x)
    labels.pin(x, f"{call.op} averages over its channels")
    return x


def prelu(labels: Labels, call: Call) -> Any:
    """A slope per channel, or one for all."""
    x, weight = labels.of(call["self"]), call["weight"]
    if not isinstance(weight, Parameter):
        return unknown(labels, call)
    if weight.shape.numel() > 1:
        labels.bind(weight, 0, labels.channels(x, 1), writes=False)
    return x


# --- ops that combine elements -----------------------------------------------------------------------------------


def pointwise(labels: Labels, call: Call) -> Any:
    """Elements that meet belong together. Whether the result is zero where a class is masked is found out by
    running the op: zeros for what is masked, arbitrary numbers for what is not."""
    operands = {name: labels.of(value) for name, value in call.arguments.items() if name in call.dtypes}
    operands = {name: value for name, value in operands.items() if isinstance(value, Tensor)}
    merged, signs = _meet(labels, list(operands.values()), call.shape)
    patterns, where = torch.unique(signs.reshape(len(operands), -1), dim=1, return_inverse=True)
    zero = torch.tensor([_stays_zero(call, dict(zip(operands, p.tolist(), strict=True))) for p in patterns.T])
    return torch.where(zero[where].view(merged.shape), merged, -merged).expand(call.shape)


def _meet(labels: Labels, operands: list[Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Ties broadcast operands elementwise. Returns the core of the result's labels, positive, and the sign each
    operand has there, [operands, *core]."""
    padded = [x[(None,) * (len(shape) - x.dim())] for x in operands]
    vary = sorted({dim for x in padded for dim in varying(x)})
    extent = [size if dim in vary else 1 for dim, size in enumerate(shape)]
    cores = []
    for x in padded:
        if not varying(x) and any(x.shape[dim] == 1 for dim in vary):
            labels.pin(x, "one channel used for many")
            x = torch.zeros((1,) * x.dim(), dtype=torch.int32)
        elif any(x.shape[dim] > 1 and not core(x).any() for dim in vary):
            for other in padded:  # a constant as wide as the channels: does the code derive its width from them?
                labels.literal(other)
        cores.append(core(x).expand(extent))
    stack = torch.stack(cores)
    merged = stack.abs().gather(0, (stack != 0).to(torch.int8).argmax(0, keepdim=True))[0]
    labels.tie(merged, *cores)
    return merged, stack.sign()


def _stays_zero(call: Call, sign: dict[str, int]) -> bool:
    """Whether the op gives 0 with 0 for the operands of sign +1, whatever the others are."""
    some = torch.tensor([-2.3, -0.6, 0.4, 1.7])
    probes = {
        name: (torch.zeros(4) if sign[name] > 0 else some).to(call.dtypes[name])
        if call.dtypes[name] != torch.bool
        else torch.tensor([False] * 4 if sign[name] > 0 else [True, False, True, False])
        for name in sign
    }
    try:
        return not call.run(**probes).any()
    except (RuntimeError, TypeError):
        return False


def matmul(labels: Labels, call: Call) -> Any:
    """[..., m, k] by [..., k, n]: a product of everything that meets, summed over k."""
    a, b = (labels.of(value) for value in list(call.arguments.values())[:2])
    return (
        _contract(labels, a.unsqueeze(-1), b.unsqueeze(-3), -2) if min(a.dim(), b.dim()) > 1 else unknown(labels, call)
    )


def _contract(labels: Labels, a: Tensor, b: Tensor, *dims: int) -> Tensor:
    shape = torch.broadcast_shapes(a.shape, b.shape)
    merged, signs = _meet(labels, [a, b], shape)
    product = torch.where((signs > 0).any(0), merged, -merged)
    labels.cost(math.prod(shape) / merged.numel(), merged)
    return _sum(labels, product.expand(shape), dims)


def einsum(labels: Labels, call: Call) -> Any:
    """Two operands, each letter once in each: the general contraction."""
    inputs, arrow, output = call["equation"].replace(" ", "").partition("->")
    terms, operands = inputs.split(","), [labels.of(value) for value in call["tensors"]]
    if not arrow or len(terms) != 2 or any("." in t or len(set(t)) < len(t) for t in terms):
        return unknown(labels, call)
    letters = output + "".join(sorted(set(terms[0] + terms[1]) - set(output)))
    spread = [
        x.permute([t.index(c) for c in letters if c in t])[tuple(slice(None) if c in t else None for c in letters)]
        for t, x in zip(terms, operands, strict=True)
    ]
    return _contract(labels, *spread, *range(len(output), len(letters)))


def attention(labels: Labels, call: Call) -> Any:
    """softmax(q kᵀ · scale) v, [..., heads, length, width]: whole heads can go. The default scale depends on the
    width of a head, so that stays."""
    q, k, v, mask = (labels.of(call[name]) for name in ("query", "key", "value", "attn_mask"))
    if call["enable_gqa"] or q.dim() < 3:
        return unknown(labels, call)
    for x in (q, k, v):
        if varying(x) == [x.dim() - 1]:
            labels.pin(x, "the width of a head sets the scale of attention")
    q, k, v = (_whole(labels, x, x.dim() - 1) for x in (q, k, v))
    scores = _contract(labels, q.unsqueeze(-2), k.unsqueeze(-3), -1)
    if mask is not None:
        merged, _ = _meet(labels, [scores, mask], scores.shape)
        scores = merged.expand(scores.shape)
    return _contract(labels, spoiled(scores).unsqueeze(-1), v.unsqueeze(-3), -2)


# --- reductions --------------------------------------------------------------------------------------------------


def total(labels: Labels, call: Call) -> Any:
    """A sum, which removed zeros do not change."""
    return _sum(labels, labels.of(call["self"]), _dims(call), keep=bool(call["keepdim"]))


def statistic(labels: Labels, call: Call) -> Any:
    """Mean, maximum and the like: fine within a channel, wrong across channels, where removed zeros count."""
    why = f"{call.op} over the channels"
    result = _sum(labels, labels.of(call["self"]), _dims(call), keep=bool(call["keepdim"]), inexact=why)
    return [result] * len(call.values) if len(call.values) > 1 else result


def softmax(labels: Labels, call: Call) -> Any:
    """Of zeros within a channel it makes other constants; across channels it changes the others."""
    x = labels.of(call["self"])
    if call["dim"] % x.dim() not in varying(x):
        return spoiled(x)
    labels.pin(x, f"{call.op} over the channels")
    return x


def _sum(labels: Labels, x: Tensor, dims: Iterable[int], *, keep: bool = False, inexact: str = "") -> Tensor:
    """Labels of the sum. Summing all channels away leaves a constant; where a head's features are summed and the
    heads stay apart, the features of a head become one class."""
    for dim in sorted((dim % x.dim() for dim in dims), reverse=True):
        if varying(x) == [dim]:
            if inexact:
                labels.pin(x, inexact)
            _needs_zero(labels, x)
            x = torch.zeros((1,) * x.dim(), dtype=torch.int32).expand(x.shape)
        x = _whole(labels, x, dim)
        x = x.narrow(dim, 0, 1) if keep else x.select(dim, 0)
    return x


# --- ops that move elements: run on the labels -------------------------------------------------------------------


def move(labels: Labels, call: Call) -> Any:
    """No arithmetic and no sizes: the labels go where the elements go."""
    operands = {name: _each(labels.of, value) for name, value in call.arguments.items()}
    parts = _activations(labels, call)
    if len(parts) > 1 and not all(part.any() for part in parts):
        for part in parts:  # a constant beside channels: does the code derive its width from them?
            labels.literal(part)
    return call.run(**operands)


def reshape(labels: Labels, call: Call) -> Any:
    """Data in a shape that the code may have written out."""
    x = labels.of(call["self"])
    result = x.reshape(call.shape) if x.numel() == call.shape.numel() else x.expand(call.shape)
    labels.literal(result)
    return result


def repeat(labels: Labels, call: Call) -> Any:
    x = labels.of(call["self"])
    labels.literal(x)
    return call.run(self=x)


def same(labels: Labels, call: Call) -> Any:
    """Dropout, a cast, a copy."""
    return labels.of(next(iter(call.arguments.values())))


def constant(labels: Labels, call: Call) -> Any:
    """Made from sizes alone."""
    return torch.zeros((1,) * len(call.shape), dtype=torch.int32).expand(call.shape)


def pool(labels: Labels, call: Call) -> Any:
    """Pooling and resizing, of each channel alone: only the extent of the other dimensions changes."""
    dim = -1 - next(int(letter) for letter in call.op if letter.isdigit())
    inputs = labels.channels(_activations(labels, call)[0], dim)
    results = [_along(inputs, value.shape, dim) for value in call.values]
    return results if len(results) > 1 else results[0]


def pad(labels: Labels, call: Call) -> Any:
    """Padding within a channel keeps its label; channels that are added stay."""
    x, amounts = labels.of(call["self"]), call["pad"]
    dims = {x.dim() - 1 - i // 2 for i, amount in enumerate(amounts) if amount}
    constant_mode = call["mode"] in (None, "constant")
    if dims & set(varying(x)):
        labels.literal(x)
        if not constant_mode or min(amounts) < 0:
            labels.pin(x, f"{call.op} adds or drops channels by number")
            return labels.fixed(call.shape, f"comes out of {call.op}")
        added = labels.fixed((1,), f"added by {call.op}")
        return torch.nn.functional.pad(x, amounts, value=int(added))
    widened = core(x).expand(
        [s if dim in varying(x) else n for dim, (s, n) in enumerate(zip(x.shape, call.shape, strict=True))]
    )
    return spoiled(widened) if constant_mode and call["value"] else widened


def shuffle(labels: Labels, call: Call) -> Any:
    """Channel shuffle: the same channels of every group stay together."""
    x = labels.of(call["self"])
    labels.sheets.append(labels.channels(x, 1).reshape(call["groups"], -1).abs())
    return call.run()


def piece(labels: Labels, call: Call) -> Any:
    """Chunk, split, slice, select. Equal pieces of the channels stay equal: what is at the same place in each of them
    goes together. Unequal ones are kept whole."""
    x = labels.of(call["self"])
    results = call.run(self=x)
    dim = (call["dim"] or 0) % x.dim()
    if dim in varying(x):
        labels.literal(x)
        extents = {1 if part.dim() < x.dim() else part.shape[dim] for part in _list(results)}
        size, start = extents.pop(), call["start"] or 0
        if extents or size == 0 or x.shape[dim] % size or start % size or call["step"] not in (None, 1):
            labels.pin(x, f"{call.op} takes unequal pieces of the channels")
        elif size < x.shape[dim]:
            rows = core(x).movedim(dim, 0)
            rows = rows.reshape(-1, size, *rows.shape[1:])
            labels.tie(rows[:1], rows)
    return results


def pick(labels: Labels, call: Call) -> Any:
    """Index, roll: free within a channel; a channel that is picked by number has to stay where it is."""
    x = labels.of(call["self"])
    indices = call["indices"] or ([] if call["index"] is None else [call["index"]])
    dims = (
        [dim for dim, index in enumerate(indices) if index is not None]
        if call["indices"]
        else call["dims"] or call["dim"]
    )
    dims = [dim % x.dim() for dim in _list(dims)] or list(range(x.dim()))
    for dim in dims:
        if varying(x) == [dim]:
            labels.pin(x, f"{call.op} picks channels by number")
        x = _whole(labels, x, dim)
    if not indices:
        return x
    for index in indices:
        labels.pin(_NONE if index is None else labels.of(index), "positions in a table")
    zeros = [None if index is None else torch.zeros(index.shape, dtype=torch.int64) for index in indices]
    return call.run(self=x, **({"indices": zeros} if call["indices"] else {"index": zeros[0]}))


# --- small things ------------------------------------------------------------------------------------------------


def _along(row: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """A label per channel, as an activation."""
    return row.view([-1 if d == dim % len(shape) else 1 for d in range(len(shape))]).expand(shape)


def _whole(labels: Labels, x: Tensor, dim: int) -> Tensor:
    """Ties what varies along `dim`, so that one label stands for all of it."""
    if dim not in varying(x):
        return x
    first = core(x).narrow(dim, 0, 1)
    labels.tie(first, core(x))
    return first.expand([s if d in varying(x) and d != dim else 1 for d, s in enumerate(x.shape)]).expand(x.shape)


def _needs_zero(labels: Labels, x: Tensor) -> None:
    labels.pin(x.clamp(max=0), "a removed channel would leave a constant other than zero (a sigmoid, say)")


def _functional(labels: Labels, call: Call, *channels: Tensor) -> None:
    """torch's own layers read their sizes from attributes, which a cut adapts; code that calls the function itself
    may check or compute sizes of its own."""
    if not call.owner.startswith(("torch.nn.modules.conv.", "torch.nn.modules.linear.", "torch.nn.modules.normal")):
        for labelled in channels:
            labels.literal(labelled)


def _activations(labels: Labels, call: Call) -> list[Tensor]:
    found: list[Tensor] = []
    for value in call.arguments.values():
        _each(lambda v: found.append(labels.of(v)) if isinstance(v, Tensor | Parameter) else None, value)
    return found


def _each(function: Any, value: Any) -> Any:
    return [_each(function, item) for item in value] if isinstance(value, list) else function(value)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _dims(call: Call) -> list[int]:
    return _list(call["dim"]) or list(range(len(call["self"].shape)))


def _table(**rules: tuple[Rule, str]) -> dict[Any, Rule]:
    return {
        getattr(aten, name): rule for rule, names in rules.values() for name in names.split() if hasattr(aten, name)
    }


RULES: dict[Any, Rule] = _table(
    convolution=(convolution, "conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d"),
    linear=(linear, "linear"),
    embedding=(embedding, "embedding"),
    batch_norm=(batch_norm, "batch_norm instance_norm"),
    group_norm=(group_norm, "group_norm"),
    layer_norm=(layer_norm, "layer_norm rms_norm"),
    prelu=(prelu, "prelu"),
    pointwise=(
        pointwise,
        "where masked_fill masked_fill_ copy_ fill_ hardswish_ rsub floor_divide square clamp clip clamp_min clamp_max"
        " type_as zeros_like ones_like full_like rand_like randn_like empty_like",
    ),
    matmul=(matmul, "matmul bmm mm"),
    einsum=(einsum, "einsum"),
    attention=(attention, "scaled_dot_product_attention"),
    total=(total, "sum"),
    statistic=(statistic, "mean amax amin max min var std norm linalg_vector_norm prod"),
    softmax=(softmax, "softmax log_softmax _softmax _log_softmax"),
    pool=(
        pool,
        "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d"
        " adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d"
        " upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d"
        " upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_nearest_exact2d",
    ),
    move=(
        move,
        "permute transpose transpose_ t movedim moveaxis swapaxes swapdims numpy_T mT squeeze squeeze_ unsqueeze"
        " unsqueeze_ flatten cat concat stack flip pixel_shuffle pixel_unshuffle atleast_2d",
    ),
    reshape=(reshape, "view reshape _unsafe_view unflatten view_as reshape_as expand expand_as broadcast_to"),
    repeat=(repeat, "repeat tile repeat_interleave"),
    same=(
        same,
        "dropout dropout_ feature_dropout alpha_dropout contiguous clone alias detach detach_ to _to_copy"
        " lift_fresh_copy resolve_conj resolve_neg",
    ),
    constant=(
        constant,
        "zeros ones full empty arange eye linspace scalar_tensor new_zeros new_ones new_full new_empty rand randn",
    ),
    pad=(pad, "pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"),
    shuffle=(shuffle, "channel_shuffle native_channel_shuffle"),
    piece=(piece, "chunk split split_with_sizes unbind slice narrow select"),
    pick=(pick, "index index_select roll"),
)
