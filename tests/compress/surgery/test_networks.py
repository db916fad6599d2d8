"""Kinds of networks that people ship, small: what can be removed from each is removed, exactly."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from dwindle.compress.macs import macs
from dwindle.compress.surgery.choice import cut, find_groups, prove
from dwindle.compress.surgery.groups import Found
from dwindle.models.structure import describe, rebuild, tensors

IMAGE = (torch.randn(1, 3, 8, 8),)
STEPS = (torch.randn(1, 5, 6),)
TOKENS = (torch.tensor([[1, 5, 3, 2]]),)


def cut_twice(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Found, nn.Module]:
    """Removes units of every group, twice, proves both cuts, and rebuilds what is left on a fresh model."""
    model, fresh, first = model.eval(), copy.deepcopy(model).eval(), None
    for share in (2 / 3, 1 / 2):
        found = find_groups(model, inputs)
        first = first or found
        counts = [max(1, round(share * units)) for units in found.units]
        keep = found.keep([torch.arange(units)[-count:] for units, count in zip(found.units, counts, strict=True)])
        prove(model, keep, inputs)
        model = cut(model, keep)
        assert sum(macs(model, inputs).values()) == found.macs(counts)
    rebuilt = rebuild(json.loads(json.dumps(describe(model, fresh))), fresh, tensors(model))
    assert torch.equal(rebuilt(*inputs), model(*inputs))
    assert first is not None
    return first, model


def units(found: Found) -> dict[str, int]:
    return {group.name: group.units for group in found.groups}


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: int | bool) -> None:
        super().__init__()
        self.first, self.recurrent = nn.Linear(6, 9), kind(9, 8, batch_first=True, **options)
        width = (options.get("proj_size") or 8) * (2 if options.get("bidirectional") else 1)
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.recurrent(self.first(x).relu())[0])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.LSTM, {}),
        (nn.GRU, {}),
        (nn.RNN, {}),
        (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
        (nn.GRU, {"num_layers": 2, "bias": False}),
        (nn.LSTM, {"proj_size": 4}),
        (nn.LSTM, {"proj_size": 4, "num_layers": 2, "bidirectional": True}),
    ],
)
def test_hidden_units_of_recurrent_layers(kind: type[nn.RNNBase], options: dict[str, int | bool]) -> None:
    found, small = cut_twice(Recurrent(kind, **options), STEPS)
    assert units(found)["first"] == 9
    projected = "proj_size" in options
    assert sorted(found.units) == sorted([9, 4 if projected else 8])  # torch tells a projection by its width
    assert (small.recurrent.input_size, small.recurrent.proj_size) == (3, 2 if projected else 0)
    assert small.recurrent.hidden_size == (8 if projected else 2)


def test_cells_of_recurrent_layers() -> None:
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.gru, self.last = nn.LSTMCell(6, 8), nn.GRUCell(8, 7), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            state, h = None, None
            for step in x.unbind(1):
                state = self.lstm(step, state)
                h = self.gru(state[0], h)
            return self.last(h)

    found, small = cut_twice(Cells(), STEPS)
    assert sorted(found.units) == [7, 8]
    assert (small.lstm.hidden_size, small.gru.input_size) == (small.gru.input_size, small.lstm.hidden_size)


def test_a_state_of_zeros_as_wide_as_an_attribute_says() -> None:
    class Starting(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.width, self.layer, self.last = 8, layer, nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), self.width)
            if isinstance(self.layer, nn.GRU):
                return self.last(self.layer(x, h[None])[0])
            c = h
            for step in x.unbind(1):
                h, c = self.layer(step, (h, c))
            return self.last(h)

    for layer in (nn.LSTMCell(6, 8), nn.GRU(6, 8, batch_first=True)):
        found, small = cut_twice(Starting(layer), STEPS)
        assert list(found.units) == [8]
        assert small.width == small.layer.hidden_size < 8


def test_a_state_from_outside_keeps_its_width() -> None:
    class Streaming(Recurrent):
        def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
            return self.last(self.recurrent(self.first(x).relu(), state)[0])

    inputs = (*STEPS, torch.randn(1, 1, 8))
    found = find_groups(Streaming(nn.GRU), inputs)
    assert units(found) == {"first": 9}


@pytest.mark.parametrize("layer", [nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_that_stays_is_named_with_its_units(layer: type[nn.Module]) -> None:
    class Ending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.recurrent = nn.Linear(6, 16), layer(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            answer = self.recurrent(self.first(x).relu())
            last: Tensor = answer[0] if isinstance(answer, tuple) else answer
            return last

    found = find_groups(Ending(), (torch.randn(5, 6),))
    assert units(found) == {"first": 16}
    assert [(one.layer, one.channels, one.of) for one in found.uncut] == [("recurrent", 8, 8)]


def test_a_channel_shuffle_of_torch_s_own() -> None:
    for groups in (2, 4):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.ChannelShuffle(groups), nn.ReLU(), nn.Conv2d(8, 5, 1)
        )
        found, small = cut_twice(model, IMAGE)
        assert "1" in units(found)
        assert small[1].out_channels < 8


class Mixed(nn.Module):
    """As MixNet: a list of sizes, and a kernel for each; and a split by a number that the module keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.splits = nn.Conv2d(3, 16, 1), [8, 5, 3]
        self.convs = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1, groups=c) for c in self.splits)
        self.second, self.half, self.last = nn.Conv2d(16, 12, 1), 6, nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.first(x).split(self.splits, 1)
        x = torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1)
        a, b = self.second(x.relu()).split(self.half, 1)
        return self.last(torch.cat([a, b.relu()], 1))


