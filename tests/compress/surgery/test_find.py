"""What is found removable in networks of known structure, and what is kept whole and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from dwindle.compress.surgery.choice import Found, Keep, cut, find_groups, prove
from dwindle.errors import UsageError

IMAGE = (torch.randn(1, 3, 8, 8),)


class Net(nn.Module):
    """A convolution to 8 channels, `middle`, and a classifier of what comes out of it."""

    def __init__(self, middle: Callable[[Tensor], Tensor], features: int = 8, **layers: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(features, 5)
        self.middle = middle
        for name, layer in layers.items():
            self.add_module(name, layer)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(self.first(x))
        return self.last(y.mean((2, 3)) if y.dim() == 4 else y)


class Beside(Net):
    """With a second path, that has nothing in its way."""

    def __init__(self, middle: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__(middle, features, side=nn.Conv2d(3, 8, 1), out=nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.out(self.side(x).mean((2, 3)))


def units(found: Found) -> dict[str, int]:
    return {group.name: group.units for group in found.groups}


def halved(found: Found) -> Keep:
    """Every other unit goes, the even ones of one group and the odd ones of the next."""
    return found.keep([torch.arange(index % 2, group.units, 2) for index, group in enumerate(found.groups)])


def reasons(found: Found) -> dict[str, str]:
    return {left.layer: left.reason for left in found.uncut}


def test_the_input_and_the_outputs_stay() -> None:
    found = find_groups(Net(F.relu), IMAGE)
    assert units(found) == {"first": 8}
    assert reasons(found) == {"last": "an output of the model"}
    assert {(p.tensor, p.dim, p.writes) for p in found.groups[0].places} == {
        ("first.weight", 0, True),
        ("first.bias", 0, True),
        ("last.weight", 1, False),
    }


@pytest.mark.parametrize(
    ("middle", "features"),
    [
        (lambda x: x.view(x.shape[0], -1), 512),
        (lambda x: x.flatten(1), 512),
        (lambda x: F.pixel_shuffle(x, 2), 2),
        (lambda x: F.pixel_unshuffle(x, 2), 32),
        (lambda x: F.channel_shuffle(x, 2), 8),
        (lambda x: torch.cat([x, -x], 1), 16),
        (lambda x: torch.stack([x, x * 2], 2).flatten(1, 2), 16),
        (lambda x: x.chunk(2, 1)[1], 4),
        (lambda x: x[:, : x.shape[1] // 2] * x[:, x.shape[1] // 2 :].sigmoid(), 4),
        (lambda x: x.flip(1), 8),
        (lambda x: F.glu(x, 1), 4),
        (lambda x: x.roll(2, 2), 8),
        (lambda x: x.repeat(1, 2, 1, 1), 16),
        (lambda x: F.interpolate(x, scale_factor=2), 8),
        (lambda x: F.pad(x, (1, 1, 1, 1)), 8),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 8),
        (lambda x: F.max_pool2d(x, 2), 8),
        (lambda x: F.instance_norm(x), 8),
        (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), 8),
        (lambda x: x * (x.sum(1, keepdim=True)).sigmoid(), 8),
        (lambda x: x / (1 + x.exp()), 8),
        (lambda x: torch.where(x > 0, x, 0.1 * x), 8),
        (lambda x: x.clamp(-1, 1).abs().sqrt(), 8),
        (lambda x: torch.einsum("bchw,bcxy->bchx", x, x).softmax(-1) * x.amax((2, 3), keepdim=True), 8),
        (lambda x: torch.zeros_like(x).copy_(x), 8),
        (lambda x: F.normalize(x.flatten(2), dim=2).unflatten(2, (8, 8)), 8),
    ],
)
def test_ops_that_channels_can_be_followed_through(middle: Callable[[Tensor], Tensor], features: int) -> None:
    model = Net(middle, features)
    if model(*IMAGE).dim() > 2:
        model.last = nn.Linear(features, 5)
    found = find_groups(model, IMAGE)
    assert sum(units(found).values()) > 1
    prove(model, halved(found), IMAGE)


@pytest.mark.parametrize(
    ("middle", "features", "reason"),
    [
        (torch.sigmoid, 8, "a constant other than zero"),
        (lambda x: x + 1, 8, "a constant other than zero"),
        (lambda x: F.pad(x, (1, 1), value=2.0), 8, "a constant other than zero"),
        (lambda x: x.cumsum(2), 8, "cumsum is not an op"),
        (lambda x: x.sort(1).values, 8, "sort is not an op"),
        (lambda x: x.softmax(1), 8, "softmax over the channels"),
        (lambda x: x - x.mean(1, keepdim=True), 8, "mean over the channels"),
        (lambda x: x[:, [1, 0, 3, 2, 5, 4, 7, 6]], 8, "picks channels by number"),
        (lambda x: x.roll(1, 1), 8, "picks channels by number"),
        (lambda x: x[:, :3], 3, "unequal pieces"),
        (lambda x: x.split(4, 1)[0], 4, "cannot take fewer"),
        (lambda x: x[:, :4], 4, "cannot take fewer"),
        (lambda x: x.reshape(-1, 512), 512, "cannot take fewer"),
        (lambda x: x + torch.ones(1, 8, 1, 1) * x, 8, "cannot take fewer"),
        (lambda x: torch.linalg.svdvals(x), 8, "is not an op"),
        (lambda x: F.layer_norm(x, x.shape[1:]), 8, "averages over its channels"),
        (lambda x: (x * x.new_zeros(8, 1, 1)) + x, 8, "cannot take fewer"),
        (lambda x: torch.cat([x, x.new_ones(1, 8, 8, 8)], 2), 8, "tied to channels that stay"),
        (
            lambda x: x + torch.cat([x[:, : x.shape[1] // 2], x.new_ones(1, 4, 8, 8)], 1),
            8,
            "tied to channels that stay",
        ),
    ],
)
def test_what_is_not_understood_or_not_exact_is_kept_and_said(
    middle: Callable[[Tensor], Tensor], features: int, reason: str
) -> None:
    model = Beside(middle, features)
    found = find_groups(model, IMAGE)
    assert units(found) == {"side": 8}
    assert reason in reasons(found)["first"]
    prove(model, halved(found), IMAGE)


def test_what_is_computed_under_another_mode_is_followed() -> None:
    def twice(x: Tensor) -> Tensor:
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
            y = F.max_pool2d(x * 2, 3, padding=1, stride=1)
            with torch.autocast("cpu", enabled=False):
                z = y.float().relu()
        return z + y

    model = Beside(twice, 8)
    found = find_groups(model, IMAGE)
    assert units(found) == {"first": 8, "side": 8}
    prove(model, halved(found), IMAGE)


def test_option_a_shortcut_keeps_what_it_pads_with() -> None:
    """He et al. 2016, section 4.2: the stride-2 shortcut of a CIFAR ResNet pads the new channels with zeros."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            y = self.second(x.relu()) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
            return self.last(y.relu()).mean((2, 3))

    model = Block()
    found = find_groups(model, IMAGE)
    assert units(found) == {"first": 8}
    small = cut(model, found.keep([torch.tensor([1, 6])]))
    assert (small.first.out_channels, small.second.out_channels) == (2, 10)
    prove(model, halved(found), IMAGE)


