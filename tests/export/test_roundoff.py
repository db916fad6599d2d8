"""Networks that carry rounding far: what cancels in a sum, and is divided by a small deviation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.compress.recalibrate import recalibrate
from dwindle.errors import ParityFailed
from dwindle.export.answers import outputs_of
from dwindle.export.first_off import first_off
from dwindle.export.fold import deployable
from dwindle.export.onnx.target import Onnx
from dwindle.export.parity import CARRIED, TOLERANCE, Allowed, check
from dwindle.export.roundoff import carried
from dwindle.export.target import Outputs


class Off(Onnx):
    """A runtime whose answers are that share off."""

    share = 0.0

    def run(self, path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        return tuple(one * np.float32(1 + self.share) for one in super().run(path, inputs, batch=batch))


@pytest.fixture
def images() -> tuple[Tensor]:
    """Plain ones, with hardly anything to see."""
    return (0.99 + 1e-4 * torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


@pytest.fixture
def network(images: tuple[Tensor]) -> nn.Module:
    """Edges of images, normalised."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-9), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    with torch.no_grad():
        made[0].weight -= made[0].weight.mean((1, 2, 3), keepdim=True)
    recalibrate(made, images)
    return made.eval()


def noise(network: nn.Module, samples: tuple[Tensor]) -> float:
    (exact,) = outputs_of(network.double(), (samples[0].double(),))
    reference = outputs_of(network.float(), samples)
    (share,) = carried(network, reference, reference, samples)
    own = float(np.abs(reference[0] - exact).max() / np.abs(exact).max())
    assert own < share < 100 * own
    return share


def test_it_is_known_how_far_a_network_carries_rounding(network: nn.Module, images: tuple[Tensor]) -> None:
    assert noise(network, images) > 2 * TOLERANCE["fp32"]
    varied = (torch.randn_like(images[0]),)
    recalibrate(network, varied)
    assert noise(network, varied) < TOLERANCE["fp32"] / 10


def test_a_file_is_allowed_what_its_network_carries_and_no_more(
    network: nn.Module, images: tuple[Tensor], tmp_path: Path
) -> None:
    path, target, shipped = tmp_path / "net.onnx", Off(), deployable(network, (images[0][:1],))
    target.write(shipped, (images[0][:1],), path, pack=False)
    share = noise(shipped, images)
    target.share = share / 2
    parity = check(target, path, network, shipped, images)
    assert parity.tolerance == pytest.approx(share, rel=0.5)
    target.share = 2 * share
    with pytest.raises(ParityFailed) as failed:
        check(target, path, network, shipped, images)
    assert failed.value.code == "outputs-differ"


@pytest.mark.slow
def test_what_a_network_carries_is_no_operator_that_differs(network: nn.Module, images: tuple[Tensor]) -> None:
    target, example = Off(), (images[0][:1],)
    shipped = deployable(network, example)
    share = noise(shipped, images)
    target.share = share / 2
    assert first_off(target, shipped, example, images, pack=False) is None
    target.share = 2 * share
    assert first_off(target, shipped, example, images, pack=False) is not None


def test_no_network_carries_further_than_fp16(network: nn.Module, images: tuple[Tensor], tmp_path: Path) -> None:
    flatter, path = (0.99 + (images[0] - 0.99) / 200,), tmp_path / "net.onnx"
    recalibrate(network, flatter)
    target, shipped = Off(), deployable(network, (flatter[0][:1],))
    target.write(shipped, (flatter[0][:1],), path, pack=False)
    target.share = 0.03
    assert noise(shipped, flatter) > target.share > TOLERANCE["fp16"]
    with pytest.raises(ParityFailed) as failed:
        check(target, path, network, shipped, flatter)
    assert failed.value.code == "outputs-differ"


@pytest.mark.parametrize(
    ("arithmetic", "share", "most"),
    [("fp16", 0.0, 2e-2), ("fp16", 1.5e-4, 3e-2), ("fp16", 1.0, CARRIED * 2e-2), ("fp32", 1.0, 2e-2)],
)
def test_what_is_carried_counts_for_so_much(arithmetic: str, share: float, most: float) -> None:
    assert Allowed(TOLERANCE[arithmetic]).carrying(share).most == pytest.approx(most)
