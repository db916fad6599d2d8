"""Rules for layers with weights: they bind labels to parameters."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from dwindle.compress.surgery.labels import Labels, Parameter, along, spoiled, varying
from dwindle.compress.surgery.walk import Call, unknown


def convolution(labels: Labels, call: Call) -> Any:
    """Convolutions of every rank, transposed or not, grouped or not.

    A grouped one keeps whole groups, as a depthwise one does: what goes into a group and what comes out of it is one
    class, and `groups` shrinks. Weights are [out, in/groups, ...], transposed ones [in, out/groups, ...].
    """
    x, weight, bias, groups = labels.of(call["input"]), call["weight"], call["bias"], call["groups"]
    transposed = "transpose" in call.op or bool(call["transposed"])
    dim = 1 - len(weight.shape)
    width = call.shape[dim]
    positions = x.numel() // x.shape[dim] if transposed else call.values[0].numel() // width
    each = positions * math.prod(weight.shape[2:])
    if not isinstance(weight, Parameter) or not isinstance(bias, Parameter | None):
        return unknown(labels, call)
    inputs = labels.channels(x, dim)
    if groups == 1:
        labels.pin_spoiled(inputs)
        outputs = labels.fresh(width)
        labels.bind(weight, int(not transposed), inputs, writes=False)
        labels.bind(weight, int(transposed), outputs, writes=True)
        labels.cost(each, inputs, outputs)
    else:
        units = labels.channels(inputs.reshape(groups, -1), 0).abs()
        outputs = units.repeat_interleave(width // groups)
        rows = units.repeat_interleave(weight.shape[0] // groups)
        labels.bind(weight, 0, rows, writes=True)
        labels.cost(each * weight.shape[1], rows)
    labels.bind(bias, 0, outputs, writes=True)
    _if_functional(labels, inputs, outputs)
    return along(outputs, call.shape, dim)


def linear(labels: Labels, call: Call) -> Any:
    """y = x Wᵀ + b, weights [out, in]."""
    x, weight, bias = labels.of(call["input"]), call["weight"], call["bias"]
    positions = x.numel() // x.shape[-1]
    if not isinstance(weight, Parameter) or not isinstance(bias, Parameter | None):
        return unknown(labels, call)
    inputs, outputs = labels.channels(x, -1), labels.fresh(call.shape[-1])
    labels.pin_spoiled(inputs)
    labels.bind(weight, 1, inputs, writes=False)
    labels.bind(weight, 0, outputs, writes=True)
    labels.bind(bias, 0, outputs, writes=True)
    labels.cost(positions, inputs, outputs)
    _if_functional(labels, inputs, outputs)
    return along(outputs, call.shape, -1)


def embedding(labels: Labels, call: Call) -> Any:
    """Rows of a table: its width is made here."""
    if not isinstance(call["weight"], Parameter):
        return unknown(labels, call)
    labels.pin(labels.of(call["indices"]), "positions in a table")
    outputs = labels.fresh(call.shape[-1])
    labels.bind(call["weight"], 1, outputs, writes=True)
    return along(outputs, call.shape, -1)


def batch_norm(labels: Labels, call: Call) -> Any:
    """Batch and instance norm work on each channel alone. Weight and bias zero make the output zero; without them the
    running mean of a removed channel would stay behind."""
    weight, bias, statistics = call["weight"], call["bias"], (call["running_mean"], call["running_var"])
    if any(isinstance(value, Tensor) for value in (weight, bias, *statistics)):
        return unknown(labels, call)
    inputs = labels.channels(labels.of(call["input"]), 1)
    for parameter in (weight, bias):
        labels.bind(parameter, 0, inputs, writes=True)
    for buffer in statistics:
        labels.bind(buffer, 0, inputs, writes=False)
    if weight is not None:
        return along(inputs.abs(), call.shape, 1)
    return along(inputs if statistics[0] is None else spoiled(inputs), call.shape, 1)


def group_norm(labels: Labels, call: Call) -> Any:
    """Statistics over a group of channels: exact as long as whole groups go."""
    x, weight, bias, groups = labels.of(call["input"]), call["weight"], call["bias"], call["num_groups"]
    if isinstance(weight, Tensor) or isinstance(bias, Tensor):
        return unknown(labels, call)
    inputs = labels.channels(x, 1)
    units = labels.channels(inputs.reshape(groups, -1), 0).repeat_interleave(x.shape[1] // groups)
    labels.bind(weight, 0, units, writes=True)
    labels.bind(bias, 0, units, writes=True)
    _if_functional(labels, inputs)
    return along(units if weight is None else units.abs(), call.shape, 1)


def layer_norm(labels: Labels, call: Call) -> Any:
    """Averages over the last dimensions: a zero there still counts, so the width stays."""
    x = labels.of(call["input"])
    if max(varying(x), default=-1) < x.dim() - len(call["normalized_shape"]):
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


_OWN_LAYERS = ("torch.nn.modules.conv.", "torch.nn.modules.linear.", "torch.nn.modules.normalization.")


def _if_functional(labels: Labels, *channels: Tensor) -> None:
    """torch's own layers read their sizes from attributes, which a cut adapts. Code that calls the function itself may
    check or compute sizes of its own."""
    if not labels.owner.startswith(_OWN_LAYERS):
        labels.literal(*channels)
