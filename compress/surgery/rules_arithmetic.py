"""Rules for ops that combine elements: labels that meet are tied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dwindle.compress.surgery.labels import Labels, Parameter, compact, constants, core, spoiled, varying
from dwindle.compress.surgery.rules_layers import transposed_linear
from dwindle.compress.surgery.walk import Call, unknown


def pointwise(labels: Labels, call: Call) -> Any:
    """Elements that meet belong together. Whether the result is zero where a class is silenced is found out by running
    the op: on zeros for what is silenced, and on arbitrary numbers for what is not."""
    given = {name: value for name, value in call.arguments.items() if name in call.dtypes}
    if call.op == "type_as":  # its other operand tells nothing but a type
        given.pop("other", None)
    operands = {name: labels.of(value) for name, value in given.items()}
    merged, signs = _meet(labels, list(operands.values()), call.shape)
    patterns, which = torch.unique(signs.reshape(len(operands), -1), dim=1, return_inverse=True)
    clean = torch.tensor([_gives_zero(call, dict(zip(operands, p.tolist(), strict=True))) for p in patterns.T])
    return torch.where(clean[which].view(merged.shape), merged, -merged).expand(call.shape)


def _gives_zero(call: Call, signs: dict[str, int]) -> bool:
    """Whether the op makes 0 of zeros in the operands of sign +1, whatever the others are."""
    numbers = torch.tensor([-2.3, -0.6, 0.4, 1.7])
    whole = torch.tensor([-2, -1, 1, 2])
    probes = {}
    for name, sign in signs.items():
        dtype = call.dtypes[name]
        some = numbers > 0 if dtype == torch.bool else numbers if dtype.is_floating_point else whole
        probes[name] = (torch.zeros(4) if sign > 0 else some).to(dtype)
    try:
        return not call.run(**probes).any()
    except (RuntimeError, TypeError):
        return False


def _meet(labels: Labels, operands: Sequence[Tensor], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Ties operands elementwise, broadcast to `shape`. Returns the core of the result's labels, positive, and the sign
    that each operand has there, [operands, *core]."""
    operands = [x[(None,) * (len(shape) - x.dim())] for x in operands]
    dims = {dim for x in operands for dim in varying(x)}
    extent = [size if dim in dims else 1 for dim, size in enumerate(shape)]
    cores = []
    for x in operands:
        elsewhere = {dim for other in operands if other is not x for dim in varying(other)}
        if labels.is_leaf(x) and elsewhere and all(x.shape[dim] == 1 for dim in elsewhere):
            labels.pin(x, "has no channel in it")  # a causal mask, a window
            x = constants(x.shape)
        if not varying(x) and any(x.shape[dim] == 1 for dim in dims):
            labels.pin(x, "one channel used for many")
            x = constants(x.shape)
        elif any(x.shape[dim] > 1 for dim in dims) and not core(x).any():
            labels.literal(*operands)  # a constant as wide as the channels: does the code derive its width from them?
        cores.append(core(x).expand(extent))
    stack = torch.stack(cores)
    # The result takes its labels from the operand that varies least: a bias rather than a map of positions.
    order = sorted(range(len(operands)), key=lambda i: core(operands[i]).numel())
    first = (stack[order] != 0).to(torch.int8).argmax(0, keepdim=True)
    merged = stack[order].abs().gather(0, first)[0]
    labels.tie(merged, *cores)
    for x in cores:
        if x.any():
            labels.pin_where_constant(merged, x)
    return merged, stack.sign()


def matmul(labels: Labels, call: Call) -> Any:
    """[..., m, k] by [..., k, n]: a product of everything that meets, summed over k. A matrix of the model's own on the
    right is a linear layer's, the other way round."""
    first, second = list(call.arguments.values())[:2]
    return _product(labels, call, first, second)


def added_matmul(labels: Labels, call: Call) -> Any:
    """A product, added to something: as `addmm` is a linear layer with its bias in GPT-2's Conv1D."""
    start, first, second = list(call.arguments.values())[:3]
    if isinstance(start, Parameter) and len(start.shape) == 1 and _is_layer(first, second):
        return transposed_linear(labels, call, first, second, start)
    merged, signs = _meet(labels, [labels.of(start), _product(labels, call, first, second)], call.shape)
    return torch.where((signs >= 0).all(0), merged, -merged).expand(call.shape)


def _is_layer(first: Any, second: Any) -> bool:
    """Whether a product is that of an activation and a matrix of the model's own."""
    return isinstance(first, Tensor) and first.dim() > 1 and isinstance(second, Parameter) and len(second.shape) == 2


def _product(labels: Labels, call: Call, first: Any, second: Any) -> Tensor:
    if _is_layer(first, second):
        return transposed_linear(labels, call, first, second, None)
    a, b = labels.of(first), labels.of(second)
    vectors = [dim for dim, x in ((-2, a), (-1, b)) if x.dim() == 1]
    a, b = a.unsqueeze(0) if a.dim() == 1 else a, b.unsqueeze(1) if b.dim() == 1 else b
    result = _contract(labels, a.unsqueeze(-1), b.unsqueeze(-3), -2)
    for dim in vectors:
        result = result.squeeze(dim)
    return result


