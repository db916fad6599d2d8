"""Random small networks, random legal cuts: the smaller network computes what the silenced one does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dwindle.compress.macs import macs
from dwindle.compress.surgery.choice import cut, cut_tensors, find_groups, prove
from dwindle.compress.surgery.exactness import TOLERANCE
from dwindle.compress.surgery.groups import Found
from dwindle.errors import UsageError
from dwindle.models.structure import describe, rebuild, tensors


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, scale: int | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.ones(scale, 1, 1)) if scale else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return x + (y if self.scale is None else y * self.scale)


class Concat(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class Shuffle(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class Halves(nn.Module):
    """Chunks, slices, and a different fate for each half."""

    def __init__(self, width: int, sliced: bool) -> None:
        super().__init__()
        self.sliced, self.left = sliced, nn.Conv2d(width // 2, width // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        a, b = (x[:, :half], x[:, half:]) if self.sliced else x.chunk(2, 1)
        return torch.cat([b, self.left(a)], 1)


class Twice(nn.Module):
    """One layer with two call sites."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.conv(x)))


class Table(nn.Module):
    """Buffers that have to follow, one of which no state_dict holds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("gain", torch.rand(1, width, 1, 1) + 0.5)
        self.register_buffer("offset", torch.randn(width, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain + self.offset


class Mixing(nn.Module):
    """A matrix of its own, applied in one of the ways there are."""

    def __init__(self, width: int, way: str) -> None:
        super().__init__()
        self.way, self.matrix = way, nn.Parameter(torch.randn(width, width))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "functional":
            return F.conv2d(x, self.matrix.view(*self.matrix.shape, 1, 1))
        if self.way == "einsum":
            return torch.einsum("bchw,cd->bdhw", x, self.matrix)
        return (x.movedim(1, -1) @ self.matrix).movedim(-1, 1)


class Attend(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).unflatten(2, x.shape[2:])


def activation(draw: st.DrawFn) -> nn.Module:
    return draw(st.sampled_from([nn.ReLU(), nn.SiLU(), nn.Hardswish(), nn.GELU(), nn.LeakyReLU(0.1), nn.Tanh()]))


def block(draw: st.DrawFn, width: int, depth: int = 0) -> tuple[nn.Module, int]:
    """A random module that takes `width` channels, and how many it makes; height and width stay."""
    kinds = ["conv", "grouped", "depthwise", "norm", "act", "gate", "halves", "twice", "table", "prelu", "groupnorm"]
    kinds += ["transposed", "shuffle", "unaffine", "sigmoid", "mixing", "attention"]
    kinds += ["residual", "concat"] * (2 if depth < 2 else 0)
    kinds += ["glu"] * (width % 4 == 0)  # what it halves must stay even: other blocks work on pairs
    kind = draw(st.sampled_from(kinds))
    out = draw(st.sampled_from([4, 8, 12]))
    if kind == "conv":
        kernel = draw(st.sampled_from([1, 3]))
        return nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=draw(st.booleans())), out
    if kind == "grouped":
        return nn.Conv2d(width, 2 * width, 1, groups=2), 2 * width
    if kind == "depthwise":
        times = draw(st.sampled_from([1, 2, 3]))
        return nn.Conv2d(width, times * width, 3, padding=1, groups=width), times * width
    if kind == "transposed":
        groups = draw(st.sampled_from([1, 2, width]))
        return nn.ConvTranspose2d(width, width, 3, padding=1, groups=groups), width
    if kind == "residual":
        first, middle = block(draw, width, depth + 1)
        scale = width if draw(st.booleans()) else None
        return Residual(nn.Sequential(first, activation(draw), nn.Conv2d(middle, width, 1)), scale), width
    if kind == "concat":
        (a, left), (b, right) = block(draw, width, depth + 1), block(draw, width, depth + 1)
        return Concat(a, b), left + right
    if kind == "glu":
        return nn.GLU(1), width // 2
    simple: dict[str, Callable[[], nn.Module]] = {
        "mixing": lambda: Mixing(width, draw(st.sampled_from(["functional", "einsum", "matmul"]))),
        "attention": lambda: Attend(width),
        "norm": lambda: nn.BatchNorm2d(width),
        "unaffine": lambda: nn.BatchNorm2d(width, affine=False),
        "act": lambda: activation(draw),
        "sigmoid": nn.Sigmoid,
        "gate": lambda: Gate(width, 4),
        "halves": lambda: Halves(width, draw(st.booleans())),
        "twice": lambda: Twice(width),
        "table": lambda: Table(width),
        "prelu": lambda: nn.PReLU(width),
        "groupnorm": lambda: nn.GroupNorm(2, width),
        "shuffle": lambda: Shuffle(2),
    }
    return simple[kind](), width


@st.composite
def networks(draw: st.DrawFn) -> nn.Sequential:
    torch.manual_seed(draw(st.integers(0, 999)))
    width = draw(st.sampled_from([8, 12]))
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(draw(st.integers(1, 5))):
        module, width = block(draw, width)
        layers.append(module)
    head = (
        [nn.Flatten(), nn.Linear(16 * width, 7)]
        if draw(st.booleans())
        else [nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 5, 1)]
    )
    model = nn.Sequential(*layers, *head)
    randomise(model)
    return model


def randomise(model: nn.Module) -> None:
    """No zero and no one is left to hide a mistake behind."""
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    model.eval()


def random_units(draw: st.DrawFn, found: Found) -> list[Tensor]:
    sets = [draw(st.sets(st.integers(0, group.units - 1), min_size=1)) for group in found.groups]
    return [torch.tensor(sorted(some)) for some in sets]


EXAMPLE = (torch.randn(1, 3, 4, 4),)


def check_random_cuts(data: st.DataObject) -> None:
    model = fresh = data.draw(networks())
    for _ in range(2):  # what has been cut can be cut again
        try:
            found = find_groups(model, EXAMPLE)
        except UsageError:  # nothing to remove: every channel is tied to one that stays
            return
        units = random_units(data.draw, found)
        keep = found.keep(units)
        assert prove(model, keep, EXAMPLE) <= TOLERANCE
        small = cut(model, keep)
        counts = [len(kept) for kept in units]
        assert sum(p.numel() for p in small.parameters()) == found.parameters(counts)
        if all(min(p.shape) > 1 for n, p in small.named_parameters() if n.endswith("matrix")):
            assert sum(macs(small, EXAMPLE).values()) == found.macs(counts)  # torch multiplies where it need not sum
        momentum = cut_tensors({name: p.detach() for name, p in model.named_parameters()}, keep)
        assert momentum.keys() == dict(small.named_parameters()).keys()
        assert all(torch.equal(momentum[name], p) for name, p in small.named_parameters())
        rebuilt = rebuild(json.loads(json.dumps(describe(small, fresh))), copy.deepcopy(fresh), tensors(small))
        assert torch.equal(rebuilt.eval()(*EXAMPLE), small.eval()(*EXAMPLE))
        rebuilt.train()(torch.randn(2, 3, 4, 4)).sum().backward()
        model = small


quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=10, suppress_health_check=quiet, derandomize=True, database=None)
@given(st.data())
def test_random_cuts_of_random_networks_are_exact(data: st.DataObject) -> None:
    check_random_cuts(data)


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=quiet)
@given(st.data())
def test_many_random_cuts(data: st.DataObject) -> None:
    check_random_cuts(data)
