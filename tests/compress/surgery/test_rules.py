"""The layers and functions of torch, in place and not: whose channels can be followed, and which can't."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwindle.compress.surgery.choice import Found, find_groups, prove

IMAGE = torch.randn(1, 3, 6, 6)
Function = Callable[[Tensor], Tensor]

ACTIVATIONS = (
    "ReLU ReLU6 ELU CELU SELU LeakyReLU RReLU Hardtanh SiLU Mish Hardswish GELU Hardshrink Tanhshrink Softsign "
    "Softshrink Tanh Dropout Dropout2d AlphaDropout FeatureAlphaDropout Identity"
)
IN_PLACE = "relu relu6 elu celu selu leaky_relu rrelu hardtanh silu mish hardswish"
METHODS = (
    "relu_ tanh_ abs_ neg_ square_ sin_ round_ floor_ ceil_ sign_ expm1_ erf_ trunc_ frac_ nan_to_num_ "
    "zero_ negative absolute asinh atan deg2rad positive fliplr flipud adjoint"
)
NOT_ZERO_AT_ZERO = "Sigmoid Hardsigmoid Softplus LogSigmoid"


def _in_place(function: Any, x: Tensor) -> Any:
    return function(x * 1, inplace=True)


def _on_a_copy(function: Any, x: Tensor) -> Any:
    return function(x * 1)


def _gate(function: Function, x: Tensor) -> Tensor:
    return function(x) * x


FOLLOWED: dict[str, Any] = {
    **{f"nn.{name}": getattr(nn, name)() for name in ACTIVATIONS.split()},
    **{f"F.{name}": partial(_in_place, getattr(F, name)) for name in IN_PLACE.split()},
    **{f"Tensor.{name}": partial(_on_a_copy, getattr(Tensor, name)) for name in METHODS.split()},
    # beside a path of its own, what is not zero at zero only scales
    **{f"gate {name}": partial(_gate, getattr(nn, name)()) for name in NOT_ZERO_AT_ZERO.split()},
    "roots": lambda x: (x * x).sqrt_() + x.abs().log1p_(),
    "threshold": lambda x: F.threshold(x, 0.1, 0.0) + torch.threshold_(x * 1, 0.1, 0.0),
    "prelu": nn.PReLU(8),
    "arithmetic": lambda x: (x * 1).add_(x).sub_(2 * x).mul_(x).div_(x.abs() + 1).addcmul_(x, x).lerp_(x, 0.5).pow_(2),
    "other names": lambda x: torch.multiply(torch.subtract(x, 2 * x), x).clip(-1, 1),
    "clamp_": lambda x: (x * 1).clamp_(-1, 1).clamp_min_(-0.5).clamp_max_(0.5),
    "masks": lambda x: ((x > 0) & (x < 1)) * x + x.masked_fill(x > 0, 0) + torch.where(x > 0, x, 0),
    "tensor_split": lambda x: torch.cat(x.tensor_split(2, 1), 1),
    "hsplit": lambda x: torch.cat(x.hsplit(2), 1),
    "unsafe_chunk": lambda x: torch.cat(torch.unsafe_chunk(x, 2, 1), 1),
    "var_mean": lambda x: sum(torch.var_mean(x, (2, 3), keepdim=True)) * x,
    "std_mean": lambda x: sum(torch.std_mean(x, (2, 3), keepdim=True)) * x,
    "median": lambda x: x.median(2).values,
    "aminmax": lambda x: sum(x.aminmax(dim=2)),
    "argmax": lambda x: x.argmax(2) * x.max(2).values,
    "any": lambda x: (x > 0).any(2) * x.sum(2) + (x > 0).all(2) * x.sum(2),
    "nansum": lambda x: x.nansum(2) + x.nanmean(2),
    "logsumexp": lambda x: x.logsumexp(2) * x.sum(2),
    "norm": lambda x: x.norm(dim=(2, 3), keepdim=True) * x / (1 + x.norm(dim=1, keepdim=True)),
    "F.normalize": lambda x: F.normalize(x, dim=1),
    "stack": lambda x: torch.vstack([torch.dstack([torch.hstack([x, x])])]),
    "tril": lambda x: x * torch.ones(6, 6).tril(),
    "unfold": lambda x: F.fold(F.unfold(x, 2, stride=2), (6, 6), 2, stride=2),
    "Tensor.unfold": lambda x: x.unfold(2, 2, 2).sum(-1),
    "diagonal": lambda x: x.diagonal(dim1=2, dim2=3),
    "type_as": lambda x: x * torch.arange(6).type_as(x),
    "mH": lambda x: x.mH + x.real.mT,
    "diff": lambda x: x.diff(dim=2),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x + 0 * x, 2),
    "inner": lambda x: torch.inner(x, torch.ones(4, 6)),
    "grid_sample": lambda x: F.grid_sample(x, torch.zeros(1, 4, 4, 2), align_corners=True),
    "affine_grid": lambda x: F.grid_sample(
        x, F.affine_grid(torch.eye(2, 3)[None], [1, 1, 4, 4], align_corners=True), align_corners=True
    ),
    "max_unpool": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "lp_pool": lambda x: F.lp_pool2d(x.abs(), 2.0, 2),
    **{f"interpolate {m}": partial(F.interpolate, size=9, mode=m) for m in ("area", "nearest-exact", "bicubic")},
    **{f"antialias {m}": partial(F.interpolate, size=3, mode=m, antialias=True) for m in ("bilinear", "bicubic")},
    **{f"pad {mode}": partial(F.pad, pad=(1, 1, 1, 1), mode=mode) for mode in ("replicate", "circular")},
    "causal buffer": lambda x: x + torch.zeros(6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -1) * x,
}  # fmt: skip


class Case(nn.Module):
    """A convolution, a function and a classifier."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function, self.first = function, nn.Conv2d(3, 8, 1)
        self.last = nn.Linear(self.pooled(torch.randn(1, 8, 6, 6)).shape[1], 2)

    def pooled(self, x: Tensor) -> Tensor:
        y = self.function(x).float()
        return y.flatten(2).sum(2) if y.dim() > 2 else y

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pooled(self.first(x)))


class Parallel(nn.Module):
    """Many cases, each of a class of its own, as a class is kept whole or not: one trace, one proof."""

    def __init__(self, functions: dict[str, Function]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cases = nn.ModuleDict(
            {name.replace(".", " "): type(name, (Case,), {})(function) for name, function in functions.items()}
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [case(x) for case in self.cases.values()]


def left_whole(found: Found) -> dict[str, str]:
    """The cases of which nothing is removable, and why."""
    removable = {group.name for group in found.groups}
    return {
        whole.layer.split(".")[1]: whole.reason
        for whole in found.uncut
        if whole.layer.endswith(".first") and whole.layer not in removable
    }


@pytest.mark.slow
def test_channels_are_followed_through_the_layers_and_functions_of_torch() -> None:
    model = Parallel(FOLLOWED).eval()
    found = find_groups(model, (IMAGE,))
    assert not left_whole(found)
    keep = found.keep([torch.arange(index % 2, group.units, 2) for index, group in enumerate(found.groups)])
    prove(model, keep, (IMAGE,))
