"""The recurrent layers of MIL, Core ML's language of operations, in PyTorch.

Parameters have the names that MIL gives them. Semantics: the equations and the order of gates in the documentation of
`coremltools.converters.mil.mil.ops.defs.iOS15.recurrent`. In fp16 files Core ML may round between steps, here only the
results are rounded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dwindle.export.coreml.mil_unproven import unproven

Maybe = Tensor | None
State = tuple[Tensor, ...]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "linear": lambda x: x,
}


def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Maybe = None,
    weight_ih_back: Maybe = None,
    weight_hh_back: Maybe = None,
    bias_back: Maybe = None,
    direction: str = "forward",
    output_sequence: Maybe = None,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
) -> State:
    gate, cell, last = (_activation("lstm", name) for name in (recurrent_activation, cell_activation, activation))

    def run(h: Tensor, c: Tensor, ih: Tensor, hh: Tensor, added: Maybe, backward: bool) -> tuple[Tensor, State]:
        def step(given: Tensor, state: State) -> State:
            h, c = state
            i, f, o, z = F.linear(given, ih, added).add(F.linear(h, hh)).chunk(4, 1)  # in this order: ifoz
            c = gate(f) * c + gate(i) * cell(z)
            return gate(o) * last(c), c

        return _over(x, step, (h, c), backward)

    if direction != "bidirectional":
        every, (h, c) = run(initial_h, initial_c, weight_ih, weight_hh, bias, direction == "reverse")
    else:
        assert weight_ih_back is not None
        assert weight_hh_back is not None
        (h, h_back), (c, c_back) = initial_h.chunk(2, 1), initial_c.chunk(2, 1)
        ahead, first = run(h, c, weight_ih, weight_hh, bias, False)
        back, second = run(h_back, c_back, weight_ih_back, weight_hh_back, bias_back, True)
        every = torch.cat([ahead, back], 2)
        h, c = (torch.cat(pair, 1) for pair in zip(first, second, strict=True))
    return every if output_sequence else h[None], h, c


def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Maybe = None,
    direction: str = "forward",
    output_sequence: Maybe = None,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
) -> State:
    if bias is not None and bias.any():
        # PyTorch has a bias of its own inside r * (W h + b), MIL has one bias: where it is added is not said.
        raise unproven("gru", "its documentation does not say where its one bias is added")
    gate, last = _activation("gru", recurrent_activation), _activation("gru", activation)

    def step(given: Tensor, state: State) -> State:
        (h,) = state
        r, o, z = F.linear(given, weight_ih).chunk(3, 1)  # in this order: roz
        hr, ho, hz = F.linear(h, weight_hh).chunk(3, 1)
        z = gate(z + hz)
        return ((1 - z) * last(o + gate(r + hr) * ho) + z * h,)

    every, (h,) = _over(x, step, (initial_h,), direction == "reverse")
    return every if output_sequence else h[None], h


def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Maybe = None,
    direction: str = "forward",
    output_sequence: Maybe = None,
    activation: str = "tanh",
) -> State:
    last = _activation("rnn", activation)

    def step(given: Tensor, state: State) -> State:
        return (last(F.linear(given, weight_ih, bias) + F.linear(state[0], weight_hh)),)

    every, (h,) = _over(x, step, (initial_h,), direction == "reverse")
    return every if output_sequence else h[None], h


def _over(x: Tensor, step: Callable[[Tensor, State], State], state: State, backward: bool) -> tuple[Tensor, State]:
    """The first state after each element of a sequence, in the sequence's order, and the last state."""
    every = []
    for given in reversed(x) if backward else x:
        state = step(given, state)
        every.append(state[0])
    return torch.stack(every[::-1] if backward else every), state


def _activation(operator: str, name: str) -> Callable[[Tensor], Tensor]:
    if name not in _ACTIVATIONS:
        raise unproven(operator, f"the constants of its activation {name} are not documented")
    return _ACTIVATIONS[name]
