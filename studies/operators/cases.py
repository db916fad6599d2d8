"""PyTorch's operators, a network of each, and an input for it: what every target's files are asked to compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GENERATOR = torch.Generator().manual_seed(0)
IMAGE, SEQUENCE, VOLUME = (
    torch.randn(shape, generator=GENERATOR) for shape in ((1, 4, 8, 6), (1, 5, 4), (1, 4, 5, 6, 4))
)
TOKENS = torch.tensor([[1, 0, 4, 2, 3]])


class Of(nn.Module):
    """A function's result plus nothing: the weight is there to be read back."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.of(x).float() + self.weight.sum() * 0


class First(nn.Module):
    """What a layer that answers with several values answers first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        answers: tuple[Tensor, ...] = self.layer(x)
        return answers[0]


class Twice(nn.Module):
    """A weight read plain and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6, generator=GENERATOR))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + x @ self.weight.t()


class Transposed(nn.Module):
    """A linear layer with its weight transposed, which crashed a runtime."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, generator=GENERATOR))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.t())


class Normed(nn.Module):
    """A weight read plain, and as a number computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) / self.layer.weight.norm()
        return y


class Causal(nn.Module):
    """Attention with an infinite buffer."""

    mask: Tensor

    def __init__(self, size: int = 5) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mask", torch.full((size, size), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        attended: Tensor = (y @ y.mT + self.mask[: x.shape[1], : x.shape[1]]).softmax(-1) @ y
        return attended


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x, x, x, need_weights=False)[0]
        return found


