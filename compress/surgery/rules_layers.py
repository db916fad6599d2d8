"""Rules for layers with weights: they bind labels to parameters."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from dwindle.compress.surgery.cut import keeps_groups
from dwindle.compress.surgery.labels import Computed, Labels, Parameter, along, core, spoiled, varying
from dwindle.compress.surgery.walk import Call, unknown


def convolution(labels: Labels, call: Call) -> Any:
    """Convolutions of every rank, transposed or not, grouped or not.

    One of many groups keeps whole ones, as a depthwise one does: what goes into a group and what comes out of it is one
    class, and `groups` shrinks. One of few and wide groups loses the same channels in each. Weights are [out,
    in/groups, ...], transposed ones [in, out/groups, ...].
    """
    x, weight, bias, groups = labels.of(call["input"]), call["weight"], call["bias"], call["groups"]
    transposed = "transpose" in call.op or bool(call["transposed"])
    dim = 1 - len(weight.shape)
    width = call.shape[dim]
    positions = x.numel() // x.shape[dim] if transposed else call.values[0].numel() // width
    each = positions * math.prod(weight.shape[2:])
    if not isinstance(weight, Parameter) and _is_one_kernel(weight, groups, width, bias):
        labels.pin(weight, "one kernel for all channels")
        inputs = labels.channels(x, dim)
        labels.bind(bias, 0, inputs, writes=True)
        labels.cost(each, inputs)
        labels.literal(inputs)
        return along(inputs, call.shape, dim)
    if not _can_be_cut(weight, int(transposed)) or not isinstance(bias, Parameter | None):
        return computed(labels, call)
    inputs = labels.channels(x, dim)
    if groups == 1:
        labels.pin_spoiled(inputs)
        outputs = labels.fresh(width)
        labels.bind(weight, int(not transposed), inputs, writes=False)
        labels.bind(weight, int(transposed), outputs, writes=True)
        labels.cost(each, inputs, outputs)
    elif keeps_groups(len(inputs), width, groups):
        labels.pin_spoiled(inputs)
        within, made = labels.channels(inputs.reshape(groups, -1), 1), labels.fresh(width // groups)
        outputs = made.repeat(groups)
        labels.bind(weight, int(not transposed), inputs if transposed else within, writes=False)
        labels.bind(weight, int(transposed), made if transposed else outputs, writes=True)
        labels.cost(each, within, outputs)
    else:
        units = labels.channels(inputs.reshape(groups, -1), 0).abs()
        outputs = units.repeat_interleave(width // groups)
        rows = units.repeat_interleave(weight.shape[0] // groups)
        labels.bind(weight, 0, rows, writes=True)
        labels.cost(each * weight.shape[1], rows)
    labels.bind(bias, 0, outputs, writes=True)
    _if_functional(labels, inputs, outputs)
    return along(outputs, call.shape, dim)


def _is_one_kernel(weight: Tensor, groups: int, width: int, bias: Any) -> bool:
    """Whether a depthwise convolution has the same kernel for every channel, as an expanded blur has."""
    return groups == width == weight.shape[0] > 1 and core(weight).shape[0] == 1 and isinstance(bias, Parameter | None)


def _can_be_cut(weight: Any, outputs: int) -> bool:
    """Whether a weight is a parameter, or computed from some whose zeros are zeros of the outputs, which are that
    dimension of it."""
    return isinstance(weight, Parameter) and (not isinstance(weight, Computed) or weight.can_be_silenced(outputs))


def computed(labels: Labels, call: Call) -> Any:
    """A layer whose weight the model computes in its forward (a normalised or standardised one, a fake-quantised one):
    which of its numbers are zeros once others are is not followed."""
    for value in call.activations(labels):
        labels.pin(value, f"{call.op} in {call.module or 'the model'} takes a weight that is computed in forward")
    return unknown(labels, call)


def normalised_weight(labels: Labels, call: Call) -> Any:
    """Weight normalisation: a channel that goes changes the length that the others are divided by."""
    for value in call.activations(labels):
        labels.pin(value, "its weight is normalised: torch.nn.utils.parametrize.remove_parametrizations makes it plain")
    return unknown(labels, call)


def linear(labels: Labels, call: Call) -> Any:
    """y = x Wᵀ + b, weights [out, in]."""
    x, weight, bias = labels.of(call["input"]), call["weight"], call["bias"]
    positions = x.numel() // x.shape[-1]
    if not _can_be_cut(weight, 0) or not isinstance(bias, Parameter | None):
        return computed(labels, call)
    inputs, outputs = labels.channels(x, -1), labels.fresh(call.shape[-1])
    labels.pin_spoiled(inputs)
    labels.bind(weight, 1, inputs, writes=False)
    labels.bind(weight, 0, outputs, writes=True)
    labels.bind(bias, 0, outputs, writes=True)
    labels.cost(positions, inputs, outputs)
    _if_functional(labels, inputs, outputs)
    return along(outputs, call.shape, -1)


def transposed_linear(labels: Labels, call: Call, first: Tensor, weight: Parameter, bias: Parameter | None) -> Tensor:
    """y = x W + b, weights [in, out]."""
    inputs, outputs = labels.channels(first, -1), labels.fresh(call.shape[-1])
    labels.pin_spoiled(inputs)
    labels.bind(weight, 0, inputs, writes=False)
    labels.bind(weight, 1, outputs, writes=True)
    labels.bind(bias, 0, outputs, writes=True)
    labels.cost(first.numel() // first.shape[-1], inputs, outputs)
    labels.literal(inputs, outputs)
    return along(outputs, call.shape, -1)


def recurrent(labels: Labels, call: Call) -> Any:
    """LSTM, GRU and RNN: a hidden unit whose rows are zero, for every gate, stays at the zero it starts with. All
    layers and directions have the same width, and lose the same units."""
    weights, x = call["params"], call["input"]
    if call["batch_sizes"] is not None or not all(isinstance(weight, Parameter) for weight in weights):
        return unknown(labels, call)
    states = [call["hx"]] if isinstance(call["hx"], Tensor) else call["hx"]
    sets = call["num_layers"] * (2 if call["bidirectional"] else 1)
    each_set = [weights[i : i + len(weights) // sets] for i in range(0, len(weights), len(weights) // sets)]
    gates, biases = {"lstm": 4, "gru": 3}.get(call.op, 1), 2 if call["has_biases"] else 0
    hidden = labels.fresh(each_set[0][0].shape[0] // gates)
    projected = len(each_set[0]) > 2 + biases
    outputs = labels.fresh(each_set[0][1].shape[1]) if projected else hidden
    if projected:
        labels.pin(hidden, "torch tells a projection by its being narrower")
    inputs, positions = labels.channels(labels.of(x), -1), x.numel() // x.shape[-1]
    for index, (to_gates, back, *rest) in enumerate(each_set):
        if call["bidirectional"]:
            inputs = inputs if index < 2 else outputs.repeat(2)
        elif index:
            inputs = outputs
        columns = {to_gates: inputs, back: outputs}
        _gates(labels, columns, rest[:biases], hidden.repeat(gates), positions)
        if projected:
            labels.bind(rest[-1], 0, outputs, writes=True)
            labels.bind(rest[-1], 1, hidden, writes=False)
            labels.cost(positions, hidden, outputs)
    for state, width in zip(states, (outputs, hidden), strict=False):
        _starts(labels, call, width, state)
    labels.literal(hidden, outputs)
    last = outputs.repeat(2) if call["bidirectional"] else outputs
    results = zip(call.values, (last, outputs, hidden), strict=False)
    return [along(row, value.shape, -1) for value, row in results]


def cell(labels: Labels, call: Call) -> Any:
    """One step of an LSTM, GRU or RNN, from a state that is given."""
    to_gates, back = call["w_ih"], call["w_hh"]
    biases = [bias for bias in (call["b_ih"], call["b_hh"]) if bias is not None]
    if not all(isinstance(weight, Parameter) for weight in (to_gates, back, *biases)):
        return unknown(labels, call)
    x, hidden = call["input"], labels.fresh(back.shape[1])
    columns = {to_gates: labels.channels(labels.of(x), -1), back: hidden}
    rows = hidden.repeat(back.shape[0] // back.shape[1])
    _gates(labels, columns, biases, rows, x.numel() // x.shape[-1])
    for state in [call["hx"]] if isinstance(call["hx"], Tensor) else call["hx"]:
        _starts(labels, call, hidden, state)
    labels.literal(hidden)
    return [along(hidden, value.shape, -1) for value in call.values]


def _gates(
    labels: Labels, columns: dict[Parameter, Tensor], biases: list[Parameter], rows: Tensor, positions: int
) -> None:
    """The matrices of a recurrent layer, from its input and from its state to all of its gates."""
    for weight, inputs in columns.items():
        labels.pin_spoiled(inputs)
        labels.bind(weight, 0, rows, writes=True)
        labels.bind(weight, 1, inputs, writes=False)
        labels.cost(positions, inputs, rows)
    for bias in biases:
        labels.bind(bias, 0, rows, writes=True)


def _starts(labels: Labels, call: Call, hidden: Tensor, state: Tensor) -> None:
    """The state that a recurrent layer starts with has its units, as many as the code around it may say of zeros."""
    labels.literal(hidden, code=call.around)
    given = labels.channels(labels.of(state), -1)
    labels.pin_spoiled(given)
    labels.tie(hidden, given)


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
    inputs = units = labels.channels(x, 1)
    if groups == 1 and labels.inexact:
        labels.pin_inexact(inputs, f"{call.op} averages over its channels")
    else:
        units = labels.channels(inputs.reshape(groups, -1), 0).repeat_interleave(x.shape[1] // groups)
    labels.bind(weight, 0, units, writes=True)
    labels.bind(bias, 0, units, writes=True)
    _if_functional(labels, inputs)
    return along(units if weight is None else units.abs(), call.shape, 1)


def layer_norm(labels: Labels, call: Call) -> Any:
    """Averages over the last dimensions: a zero there still counts, so the width stays, unless cuts may be inexact."""
    x, weight, bias = labels.of(call["input"]), call["weight"], call["bias"]
    if max(varying(x), default=-1) < x.dim() - len(call["normalized_shape"]):
        return spoiled(x)
    why = f"{call.op} averages over its channels"
    if len(call["normalized_shape"]) > 1 or not isinstance(weight, Parameter) or isinstance(bias, Tensor):
        labels.pin(x, why)
        return x
    inputs = labels.channels(x, -1) if labels.inexact else x
    labels.pin_inexact(inputs, why)
    if labels.inexact:
        labels.bind(weight, 0, inputs, writes=True)
        labels.bind(bias, 0, inputs, writes=True)
        _if_functional(labels, inputs)
        return along(inputs.abs(), call.shape, -1)
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