def test_grouped_layers_keep_whole_groups() -> None:
    layers = [nn.Conv2d(3, 12, 1), nn.Conv2d(12, 24, 1, groups=4), nn.GroupNorm(4, 24), nn.Conv2d(24, 5, 1)]
    model = nn.Sequential(*layers)
    found = find_groups(model, IMAGE)
    assert [(g.name, g.units, g.channels) for g in found.groups] == [("0", 4, 3)]
    small = cut(model, found.keep([torch.tensor([0, 3])]))
    assert (small[0].out_channels, small[1].groups, small[1].out_channels, small[2].num_groups) == (6, 2, 12, 2)


class Attention(nn.Module):
    """As many write it; `hard` has the width of all heads in its code, in place of an attribute."""

    def __init__(self, width: int, heads: int, hard: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.inner_dim, self.hard = heads, width // heads, width, hard
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, c if self.hard else self.inner_dim))


class Transformer(nn.Module):
    def __init__(self, attention: nn.Module, width: int) -> None:
        super().__init__()
        self.attention, self.norm1, self.norm2 = attention, nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down, self.head = nn.Linear(width, 20), nn.Linear(20, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        y = (
            self.attention(y, y, y, need_weights=False)[0]
            if isinstance(self.attention, nn.MultiheadAttention)
            else self.attention(y)
        )
        x = x + y
        return self.head((x + self.down(F.gelu(self.up(self.norm2(x))))).mean(1))


TOKENS = (torch.randn(1, 5, 24),)


@pytest.mark.parametrize(
    "attention", [Attention(24, 6, hard=False), nn.MultiheadAttention(24, 6, batch_first=True)], ids=["own", "torch's"]
)
def test_heads_and_inner_widths_of_a_transformer_go_and_go_again(attention: nn.Module) -> None:
    model: nn.Module = Transformer(attention, 24)
    projection = "attention.qkv" if isinstance(attention, Attention) else "attention"
    for heads, inner in ((6, 20), (3, 10), (2, 5)):
        found = find_groups(model, TOKENS)
        assert units(found) == {projection: heads, "up": inner}
        assert next(g.channels for g in found.groups if g.units == heads) == 4
        keep = found.keep([torch.arange(0, group.units, 2) for group in found.groups])
        prove(model, keep, TOKENS)
        model = cut(model, keep)
    assert model.attention.num_heads == 1
    assert (
        reasons(found).keys()
        == {"attention.proj", "attention.out_proj", "down", "head"} & dict(model.named_modules()).keys()
    )


def test_heads_stay_where_the_code_cannot_do_without() -> None:
    found = find_groups(Transformer(Attention(24, 6, hard=True), 24), TOKENS)
    assert units(found) == {"up": 20}
    assert reasons(found)["attention.qkv"] == "the code of Attention cannot take fewer of its channels"


def test_heads_of_torch_s_encoder_layer() -> None:
    """Whose fused path, taken in eval mode, would go by the number of features."""
    layer = nn.TransformerEncoderLayer(24, 6, 20, batch_first=True)
    model = nn.Sequential(layer, nn.Linear(24, 3))
    found = find_groups(model, TOKENS)
    assert units(found) == {"0.self_attn": 6, "0.linear1": 20}
    prove(model, halved(found), TOKENS)
    small = cut(model, halved(found)).eval()
    with torch.no_grad():  # in which torch takes the fused path
        fused = small(*TOKENS)
    torch.testing.assert_close(fused, small(*TOKENS))


def test_layers_that_bind_in_other_ways() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.conv = nn.Embedding(11, 8), nn.Conv1d(8, 12, 3, padding=1)
            self.position = nn.Parameter(torch.randn(1, 6, 8))
            self.norm, self.lstm = nn.InstanceNorm1d(12, affine=True), nn.LSTM(12, 4, batch_first=True)
            self.out = nn.Linear(4, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            x = (self.table(tokens) + self.position).transpose(1, 2)
            return self.out(self.lstm(self.norm(self.conv(x)).transpose(1, 2))[0])

    model, tokens = Text(), (torch.randint(0, 11, (1, 6)),)
    found = find_groups(model, tokens)
    assert units(found) == {"table": 8, "conv": 12, "lstm": 4}
    kept = {"table": [1, 2, 7], "conv": list(range(12)), "lstm": [0, 1, 2, 3]}
    keep = found.keep([torch.tensor(kept[group.name]) for group in found.groups])
    prove(model, keep, tokens)
    small = cut(model, keep)
    assert (small.table.embedding_dim, tuple(small.position.shape), small.conv.in_channels) == (3, (1, 6, 3), 3)


def test_frozen_batch_norm_s_buffers_follow() -> None:
    norm = torchvision.ops.FrozenBatchNorm2d(8)
    norm.weight.uniform_(0.5, 1)
    norm.bias.normal_()
    norm.running_mean.normal_()
    model = nn.Sequential(nn.Conv2d(3, 8, 1), norm, nn.ReLU(), nn.Conv2d(8, 2, 1))
    found = find_groups(model, IMAGE)
    assert units(found) == {"0": 8}
    prove(model, halved(found), IMAGE)
    assert len(cut(model, halved(found))[1].running_mean) == 4


def test_auxiliary_heads_that_only_run_in_training_follow() -> None:
    class Aux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.aux, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8, 2), nn.Linear(8, 2)
            self.unused = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            y = self.first(x).mean((2, 3))
            return (self.last(y), self.aux(y)) if self.training else self.last(y)

    model = Aux()
    found = find_groups(model, IMAGE)
    assert units(found) == {"first": 8}
    assert reasons(found)["unused"] == "the trace does not reach it"
    small = cut(model, halved(found))
    assert small.training
    assert small.aux.in_features == 4
    assert found.macs() == 3 * 8 * 64 + 8 * 2


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.b(self.a(self.first(x)).relu()).relu())

    model, x = Tied(), (torch.randn(1, 4),)
    found = find_groups(model, x)
    assert units(found) == {"first": 8, "a": 8} or units(found) == {"first": 8}
    prove(model, halved(found), x)
    small = cut(model, halved(found))
    assert small.b.weight is small.a.weight


