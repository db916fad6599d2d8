"""Inputs in another memory format, and inputs that are no floats: what an app feeds is what is proven."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.compress import compress
from dwindle.errors import UsageError
from dwindle.export import targets
from dwindle.export.fold import deployable
from dwindle.export.one_target import export_networks
from dwindle.export.parity import check
from dwindle.export.target import Target
from dwindle.export.w8a8 import quantize
from dwindle.models.checked_task import CheckedTask
from tests.tasks import PlainTask

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def small(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 5))
    return nn.Sequential(*layers).eval().requires_grad_(False)


class ChannelsLast(PlainTask):
    def __init__(self, channels: int) -> None:
        self.images = IMAGES[:, :channels].to(memory_format=torch.channels_last)

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self.images[:1],)

    def inputs(self, split: str) -> tuple[Tensor, ...]:
        return (self.images,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "executorch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_file_of_a_channels_last_task_takes_what_an_app_feeds(name: str, channels: int, tmp_path: Path) -> None:
    task, network, target = CheckedTask(ChannelsLast(channels)), small(channels), targets.load(name)
    path = tmp_path / f"net{target.suffix}"
    shipped = deployable(network, task.example_inputs())
    target.write(shipped, task.example_inputs(), path, pack=True)
    parity = check(target, path, network, shipped, task.inputs("validation"))
    assert parity.relative is not None
    images = IMAGES[:, :channels].contiguous()
    np.testing.assert_allclose(target.run(path, (images,))[0], network(images).numpy(), atol=1e-5)


@pytest.mark.slow
def test_a_channels_last_network_is_written_all_the_same(tmp_path: Path) -> None:
    network, target = small().to(memory_format=torch.channels_last), targets.load("executorch")
    shipped = deployable(network, (IMAGES[:1],))
    target.write(shipped, (IMAGES[:1],), tmp_path / "net.pte", pack=True)
    np.testing.assert_allclose(target.run(tmp_path / "net.pte", (IMAGES,))[0], network(IMAGES).numpy(), atol=1e-5)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last), "the user's own stays as it is"


class Words(nn.Module):
    """A sentence of token ids, its mask and a number: an input of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor, scale: Tensor) -> Tensor:
        return self.head(self.embed(ids).mean(1) * scale)


IDS = torch.randint(0, 50, (6, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [
        targets.load("onnx"),
        targets.load("onnx", "int8"),
        targets.load("executorch"),
        targets.load("executorch", "int8"),
        targets.load("executorch", "w8a8"),
    ],
    ids=lambda target: f"{target.name}-{target.precision}",
)
def test_token_ids_stay_integers(target: Target, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs = Words().eval().requires_grad_(False), (IDS, torch.rand(6, 1))
    example = tuple(tensor[:1] for tensor in inputs)
    networks = {name: (network, deployable(network, example)) for name in ("net", "dense")}
    manifest = export_networks(networks, example, inputs, tmp_path / "out", target.calibrated(inputs))
    assert manifest.parity.relative is not None
    assert manifest.parity.samples == 6
    (found,) = target.run(tmp_path / "out" / f"net{target.suffix}", inputs)
    np.testing.assert_allclose(found, network(*inputs).numpy(), atol=0.1 if "8" in target.precision else 1e-5)


class OfAnotherShape(ChannelsLast):
    """Without labels."""

    fit = evaluate = None  # type: ignore[assignment]

    def inputs(self, split: str) -> tuple[Tensor, ...]:
        return (self.images[..., :6],)


def flat_linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()


def test_samples_that_the_network_cannot_take_set_no_ranges() -> None:
    with pytest.raises(UsageError) as refused:
        quantize(flat_linear().requires_grad_(False), (IMAGES[..., :6],))
    assert (refused.value.code, refused.value.name) == ("doesnt-fit", "inputs")


@pytest.mark.slow
def test_inputs_that_the_network_cannot_take_are_refused_before_anything_is_solved(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        compress(flat_linear(), tmp_path / "net", task=OfAnotherShape(3), density=0.5, method="calibrate")
    assert (refused.value.code, refused.value.name) == ("doesnt-fit", "inputs")