def einsum(labels: Labels, call: Call) -> Any:
    """Two operands, each letter at most once in each: the general contraction."""
    inputs, arrow, output = call["equation"].replace(" ", "").partition("->")
    terms, operands = inputs.split(","), call.activations(labels)
    if not arrow or len(terms) != 2 or any("." in term or len(set(term)) < len(term) for term in terms):
        return unknown(labels, call)
    letters = output + "".join(sorted(set(terms[0] + terms[1]) - set(output)))
    a, b = (
        x.permute([t.index(c) for c in letters if c in t])[tuple(slice(None) if c in t else None for c in letters)]
        for t, x in zip(terms, operands, strict=True)
    )
    return _contract(labels, a, b, *range(len(output), len(letters)))


def attention(labels: Labels, call: Call) -> Any:
    """softmax(q kᵀ · scale) v, each [..., heads, length, width]: whole heads can go. The default scale depends on the
    width of a head, so that stays."""
    q, k, v, mask = (labels.of(call[name]) for name in ("query", "key", "value", "attn_mask"))
    if call["enable_gqa"] or q.dim() < 3:
        return unknown(labels, call)
    for x in (q, k, v):
        if varying(x) == [x.dim() - 1]:
            labels.pin(x, "the width of a head sets the scale of attention")
    q, k, v = (labels.merge(x, -1).expand(x.shape) for x in (q, k, v))
    scores = _contract(labels, q.unsqueeze(-2), k.unsqueeze(-3), -1)
    if mask is not None:
        scores = _meet(labels, [scores, mask], scores.shape)[0].expand(scores.shape)
    return _contract(labels, spoiled(scores).unsqueeze(-1), v.unsqueeze(-3), -2)


def _contract(labels: Labels, a: Tensor, b: Tensor, *dims: int) -> Tensor:
    """The sum over `dims` of the product of two operands that broadcast: zero where either is."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    merged, signs = _meet(labels, [a, b], shape)
    labels.cost(math.prod(shape) / merged.numel(), merged)
    return _sum(labels, compact(torch.where((signs > 0).any(0), merged, -merged).expand(shape)), dims)


def total(labels: Labels, call: Call) -> Any:
    """A sum, which removed zeros do not change."""
    x = labels.of(call["self"])
    return _sum(labels, x, _dims(call, x), keep=bool(call["keepdim"]))


def norm(labels: Labels, call: Call) -> Any:
    """Removed zeros change no norm that is a sum of powers or the greatest magnitude."""
    power = next((call[name] for name in ("ord", "p") if call[name] is not None), 2)
    return total(labels, call) if isinstance(power, int | float) and power > 0 else statistic(labels, call)


def log_of_sum(labels: Labels, call: Call) -> Any:
    """Of the exponentials: those of zeros count."""
    return [spoiled(x) for x in statistic(labels, call)]


_AVERAGES = ("mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "logsumexp")
"""Statistics that are a little different with fewer channels. Of the others, some are positions of channels."""


def statistic(labels: Labels, call: Call) -> Any:
    """Mean, maximum and the like: fine within a channel, wrong across channels, where removed zeros count."""
    x = labels.of(call["self"])
    across = partial(labels.pin_inexact if call.op in _AVERAGES else labels.pin, reason=f"{call.op} over the channels")
    return [_sum(labels, x, _dims(call, x), keep=bool(call["keepdim"]), across=across)] * len(call.values)


def softmax(labels: Labels, call: Call) -> Any:
    """Of zeros within a channel it makes other constants; across channels it changes the others. Where channels vary
    along another dimension too, those that share a sum go together, as the splits of radix attention do."""
    x = labels.of(call["self"])
    dim = call["dim"] % x.dim()
    if varying(x) == [dim]:
        labels.pin_inexact(x, f"{call.op} over the channels")
        return spoiled(x)
    return spoiled(labels.merge(x, dim).expand(x.shape))


def _sum(
    labels: Labels,
    x: Tensor,
    dims: Iterable[int],
    *,
    keep: bool = False,
    across: Callable[[Tensor], None] = lambda channels: None,
) -> Tensor:
    """Labels of the sum. `across` is told of channels that are summed away, which leaves a constant; where a head's
    features are summed and the heads stay apart, the features of a head become one class."""
    for dim in sorted((dim % x.dim() for dim in dims), reverse=True):
        shape = [*x.shape[:dim], 1, *x.shape[dim + 1 :]]
        if varying(x) == [dim]:
            across(x)
            labels.pin_spoiled(x)
            x = constants(shape)
        x = labels.merge(x, dim).expand(shape)
        x = x if keep else x.squeeze(dim)
    return x


def _dims(call: Call, x: Tensor) -> list[int]:
    dims = call["dim"]
    return [dims] if isinstance(dims, int) else list(dims or range(x.dim()))