class RMS(nn.Module):
    """RMSNorm as language models write it out, whose squares leave fp16."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "max_pool1d": (lambda x: F.max_pool1d(x[0], 2), IMAGE),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), IMAGE),
    "max_pool2d ceil": (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), IMAGE),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2), VOLUME),
    "avg_pool1d ceil": (lambda x: F.avg_pool1d(x[0], 3, 2, ceil_mode=True), IMAGE),
    "avg_pool2d ceil": (lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), IMAGE),
    "avg_pool2d ceil, padded": (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), IMAGE),
    "avg_pool2d ceil, padding excluded": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        IMAGE,
    ),
    "avg_pool2d divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), IMAGE),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (4, 3)), IMAGE),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (4, 3)), IMAGE),
    "pad reflect": (lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), IMAGE),
    "pad reflect 3d": (lambda x: F.pad(x, (1, 2, 2, 1, 1, 2), mode="reflect"), VOLUME),
    "pad replicate 3d": (lambda x: F.pad(x, (1, 2, 2, 1, 1, 2), mode="replicate"), VOLUME),
    "pad circular": (lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"), IMAGE),
    "pad negative": (lambda x: F.pad(x, (-1, 2, 0, -2)), IMAGE),
    "pad constant": (lambda x: F.pad(x, (1, 2, 2, 1), value=0.5), IMAGE),
    "cosine_similarity": (lambda x: F.cosine_similarity(x[:, :2], x[:, 2:], dim=1), IMAGE),
    "log_softmax": (lambda x: F.log_softmax(30 * x, 1), IMAGE),
    "logsigmoid": (F.logsigmoid, IMAGE),
    "std": (lambda x: x.std(1), IMAGE),
    "var": (lambda x: x.var((2, 3)), IMAGE),
    "sign": (torch.sign, IMAGE),
    "round": (torch.round, IMAGE),
    "atan": (torch.atan, IMAGE),
    "topk of equal values": (lambda x: x.relu().topk(6, -1)[0], IMAGE),
    "topk": (lambda x: x.topk(3, -1)[0], IMAGE),
    "topk, places": (lambda x: x.topk(3, -1)[1], IMAGE),
    "argsort": (lambda x: x.argsort(-1), IMAGE),
    "sort": (lambda x: x.sort(-1)[0], IMAGE),
    "argmax": (lambda x: x.argmax(1), IMAGE),
    "threshold": (lambda x: F.threshold(x, 0.1, 0.5), IMAGE),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), IMAGE),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), IMAGE),
    "tril": (torch.tril, IMAGE),
    "scatter_add": (lambda x: x.scatter_add(1, torch.zeros_like(x[:, :2]).long(), x[:, :2]), IMAGE),
    "gather": (lambda x: x.gather(1, (x > 0).long()), IMAGE),
    "index": (lambda x: x[:, :, torch.tensor([0, 3]), torch.tensor([1, 2])], IMAGE),
    "index_select": (lambda x: x.index_select(1, torch.tensor([2, 0])), IMAGE),
    "one_hot": (lambda x: F.one_hot(x.argmax(1), 4), IMAGE),
    "interpolate nearest": (lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    "interpolate nearest by 1.5": (lambda x: F.interpolate(x, scale_factor=1.5), IMAGE),
    "interpolate nearest to a size": (lambda x: F.interpolate(x, size=(5, 7)), IMAGE),
    "interpolate bilinear by 1.5": (lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"), IMAGE),
    "interpolate bilinear, corners": (
        lambda x: F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=True),
        IMAGE,
    ),
    "interpolate bicubic": (lambda x: F.interpolate(x, size=(12, 9), mode="bicubic"), IMAGE),
    "grid_sample": (
        lambda x: F.grid_sample(x, x[:, :2, :4, :4].permute(0, 2, 3, 1).round() / 4, align_corners=False),
        IMAGE,
    ),
    "lerp": (lambda x: x.lerp(x.flip(1), 0.3), IMAGE),
    "var_mean": (lambda x: torch.var_mean(x, 1)[0], IMAGE),
    "logsumexp": (lambda x: x.logsumexp(1), IMAGE),
    "local_response_norm": (lambda x: F.local_response_norm(x, 3), IMAGE),
    "normalize": (lambda x: F.normalize(x, dim=1), IMAGE),
    "norm": (lambda x: x.norm(dim=1), IMAGE),
    "prod": (lambda x: x.prod(1), IMAGE),
    "amax": (lambda x: x.amax((2, 3)), IMAGE),
    "celu": (F.celu, IMAGE),
    "elu": (F.elu, IMAGE),
    "selu": (F.selu, IMAGE),
    "gelu": (F.gelu, IMAGE),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), IMAGE),
    "silu": (F.silu, IMAGE),
    "mish": (F.mish, IMAGE),
    "relu6": (lambda x: F.relu6(5 * x), IMAGE),
    "leaky_relu": (F.leaky_relu, IMAGE),
    "hardswish": (lambda x: F.hardswish(3 * x), IMAGE),
    "hardsigmoid": (lambda x: F.hardsigmoid(3 * x), IMAGE),
    "hardtanh": (F.hardtanh, IMAGE),
    "hardshrink": (F.hardshrink, IMAGE),
    "softshrink": (F.softshrink, IMAGE),
    "tanhshrink": (F.tanhshrink, IMAGE),
    "softplus": (F.softplus, IMAGE),
    "softsign": (F.softsign, IMAGE),
    "glu": (lambda x: F.glu(x, 1), IMAGE),
    "softmax": (lambda x: x.softmax(1), IMAGE),
    "erf": (torch.erf, IMAGE),
    "expm1": (torch.expm1, IMAGE),
    "log1p": (lambda x: x.abs().log1p(), IMAGE),
    "log2": (lambda x: x.abs().log2(), IMAGE),
    "sin": (lambda x: torch.sin(5 * x), IMAGE),
    "atan2": (lambda x: torch.atan2(x[:, :2], x[:, 2:]), IMAGE),
    "pow": (lambda x: x.abs() ** 1.7, IMAGE),
    "reciprocal": (lambda x: (x.abs() + 1).reciprocal(), IMAGE),
    "remainder": (lambda x: torch.remainder(x, 0.7), IMAGE),
    "fmod": (lambda x: torch.fmod(x, 0.7), IMAGE),
    "where": (lambda x: torch.where(x > 0, x, -2 * x), IMAGE),
    "masked_fill": (lambda x: x.masked_fill(x > 0, 3.0), IMAGE),
    "clamp": (lambda x: x.clamp(-0.3, 0.9), IMAGE),
    "scaled_dot_product_attention": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), SEQUENCE),
    "einsum": (lambda x: torch.einsum("bchw,bkhw->bck", x, x), IMAGE),
    "cumsum": (lambda x: x.cumsum(-1), IMAGE),
    "cumprod": (lambda x: x.cumprod(-1), IMAGE),
    "roll": (lambda x: x.roll(2, -1), IMAGE),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), IMAGE),
    "unfold": (lambda x: F.unfold(x, 3), IMAGE),
    "chunk": (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), IMAGE),
    "diagonal": (lambda x: x.diagonal(dim1=2, dim2=3), IMAGE),
    "grid_sample nearest": (
        lambda x: F.grid_sample(x, x[:, :2, :4, :4].permute(0, 2, 3, 1), mode="nearest", align_corners=False),
        IMAGE,
    ),
    "argmin of equal values": (lambda x: x.relu().argmin(-1), IMAGE),
    "topk of equal values, places": (lambda x: x.relu().topk(6, -1)[1], IMAGE),
    "random": (lambda x: x + torch.randn_like(x), IMAGE),
    "nan_to_num": (torch.nan_to_num, IMAGE),
    "antialias": (lambda x: F.interpolate(x, size=(5, 3), mode="bilinear", antialias=True), IMAGE),
    "erfinv": (torch.erfinv, IMAGE.tanh()),
    "index_add": (lambda x: x.index_add(1, torch.tensor([0, 2]), x[:, :2]), IMAGE),
    "median": (lambda x: x.median(-1)[0], IMAGE),
    "complex": (lambda x: torch.fft.rfft(x).abs(), IMAGE),
}

LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "Linear": (lambda: nn.Linear(6, 5), IMAGE),
    "Linear of a transposed weight": (Transposed, IMAGE),
    "Embedding": (lambda: nn.Embedding(5, 4), TOKENS),
    "Conv1d": (lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 6, 3, padding=1)), IMAGE),
    "Conv2d strided, dilated": (lambda: nn.Conv2d(4, 6, 3, 2, 2, 2), IMAGE),
    "Conv2d depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), IMAGE),
    "Conv2d padded by reflection": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), IMAGE),
    "Conv3d": (lambda: nn.Conv3d(4, 3, 3, padding=1), VOLUME),
    "ConvTranspose1d": (lambda: nn.Sequential(nn.Flatten(2), nn.ConvTranspose1d(4, 6, 3, 2)), IMAGE),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 3, 3, 2, 1, 1), IMAGE),
    "ConvTranspose2d grouped": (lambda: nn.ConvTranspose2d(4, 4, 2, 2, groups=2), IMAGE),
    "BatchNorm2d": (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)), IMAGE),
    "LayerNorm": (lambda: nn.LayerNorm(6), IMAGE),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), IMAGE),
    "RMSNorm": (lambda: nn.RMSNorm(6), IMAGE),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), IMAGE),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGE),
    "PReLU": (lambda: nn.PReLU(4), IMAGE),
    "GRU": (lambda: First(nn.GRU(4, 3, batch_first=True)), SEQUENCE),
    "LSTM": (lambda: First(nn.LSTM(4, 3, batch_first=True)), SEQUENCE),
    "RNN": (lambda: First(nn.RNN(4, 3, batch_first=True)), SEQUENCE),
    "MultiheadAttention": (Attention, SEQUENCE),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), SEQUENCE),
    "a weight plain and transposed": (Twice, IMAGE),
    "a weight and its norm": (Normed, IMAGE),
    "an infinite mask": (Causal, SEQUENCE),
    "a part of an infinite mask": (lambda: Causal(8), SEQUENCE),
    "GroupNorm of large values": (lambda: nn.GroupNorm(2, 4), 3000 * IMAGE),
    "RMSNorm of large values": (RMS, 3000 * IMAGE),
}


def _of(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Of(function)


CASES: Mapping[str, tuple[Callable[[], nn.Module], Tensor]] = {
    **{name: (_of(function), x) for name, (function, x) in FUNCTIONS.items()},
    **LAYERS,
}
"""By name, what makes the network in eval mode but for `eval()`, and its input, a batch of one."""