def test_models_that_cannot_be_cut_are_refused_in_a_sentence() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 8)

        def forward(self, x: Tensor) -> Tensor:
            boxes = self.conv(x).flatten(1)
            chosen = torchvision.ops.nms(boxes, boxes[:, 0], 0.5)
            return boxes[chosen] if chosen.shape[0] > 1 else boxes

    with pytest.raises(UsageError, match=r"cannot be traced past test_find.py:\d+ \(return x if x.sum\(\) > 0"):
        find_groups(Branches(), IMAGE)
    with pytest.raises(UsageError, match=r"torchvision.ops.nms\(boxes.*torchvision.nms.* depends on the data"):
        find_groups(Detector(), IMAGE)
    with pytest.raises(UsageError, match=r"no channel .* can be removed exactly \(an output of the model\): prune"):
        find_groups(nn.Conv2d(3, 8, 1), IMAGE)

    shuffled = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Softmax(1), nn.Conv2d(8, 2, 1))
    kept = r"\(0 \(8 channels\): softmax over the channels; 2 \(2 channels\): an output of the model\)"
    with pytest.raises(UsageError, match=kept) as caught:
        find_groups(shuffled, IMAGE)
    assert caught.value.code == "nothing-to-prune"

    masked = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1))
    torch.nn.utils.prune.l1_unstructured(masked[0], "weight", 0.5)
    with pytest.raises(UsageError, match="layer '0' still computes its weights"):
        find_groups(masked, IMAGE)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten(), nn.Linear(512, 3))
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = find_groups(model, IMAGE)
    prove(model, halved(found), IMAGE)
    cut(model, halved(found))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model] == [True, True, False, True, True]
    assert not any(module._forward_hooks for module in model)