def test_sizes_in_lists_and_of_pieces_follow() -> None:
    found, small = cut_twice(Mixed(), IMAGE)
    assert sum(group.units for group in found.groups if group.name == "first") == 16
    assert "second" in units(found)
    assert sum(small.splits) == small.first.out_channels
    assert 2 * small.half == small.second.out_channels


def test_a_graph_module_is_cut_again_and_again() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
            self.last = nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.first(x).relu()).relu()).mean((2, 3))

    model = create_feature_extractor(Two(), {"mean": "out"})

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.graph = model

        def forward(self, x: Tensor) -> Tensor:
            return self.graph(x)["out"]

    found, _ = cut_twice(Plain(), IMAGE)
    assert units(found) == {"graph.first": 8, "graph.second": 6}


def test_a_slice_of_layers_has_no_name_of_its_own() -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.half = 4
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = self.layers[:-1](x).reshape(x.shape[0], 2, self.half, *x.shape[2:])
            return self.layers[-1](x.sum(1))

    found, _ = cut_twice(Sliced(), IMAGE)
    assert units(found) == {"layers.0": 4}


class Heads(nn.Module):
    """Attention with a causal mask and a window, both buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = 4, nn.Linear(8, 24), nn.Linear(8, 8)
        self.register_buffer("causal", torch.full((1, 1, 5, 5), -1e4).triu(1))
        self.register_buffer("seen", torch.ones(5, 5).tril().bool())
        self.register_buffer("window", torch.hann_window(5)[:, None])
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(1, 5, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT + self.causal[:, :, :5, :5]
        scores = torch.where(self.seen, scores, torch.finfo(scores.dtype).min)
        x = x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.down(self.up(x).relu() * self.window)


def test_a_buffer_without_a_channel_in_it_ties_nothing() -> None:
    model = Heads()
    found = find_groups(model.eval(), (torch.randn(1, 5, 8),))
    assert units(found) == {"qkv": 4, "up": 12}
    prove(model, found.keep([torch.tensor([0, 2]) for _ in found.groups]), (torch.randn(1, 5, 8),))


class Norm(nn.Module):
    """RMSNorm as it is written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Response(nn.Module):
    """Global response normalisation, of ConvNeXt V2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(dim=1, keepdim=True)
        return self.gamma * (x * size / (size.mean(-1, keepdim=True) + 1e-6)) + self.beta + x


@pytest.mark.parametrize("norm", [Norm, Response, nn.RMSNorm, nn.LayerNorm])
def test_what_is_around_a_norm_is_removed(norm: type[nn.Module]) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(6, 8), norm(8)  # type: ignore[call-arg]
            self.up, self.down, self.last = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = x + self.down(F.silu(self.up(self.norm(x))))
            return F.normalize(self.last(x).mean(1), dim=-1)

    found, _ = cut_twice(Block(), STEPS)
    assert units(found) == {"up": 12}


class Conv1D(nn.Module):
    """GPT-2's linear layer, its weight the other way round."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf, self.nx = outputs, inputs
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


