"""What the Core ML export makes of PyTorch's operators: right, refused in a sentence, or unproven; never wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwindle.errors import DwindleError, ParityFailed, UsageError
from dwindle.export import parity
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable
from dwindle.manifest import Parity

GENERATOR = torch.Generator().manual_seed(0)
IMAGE, SEQUENCE, VOLUME = (
    torch.randn(shape, generator=GENERATOR) for shape in ((1, 4, 8, 6), (1, 5, 4), (1, 4, 5, 6, 4))
)
CLOSE = 1.5e-3
"""Over the largest output: fp16 rounds each of a few results by 5e-4 at most."""


class Of(nn.Module):
    """A function's result plus nothing: the weight is there to be read back."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.of(x).float() + self.weight.sum() * 0


class First(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)[0]
        return found


class Twice(nn.Module):
    """A weight read plain and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6, generator=GENERATOR))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + x @ self.weight.t()


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

    def __init__(self, size: int = 5) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mask", torch.full((size, size), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return (y @ y.mT + self.mask[: x.shape[1], : x.shape[1]]).softmax(-1) @ y


RIGHT: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
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
    "pad reflect": (lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), IMAGE),
    "pad reflect 3d": (lambda x: F.pad(x, (1, 2, 2, 1, 1, 2), mode="reflect"), VOLUME),
    "pad replicate 3d": (lambda x: F.pad(x, (1, 2, 2, 1, 1, 2), mode="replicate"), VOLUME),
    "pad circular": (lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"), IMAGE),
    "pad negative": (lambda x: F.pad(x, (-1, 2, 0, -2)), IMAGE),
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
    "threshold": (lambda x: F.threshold(x, 0.1, 0.5), IMAGE),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), IMAGE),
    "tril": (torch.tril, IMAGE),
    "scatter_add": (lambda x: x.scatter_add(1, torch.zeros_like(x[:, :2]).long(), x[:, :2]), IMAGE),
    "gather": (lambda x: x.gather(1, (x > 0).long()), IMAGE),
    "index": (lambda x: x[:, :, torch.tensor([0, 3]), torch.tensor([1, 2])], IMAGE),
    "one_hot": (lambda x: F.one_hot(x.argmax(1), 4), IMAGE),
    "interpolate nearest": (lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    "interpolate nearest by 1.5": (lambda x: F.interpolate(x, scale_factor=1.5), IMAGE),
    "interpolate nearest to a size": (lambda x: F.interpolate(x, size=(5, 7)), IMAGE),
    "interpolate bilinear by 1.5": (lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"), IMAGE),
    "grid_sample": (
        lambda x: F.grid_sample(x, x[:, :2, :4, :4].permute(0, 2, 3, 1).round() / 4, align_corners=False),
        IMAGE,
    ),
    "lerp": (lambda x: x.lerp(x.flip(1), 0.3), IMAGE),
    "var_mean": (lambda x: torch.var_mean(x, 1)[0], IMAGE),
    "logsumexp": (lambda x: x.logsumexp(1), IMAGE),
    "local_response_norm": (lambda x: F.local_response_norm(x, 3), IMAGE),
    "celu": (F.celu, IMAGE),
    "softsign": (F.softsign, IMAGE),
    "scaled_dot_product_attention": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), SEQUENCE),
    "atan2": (lambda x: torch.atan2(x[:, :2], x[:, 2:]), IMAGE),
    "log2": (lambda x: x.abs().log2(), IMAGE),
    "cumsum": (lambda x: x.cumsum(-1), IMAGE),
}

LAYERS: dict[str, tuple[nn.Module, Tensor]] = {
    "RMSNorm": (nn.RMSNorm(6), IMAGE),
    "ChannelShuffle": (nn.ChannelShuffle(2), IMAGE),
    "GroupNorm": (nn.GroupNorm(2, 4), IMAGE),
    "PReLU": (nn.PReLU(4), IMAGE),
    "Conv3d": (nn.Conv3d(4, 3, 3, padding=1), VOLUME),
    "GRU": (First(nn.GRU(4, 3, batch_first=True)), SEQUENCE),
    "LSTM": (First(nn.LSTM(4, 3, batch_first=True)), SEQUENCE),
    "RNN": (First(nn.RNN(4, 3, batch_first=True)), SEQUENCE),
    "a weight plain and transposed": (Twice(), IMAGE),
    "a weight and its norm": (Normed(), IMAGE),
    "an infinite mask": (Causal(), SEQUENCE),
    "a part of an infinite mask": (Causal(8), SEQUENCE),
}

NOT: dict[str, tuple[nn.Module, Tensor, type[DwindleError], str]] = {
    "grid_sample nearest": (
        Of(lambda x: F.grid_sample(x, x[:, :2, :4, :4].permute(0, 2, 3, 1), mode="nearest", align_corners=False)),
        IMAGE,
        ParityFailed,
        "unproven",
    ),
    "argmin of equal values": (Of(lambda x: x.relu().argmin(-1)), IMAGE, ParityFailed, "unproven"),
    "topk of equal values, places": (Of(lambda x: x.relu().topk(6, -1)[1]), IMAGE, ParityFailed, "unproven"),
    "random": (Of(lambda x: x + torch.randn_like(x)), IMAGE, ParityFailed, "unproven"),
    "nan_to_num": (Of(torch.nan_to_num), IMAGE, ParityFailed, "unproven"),
    "antialias": (
        Of(lambda x: F.interpolate(x, size=(5, 3), mode="bilinear", antialias=True)),
        IMAGE,
        ParityFailed,
        "outputs-differ",
    ),
    "GroupNorm of large values": (nn.GroupNorm(2, 4), 3000 * IMAGE, ParityFailed, "outputs-differ"),
    "erfinv": (Of(torch.erfinv), IMAGE.tanh(), UsageError, "not-convertible"),
    "index_add": (Of(lambda x: x.index_add(1, torch.tensor([0, 2]), x[:, :2])), IMAGE, UsageError, "not-convertible"),
    "median": (Of(lambda x: x.median(-1)[0]), IMAGE, UsageError, "not-convertible"),
    "complex": (Of(lambda x: torch.fft.rfft(x).abs()), IMAGE, UsageError, "not-convertible"),
}


def compared(module: nn.Module, x: Tensor, folder: Path) -> Parity:
    shipped, path, target = deployable(module.eval(), (x,)), folder / "net.mlpackage", CoreML()
    target.write(shipped, (x,), path, pack=True)
    return parity.check(target, path, module, shipped, (x,))


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_an_operator_is_right(name: str, tmp_path: Path) -> None:
    of, x = RIGHT[name]
    found = compared(Of(of), x, tmp_path)
    assert found.relative is not None
    assert found.relative < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_right(name: str, tmp_path: Path) -> None:
    found = compared(*LAYERS[name], tmp_path)
    assert found.relative is not None
    assert found.relative < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT)
def test_what_is_not_right_is_not_kept(name: str, tmp_path: Path) -> None:
    module, x, kind, code = NOT[name]
    with pytest.raises(kind) as raised:
        compared(module, x, tmp_path)
    assert raised.value.code == code


def test_the_table_has_many() -> None:
    assert len(RIGHT) + len(LAYERS) + len(NOT) >= 60


def test_an_unproven_file_is_kept_where_asked_for(tmp_path: Path) -> None:
    """Of random numbers nothing can be proven: the sentence names the operator, and the parity says so."""
    module = nn.Sequential(nn.Conv2d(4, 4, 1), Of(lambda x: x + torch.randn_like(x))).eval()
    shipped, path = deployable(module, (IMAGE,)), tmp_path / "net.mlpackage"
    CoreML().write(shipped, (IMAGE,), path, pack=True)
    with pytest.raises(ParityFailed) as raised:
        parity.check(CoreML(), path, module, shipped, (IMAGE,))
    assert (raised.value.code, raised.value.name) == ("unproven", "random_normal")
    found = parity.check(CoreML(), path, module, shipped, (IMAGE,), unproven=True)
    assert found.relative is None
    assert found.not_run is not None
    assert "random_normal" in found.not_run
    assert found.weights_equal