def test_what_a_forward_keeps_is_not_the_trace_s() -> None:
    """A grid kept between calls would be left a tensor without data, and the model could be exported no more."""

    class Grid(Net):
        grid: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if self.grid is None:
                self.grid = torch.linspace(0, 1, x.shape[-1])
            return self.last((y * self.grid).mean((2, 3)))

    model = Grid(F.relu)
    found = find_groups(model, IMAGE)
    assert model.grid is None
    prove(model, halved(found), IMAGE)
    assert model.grid is None


class Heads(nn.Module):
    """As Ultralytics has it: what two heads give is viewed as if it were as wide as the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).view(b, 2, -1, h * w).chunk(3, 2)
        mixed = (v @ (q.transpose(-2, -1) @ k).softmax(-1).transpose(-2, -1)).view(b, c, h, w)
        result: Tensor = x + self.proj(mixed)
        return result


class Partly(nn.Module):
    """Attention over one half of the channels, whose number the module keeps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.c = channels // 2
        self.wide, self.heads, self.out = nn.Conv2d(8, channels, 1), Heads(self.c), nn.Conv2d(channels, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.wide(x).split((self.c, self.c), 1)
        result: Tensor = self.out(torch.cat([one, self.heads(other)], 1))
        return result


@pytest.mark.parametrize("before", [0, 1, 2])
def test_two_numbers_are_not_taken_for_one_as_both_are_halved(before: int) -> None:
    first = [nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()) for _ in range(before)]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), *first, Partly(32), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    found = find_groups(model, IMAGE)
    for share in (0.25, 0.5, 0.75):
        keep = found.keep([torch.arange(max(1, int(share * count))) for count in found.units])
        assert prove(model, keep, IMAGE) < 1e-10


class Wrapped(nn.Module):
    """As LeViT has it: a linear layer and a batch norm whose code names every size, for all layers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        result: Tensor = self.norm(x.flatten(0, 1)).reshape_as(x)
        return result


class Stubborn(nn.Module):
    """Its code has sizes that no attribute has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Wrapped(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).view(*x.shape[:2], 3, 4).amax(-1)


def test_a_wrapper_of_every_layer_is_not_blamed_for_the_code_of_one() -> None:
    model = nn.Sequential(Wrapped(6, 16), nn.ReLU(), Wrapped(16, 8), Stubborn(), nn.Linear(3, 2)).eval()
    found = find_groups(model, (torch.randn(2, 5, 6),))
    assert units(found) == {"0.linear": 16, "2.linear": 8}
    assert next(one.reason for one in found.uncut if one.layer == "3.layer.linear").startswith("the code of Stubborn")