def test_layers_that_multiply_from_the_right() -> None:
    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = Conv1D(12, 6), Conv1D(10, 12), nn.Linear(10, 3)
            self.matrix = nn.Parameter(torch.randn(10, 10))

        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.second(F.gelu(self.first(x))) @ self.matrix).relu())

    found, small = cut_twice(Mlp(), STEPS)
    assert sorted(found.units) == [10, 10, 12]
    assert small.first.nf == small.first.weight.shape[1] == small.second.weight.shape[0]


class Logits(nn.Module):
    """The first output of a network that answers with more."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.network(tokens, attention_mask=mask)[0]


@pytest.mark.slow
@pytest.mark.needs("transformers")
def test_gpt2_and_bert_of_transformers() -> None:
    from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=12, n_layer=1, n_head=3))
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20}
    bert = BertModel(BertConfig(vocab_size=11, max_position_embeddings=8, **sizes), add_pooling_layer=False)
    padding = torch.tensor([[1, 1, 1, 0]])
    for network, expected in (
        (gpt2, {"network.transformer.h.0.attn.c_attn": 3, "network.transformer.h.0.mlp.c_fc": 48}),
        (bert, {"network.encoder.layer.0.attention.self.query": 3, "network.encoder.layer.0.intermediate.dense": 20}),
    ):
        model = Logits(network).eval()
        found = find_groups(model, (*TOKENS, padding))
        assert units(found) == expected
        keep = found.keep([torch.arange(0, count, 2) for count in found.units])
        assert prove(model, keep, (*TOKENS, padding)) < 1e-4


def test_a_frozen_layer_and_what_it_reads_stay() -> None:
    model = nn.Sequential(*(nn.Conv2d(a, b, 1) for a, b in ((3, 8), (8, 7), (7, 6), (6, 5), (5, 4))))
    model[1].requires_grad_(False)
    found = find_groups(model.eval(), IMAGE)
    assert units(found) == {"2": 6, "3": 5}
    assert {one.layer for one in found.uncut if "1 is frozen" in one.reason} == {"0", "1"}


class Blur(nn.Module):
    """One kernel for all channels, expanded in forward to a number of them that the module keeps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("kernel", torch.rand(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.expand(self.channels, -1, -1, -1), padding=1, groups=self.channels)


def test_one_kernel_for_all_channels_ties_none() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Blur(8), nn.Conv2d(8, 4, 1))
    found, small = cut_twice(model, IMAGE)
    assert units(found) == {"0": 8}
    assert (small[1].channels, small[1].kernel.shape[0]) == (small[0].out_channels, 1)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


def test_a_weight_that_is_computed_in_forward_is_named() -> None:
    model = nn.Sequential(Standardised(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1))
    found = find_groups(model.eval(), IMAGE)
    assert units(found) == {"2": 6}
    (kept,) = (one for one in found.uncut if one.layer == "0")
    assert (kept.channels, kept.reason) == (8, "conv2d in 0 takes a weight that is computed in forward")


