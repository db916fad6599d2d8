from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import DwindleError, UsageError
from dwindle.export import rounding
from dwindle.export.fold import deployable, tensors
from dwindle.export.parity import check
from dwindle.export.quantize import CODED, LARGEST_INT4, SCALES, quantized, spread, stored
from dwindle.export.rounding import Calibrated, calibrated
from dwindle.export.target import Target
from dwindle.export.targets import load


class Mixed(nn.Module):
    """Layers of every kind that codes are chosen for, in rows long enough to have scales, and some that are left."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.down = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(24, 8, 4, stride=2, padding=1)
        self.head = nn.Linear(8 * 16, 10)
        self.twice = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.down(self.depthwise(x)).relu()
        x = self.up(x).relu()
        logits: Tensor = self.head(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))
        return self.twice(self.twice(logits)) / 100 + logits


def samples(count: int = 128) -> tuple[Tensor]:
    """Images with large and small structures, as photographs have them."""
    random = torch.Generator().manual_seed(3)
    coarse = torch.randn(count, 1, 2, 2, generator=random).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (coarse + 0.3 * torch.randn(count, 1, 8, 8, generator=random),)


def shipped(kept: float = 1.0, twice: nn.Module | None = None) -> nn.Module:
    """What is written of a network of which that share survives. twice: what stands in the place of `Mixed.twice`."""
    torch.manual_seed(0)
    network = Mixed().eval()
    if twice is not None:
        network.twice = twice  # type: ignore[assignment]
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.dim() > 1:
                tensor.mul_(torch.rand_like(tensor) < kept)
    return deployable(network, (samples()[0][:1],))


def noise(network: nn.Module, exact: nn.Module) -> float:
    """The energy of what rounding changed, for samples that codes weren't chosen by."""
    held_out = samples(384)[0][128:]
    with torch.no_grad():
        return float((network(held_out) - exact(held_out)).square().sum())


@pytest.mark.parametrize("kept", [pytest.param(1.0, marks=pytest.mark.slow), 0.3])
@pytest.mark.parametrize("precision", CODED)
def test_outputs_come_nearer_than_by_the_nearest_codes(precision: str, kept: float) -> None:
    network = shipped(kept)
    held = calibrated(network, stored(network, precision), samples())
    nearest, chosen = quantized(network, stored(network, precision)), quantized(network, held)
    assert noise(chosen, network) < 0.6 * noise(nearest, network)


@pytest.mark.parametrize("precision", CODED)
def test_codes_are_the_formats_own_and_zeros_stay(precision: str) -> None:
    network = shipped(0.3)
    plain, held = stored(network, precision), calibrated(network, stored(network, precision), samples())
    before = copy.deepcopy(network.state_dict())
    for name, tensor in tensors(network).items():
        own, like = held[name], plain[name]
        assert (own.kind, own.values.shape, own.values.dtype) == (like.kind, like.values.shape, like.values.dtype)
        assert torch.equal(tensor, before[name])
        if tensor.dim() > 1:
            assert not own.values[tensor.numpy() == 0].any()
        if own.kind == "int4":
            assert own.scale is not None
            assert np.abs(own.values).max() <= LARGEST_INT4
            spread(SCALES[own.scale], own.values.shape)
        if own.palette is not None:
            assert own.palette[0] == 0
            assert own.values.max() < 16


