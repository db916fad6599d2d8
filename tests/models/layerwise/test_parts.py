from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from dwindle.models.layerwise.parts import Part, with_parts

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    "attention, time first": lambda: nn.MultiheadAttention(8, 2, bias=False),
    "lstm": lambda: nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True),
    "gru": lambda: nn.GRU(8, 6, num_layers=2),
    "rnn": lambda: nn.RNN(8, 6, bias=False, batch_first=True),
}


def call(layer: nn.Module, inputs: Tensor, **options: Any) -> Any:
    return layer(inputs, inputs, inputs, **options) if isinstance(layer, nn.MultiheadAttention) else layer(inputs)


def heard(layer: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    found: list[tuple[str, Tensor, Tensor]] = []
    for name, part in layer.named_modules():
        if isinstance(part, nn.Linear):
            part.register_forward_hook(lambda _, args, output, name=name: found.append((name, args[0], output)))
    return found


@torch.no_grad()
@pytest.mark.parametrize("kind", LAYERS)
def test_the_layer_computes_what_it_did_and_calls_every_matrix_once(kind: str) -> None:
    torch.manual_seed(0)
    layer, inputs = LAYERS[kind]().eval(), torch.randn(3, 5, 8)
    wanted, before = call(layer, inputs), dict(layer.state_dict())
    with with_parts(layer):
        calls = heard(layer)
        found = call(layer, inputs)
        matrices = [name for name, each in layer.named_modules() if isinstance(each, nn.Linear)]
        assert sorted(name for name, _, _ in calls) == sorted(matrices)
    torch.testing.assert_close(found, wanted)
    assert not any(isinstance(part, Part) for part in layer.modules())
    assert "forward" not in vars(layer)
    assert all(before[name] is not None for name in layer.state_dict())
    assert before.keys() == layer.state_dict().keys()


@torch.no_grad()
def test_masks_and_weights_of_attention_are_as_before() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(3, 5, 8)
    padded, causal = torch.arange(5) >= torch.tensor([[5], [3], [4]]), torch.ones(5, 5).triu(1).bool()
    given: list[dict[str, Any]] = [
        {"key_padding_mask": padded},
        {"attn_mask": causal, "need_weights": False},
        {"key_padding_mask": padded, "average_attn_weights": False},
    ]
    for options in given:
        wanted = call(layer, inputs, **options)
        with with_parts(layer):
            torch.testing.assert_close(call(layer, inputs, **options), wanted)


def halve(part: nn.Module, _: tuple[Tensor, ...]) -> None:
    part.get_parameter("weight").mul_(0.5)


@torch.no_grad()
def test_a_matrix_that_changes_at_its_call_counts_from_there() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.LSTM(8, 6, batch_first=True).eval(), torch.randn(3, 5, 8)
    changed = copy.deepcopy(layer)
    changed.weight_hh_l0.mul_(0.5)
    with with_parts(layer):
        layer.hh_l0.register_forward_pre_hook(halve)  # type: ignore[union-attr]
        found = layer(inputs)
    torch.testing.assert_close(found, changed(inputs))


@torch.no_grad()
def test_a_state_that_is_given_is_used() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.GRU(8, 6, batch_first=True).eval(), torch.randn(3, 5, 8)
    state = torch.randn(1, 3, 6)
    wanted = layer(inputs, state)
    with with_parts(layer):
        calls = heard(layer)
        torch.testing.assert_close(layer(inputs, state), wanted)
    shown = next(shown for name, shown, _ in calls if name == "hh_l0")
    torch.testing.assert_close(shown[:, 0], state[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_shows_its_inputs_and_its_state(kind: type[nn.LSTMCell | nn.GRUCell | nn.RNNCell]) -> None:
    torch.manual_seed(0)
    cell, inputs, hidden = kind(8, 6).eval(), torch.randn(3, 8), torch.randn(3, 6)
    state = (hidden, torch.randn(3, 6)) if kind is nn.LSTMCell else hidden
    wanted, fresh = cell(inputs, state), cell(inputs)
    with with_parts(cell):
        calls = heard(cell)
        torch.testing.assert_close(cell(inputs, state), wanted)
        torch.testing.assert_close(cell(inputs), fresh)
    assert [name for name, _, _ in calls] == ["ih", "hh", "ih", "hh"]
    assert torch.equal(calls[1][1], hidden)
    assert not calls[3][1].any()


@torch.no_grad()
def test_what_has_no_such_form_is_computed_as_ever() -> None:
    torch.manual_seed(0)
    packed = pack_sequence([torch.randn(4, 8), torch.randn(2, 8)])
    projected, layer = nn.LSTM(8, 6, proj_size=3).eval(), nn.LSTM(8, 6).eval()
    cross = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    query, key = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    for module, given in ((projected, (torch.randn(5, 2, 8),)), (layer, (packed,)), (cross, (query, key, key))):
        wanted = module(*given)
        with with_parts(module):
            calls = heard(module)
            found = module(*given)
            assert not calls
        torch.testing.assert_close(found[0], wanted[0])