@pytest.mark.parametrize(
    ("normed", "groups"),
    [
        (nn.utils.parametrizations.weight_norm, {"1.parametrizations.weight": 7, "2": 6}),
        (nn.utils.parametrizations.spectral_norm, {"2": 6}),
    ],
)
def test_a_parametrized_layer_is_cut_where_that_is_exact(
    normed: Callable[[nn.Module], nn.Module], groups: dict[str, int]
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), normed(nn.Conv2d(8, 7, 1)), nn.Conv2d(7, 6, 1), nn.Conv2d(6, 4, 1))
    found, small = cut_twice(model, IMAGE)
    assert units(found) == groups
    assert [one.layer for one in found.uncut if one.layer in "03"] == ["0", "3"]
    assert small[1].weight.shape == (2 if len(groups) > 1 else 7, 8, 1, 1)


class Radix(nn.Module):
    """Split attention of ResNeSt: two pieces of every channel, weighed by a softmax over the pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeeze = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 6, 1)
        self.weigh, self.last = nn.Conv2d(6, 16, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.first(x).reshape(x.shape[0], 2, -1, *x.shape[2:])
        weights = self.weigh(self.squeeze(pieces.sum(1).mean((2, 3), keepdim=True)).relu())
        weights = weights.view(x.shape[0], 1, 2, -1).transpose(1, 2).softmax(1).reshape(x.shape[0], 2, -1, 1, 1)
        return self.last((pieces * weights).sum(1))


def test_splits_of_radix_attention_go_together() -> None:
    found, small = cut_twice(Radix(), IMAGE)
    assert units(found) == {"first": 8, "squeeze": 6}
    assert small.weigh.out_channels == small.first.out_channels == 2 * small.last.in_channels


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_few_wide_groups_lose_channels_within_and_many_narrow_ones_go_whole(kind: type[nn.Conv2d]) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 1), kind(16, 12, 3, groups=2), nn.ReLU(), kind(12, 18, 3, groups=6)),
        nn.Conv2d(18, 4, 1),
    )
    found, small = cut_twice(model, IMAGE)
    # Of the twelve in between, pairs go for the sake of one layer, and the same of both halves for the other's.
    assert units(found) == {"0": 8, "1": 3}
    assert small[1].groups == 2
    assert small[3].groups < 6


class Cascade(nn.Module):
    """Heads with a projection each, of whose widths the module keeps but one."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.first = 9, nn.Conv2d(3, 5, 1)
        self.heads = nn.ModuleList(nn.Conv2d(5, 18, 1) for _ in range(3))
        self.last = nn.Conv2d(27, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, found = self.first(x), []
        for head in self.heads:
            a, b = head(x).split([self.width, self.width], 1)
            found.append(a * b)
        return self.last(torch.cat(found, 1))


def test_one_attribute_for_the_widths_of_several_layers_ties_them() -> None:
    found, small = cut_twice(Cascade(), IMAGE)
    assert units(found) == {"first": 5, "heads.0": 9}
    assert {head.out_channels for head in small.heads} == {2 * small.width}


def test_heads_whose_averaged_map_nobody_reads() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.last = nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.attention(x, x, x)[0])  # which computes the map too, as it does by default

    found, small = cut_twice(Attends(), (torch.randn(1, 5, 8),))
    assert found.groups[0].units == 4
    assert small.attention.num_heads < 4


def test_heads_counted_by_an_attribute_under_autocast() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.out = 4, nn.Linear(32, 32)
            self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                q, k, v = (one(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
                given = nn.functional.scaled_dot_product_attention(q, k, v)  # too near to tell heads by in 16 bits
                return self.out(given.transpose(1, 2).flatten(2)).float()

    torch.manual_seed(0)
    found, small = cut_twice(Attends(), (0.1 * torch.randn(1, 12, 32),))
    assert list(found.units) == [4]
    assert small.heads == len(small.q.weight) // 8 < 4
