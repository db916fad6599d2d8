"""The matrix products within layers that hold several: attention's projections, and the gates of recurrent layers.

PyTorch computes such a layer by one function, which calls no module that a hook could wait at. `with_parts` gives each
of its matrices a module of its own, on the same parameters, and has the forward pass call them: attention instead of
what the function does, a recurrent layer beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from dwindle.models.attention import SlimMultiheadAttention


class Part(nn.Linear):
    """One matrix of a layer, with its bias: the layer's own parameters, by whatever name it has them."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.weight = weight
        if bias is not None:
            self.bias = bias

    def _save_to_state_dict(self, *args: Any) -> None:
        """Leaves that to the layer, so that a network is saved as if it had no parts."""


@contextmanager
def with_parts(model: nn.Module) -> Iterator[None]:
    """While this holds, the matrices of `model`'s attention and recurrent layers are modules that its forward calls.

    What the model computes stays the same, and so do its parameters. Left as they are: attention over other keys than
    the queries, or that isn't batched; recurrent layers with projections, and those given packed sequences.
    """
    changed: list[tuple[nn.Module, _Spelled]] = []
    try:
        for module in list(model.modules()):
            if (spelled := _spelled(module)) is not None:
                changed.append((module, spelled))
                for name, part in spelled.parts.items():
                    module.add_module(name, part)
                module.__dict__[spelled.method] = spelled.calls
        yield
    finally:
        for module, spelled in changed:
            for name in spelled.parts:
                module._modules.pop(name, None)
            module.__dict__.pop(spelled.method, None)


class _Spelled(NamedTuple):
    """What a layer is changed by for a while."""

    parts: dict[str, Part]
    method: str
    """The layer's method that is replaced."""
    calls: Callable[..., Any]
    """What calls the parts in its place."""


def _spelled(module: nn.Module) -> _Spelled | None:
    if isinstance(module, SlimMultiheadAttention):
        part = Part(module.in_proj_weight, module.in_proj_bias)
        return _Spelled({"in_proj": part}, "project", part)
    if isinstance(module, nn.MultiheadAttention) and _is_plain(module):
        parts = {"in_proj": Part(module.in_proj_weight, module.in_proj_bias)}
        return _Spelled(parts, "forward", partial(_attend, module))
    if isinstance(module, nn.RNNBase) and not module.proj_size:
        parts = {name: part for end in _ends(module) for name, part in _gates(module, end).items()}
        return _Spelled(parts, "forward", partial(_recur, module))
    if isinstance(module, nn.RNNCellBase):
        return _Spelled(_gates(module, ""), "forward", partial(_step, module))
    return None


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    width = attention.embed_dim
    whole = attention._qkv_same_embed_dim and tuple(attention.in_proj_weight.shape) == (3 * width, width)
    return whole and attention.bias_k is None and not attention.add_zero_attn


def _attend(
    attention: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As nn.MultiheadAttention's forward, but that the projections are calls of modules. PyTorch's own function does
    what is between them, with identities for its projections."""
    options: dict[str, Any] = {
        "key_padding_mask": key_padding_mask,
        "need_weights": need_weights,
        "attn_mask": attn_mask,
        "average_attn_weights": average_attn_weights,
        "is_causal": is_causal,
    }
    if not (query is key is value) or query.dim() != 3:
        return type(attention).forward(attention, query, key, value, **options)
    swap = attention.batch_first
    projected = attention.get_submodule("in_proj")(query if swap else query.transpose(0, 1))
    queries, keys, values = projected.transpose(0, 1).chunk(3, -1)
    same = torch.eye(attention.embed_dim, dtype=query.dtype, device=query.device)
    mixed, weights = functional.multi_head_attention_forward(
        queries,
        keys,
        values,
        embed_dim_to_check=attention.embed_dim,
        num_heads=attention.num_heads,
        in_proj_weight=None,
        in_proj_bias=None,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=attention.dropout,
        out_proj_weight=same,
        out_proj_bias=None,
        training=attention.training,
        use_separate_proj_weight=True,
        q_proj_weight=same,
        k_proj_weight=same,
        v_proj_weight=same,
        **options,
    )
    found = attention.out_proj(mixed.transpose(0, 1))
    return found if swap else found.transpose(0, 1), weights


def _ends(layer: nn.RNNBase) -> list[str]:
    """The ends of parameters' names, one for each stacked layer and direction, in the order in which they run."""
    ways = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"_l{index}{way}" for index in range(layer.num_layers) for way in ways]


def _gates(layer: nn.RNNBase | nn.RNNCellBase, end: str) -> dict[str, Part]:
    """What makes gates of inputs and of the hidden state."""
    return {
        f"{what}{end}": Part(getattr(layer, f"weight_{what}{end}"), getattr(layer, f"bias_{what}{end}", None))
        for what in ("ih", "hh")
    }


def _recur(layer: nn.RNNBase, inputs: Tensor | PackedSequence, state: Any = None) -> Any:
    """As the layer's own forward. What a matrix makes gates of is shown to its part before the matrix is used: the
    hidden states of the whole sequence are computed by the weights as they are then, and again after it."""
    whole = type(layer).forward
    if isinstance(inputs, PackedSequence) or inputs.dim() != 3:
        return whole(layer, inputs, state)
    sequence = inputs.transpose(0, 1) if layer.batch_first else inputs  # (time, batch, features)
    ends, ways = _ends(layer), 1 + layer.bidirectional
    for index in range(layer.num_layers):
        outputs = []
        for way in range(ways):
            place = index * ways + way
            seen = sequence.flip(0) if way else sequence
            getattr(layer, f"ih{ends[place]}")(seen.transpose(0, 1))
            one = _one(layer, ends[place])
            start = _start(layer, state, place, seen)
            first = start[0] if isinstance(start, tuple) else start
            found = one(seen, start)[0]
            getattr(layer, f"hh{ends[place]}")(torch.cat([first, found[:-1]]).transpose(0, 1))
            found = one(seen, start)[0]
            outputs.append(found.flip(0) if way else found)
        sequence = torch.cat(outputs, -1)
    return whole(layer, inputs, state)


def _step(cell: nn.RNNCellBase, inputs: Tensor, state: Any = None) -> Any:
    """As the cell's own forward, whose parts are shown what they make gates of before it."""
    if inputs.dim() == 2:
        cell.get_submodule("ih")(inputs)
        hidden = state[0] if isinstance(state, tuple) else state
        cell.get_submodule("hh")(inputs.new_zeros(len(inputs), cell.hidden_size) if hidden is None else hidden)
    return type(cell).forward(cell, inputs, state)


def _one(layer: nn.RNNBase, end: str) -> Callable[..., Any]:
    """One of the stacked layers in one direction, as a layer of its own, by the weights as they are now."""
    names = [f"{what}_{which}{end}" for what in ("weight", "bias")[: 1 + layer.bias] for which in ("ih", "hh")]
    weights = [getattr(layer, name) for name in names]
    function = getattr(torch, layer.mode.lower())  # lstm, gru, rnn_tanh, rnn_relu
    return lambda seen, start: function(seen, start, weights, layer.bias, 1, 0.0, False, False, False)


def _start(layer: nn.RNNBase, state: Any, place: int, seen: Tensor) -> Any:
    """The state that one of the stacked layers begins with: (1, batch, hidden), or two such for an LSTM."""
    if state is None:
        zeros = seen.new_zeros(1, seen.shape[1], layer.hidden_size)
        return (zeros, zeros) if layer.mode == "LSTM" else zeros
    if isinstance(state, tuple):
        return tuple(each[place : place + 1] for each in state)
    return state[place : place + 1]