class Sequences(nn.Module):
    """Attention over an image's rows, which a recurrent layer then reads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.gru = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x[:, 0])
        logits: Tensor = self.head(self.gru(self.attention(x, x, x)[0])[0][:, -1])
        return logits


@pytest.mark.parametrize("precision", CODED)
def test_attention_and_recurrent_layers_are_rounded_by_samples_too(precision: str) -> None:
    torch.manual_seed(0)
    network = deployable(Sequences().eval(), (samples()[0][:1],))
    plain, held = stored(network, precision), calibrated(network, stored(network, precision), samples())
    coded = {name for name, each in plain.items() if each.scale is not None or each.palette is not None}
    assert coded >= {"attention.in_proj_weight", "gru.weight_ih_l0", "gru.weight_hh_l0"}
    assert all(not np.array_equal(held[name].values, plain[name].values) for name in coded)
    assert noise(quantized(network, held), network) < 0.6 * noise(quantized(network, plain), network)


@pytest.mark.slow
def test_the_same_samples_choose_the_same_codes() -> None:
    one, other = (calibrated(shipped(), stored(shipped(), "int4"), samples()) for _ in range(2))
    assert all(np.array_equal(one[name].values, other[name].values) for name in one)


def test_what_stores_no_codes_is_rounded_as_ever() -> None:
    network = shipped()
    for precision in ("fp32", "fp16"):
        held, plain = calibrated(network, stored(network, precision), samples()), stored(network, precision)
        assert all(np.array_equal(held[name].values, plain[name].values) for name in plain)


def test_layers_that_are_called_twice_take_the_nearest_codes() -> None:
    network = shipped()
    plain = stored(network, "int8")
    held = calibrated(network, plain, samples())
    assert np.array_equal(held["twice.weight"].values, plain["twice.weight"].values)
    assert not np.array_equal(held["head.weight"].values, plain["head.weight"].values)


def test_codes_that_samples_make_worse_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding._Matrix, "improved", lambda self, chosen: torch.zeros_like(chosen))
    network = shipped()
    plain = stored(network, "int8")
    held = calibrated(network, plain, samples())
    assert np.array_equal(held["head.weight"].values, plain["head.weight"].values)


def test_passing_errors_on_and_trying_codes_again_lower_the_error() -> None:
    random = torch.Generator().manual_seed(1)
    mixed = torch.randn(20, 70, generator=random).double()
    square = mixed.T @ mixed / 20 + 0.05 * torch.eye(70)
    start = torch.randn(6, 70, generator=random).double()
    levels = rounding._Levels(torch.arange(-7, 8).double(), torch.arange(-7, 8).to(torch.int8), 7)
    one = rounding._Matrix(square, start @ square, torch.full_like(start, 0.4), start.abs() > 0.5, levels)

    def error(chosen: Tensor) -> float:
        apart = one._values(chosen, slice(None)) - start
        return float(((apart @ square) * apart).sum())

    nearest, passed = one._nearest(start, slice(None)), one.passed_on(start)
    improved = one.improved(passed.clone())
    assert error(improved) <= error(passed) < error(nearest)
    assert (improved[~one.alive] == levels.zero).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [("onnx", "int4"), ("coreml", "palette4"), pytest.param("mnn", "int8", marks=pytest.mark.needs("mnn"))],
)
def test_a_file_holds_the_codes_that_were_chosen(name: str, precision: str, tmp_path: Path) -> None:
    target = load(name, precision).rounded_by(Calibrated(samples()))
    network, example = shipped(0.5), (samples()[0][:1],)
    path = tmp_path / f"net{target.suffix}"
    target.write(network, example, path, pack=True)
    assert check(target, path, network, network, samples(16)).relative is not None
    found, held = target.decode(path, network), calibrated(network, stored(network, precision), samples())
    assert any(
        not np.array_equal(found[name], _decoded(target, stored(network, precision)[name].decoded())) for name in found
    )
    for tensor, weights in found.items():
        np.testing.assert_array_equal(weights, _decoded(target, held[tensor].decoded()))


def _decoded(target: Target, values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16) if target.arithmetic == "fp16" else values


INT8 = [
    "onnx",
    "coreml",
    pytest.param("executorch", marks=pytest.mark.slow),
    pytest.param("executorch-coreml", marks=pytest.mark.slow),
    pytest.param("litert", marks=[pytest.mark.slow, pytest.mark.needs("litert")]),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", INT8)
def test_a_file_that_computes_in_int8_holds_codes_that_samples_chose(name: str, tmp_path: Path) -> None:
    network, example = shipped(0.5, nn.Identity()), (samples()[0][:1],)
    nearest = load(name, "w8a8").calibrated(samples())
    chosen = nearest.rounded_by(Calibrated(samples()))
    path = tmp_path / f"net{chosen.suffix}"
    chosen.write(network, example, path, pack=True)
    assert check(chosen, path, network, network, samples(16)).relative is not None
    plain, rounded = (target.as_stored(network, activations=False) for target in (nearest, chosen))
    assert noise(rounded, network) < 0.6 * noise(plain, network)
    found = chosen.decode(path, network)
    for weight in ("down.weight", "up.weight", "head.weight"):  # `up` has its channels along another dimension
        held = torch.from_numpy(found[weight].astype(np.float32))
        torch.testing.assert_close(held, rounded.get_parameter(weight), rtol=2**-10, atol=0)
        assert not torch.equal(held, plain.get_parameter(weight))
        assert not held[network.get_parameter(weight) == 0].any()


@pytest.mark.slow
@pytest.mark.parametrize("keep", [("down",), ("auto",)])
def test_what_stays_float_has_no_codes_to_choose(keep: tuple[str, ...]) -> None:
    network = shipped()
    target = load("onnx", "w8a8").calibrated(samples()).rounded_by(Calibrated(samples())).keeping(keep)
    made = target.as_stored(network, activations=False)
    if keep == ("down",):
        weight = network.get_parameter("down.weight")
        assert torch.equal(made.get_parameter("down.weight"), weight.half().float())
    plain = load("onnx", "w8a8").calibrated(samples()).keeping(keep).as_stored(network, activations=False)
    assert not torch.equal(made.get_parameter("head.weight"), plain.get_parameter("head.weight"))


def test_samples_that_fit_no_rounding_are_refused() -> None:
    with pytest.raises(UsageError):
        Calibrated((torch.randn(1, 3),))
    with pytest.raises(UsageError):
        calibrated(shipped(), stored(shipped(), "int8"), (torch.ones(8, 1, 8, 8),))
    broken = shipped()
    with torch.no_grad():
        broken.get_parameter("down.weight").fill_(torch.finfo(torch.float32).max)
    with pytest.raises(DwindleError):
        calibrated(broken, stored(broken, "int8"), samples())
