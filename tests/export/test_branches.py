"""Blocks in the form that they are trained in become one convolution, and only where one computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dwindle.export.branches import Merge
from dwindle.export.fold import deployable, fold, foldable
from dwindle.export.onnx.target import Onnx
from dwindle.export.parity import compare


def conv(inputs: int, outputs: int, kernel: int, *, groups: int = 1, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class RepVgg(nn.Module):
    """As in RepVGG: a kernel of 3, one of 1, and the normalised input."""

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.large, self.small = conv(channels, channels, 3, groups=groups), conv(channels, channels, 1, groups=groups)
        self.norm, self.act = nn.BatchNorm2d(channels), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        summed = self.large(x) + self.small(x)
        summed += self.norm(x)
        result: Tensor = self.act(summed)
        return result


class MobileOne(nn.Module):
    """As in MobileOne: any number of branches, added up from 0 on, and two modules after it."""

    def __init__(self, inputs: int, outputs: int, branches: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv(inputs, outputs, 3, stride=2) for _ in range(branches)])
        self.gate, self.act = nn.Sequential(nn.Conv2d(outputs, outputs, 1), nn.Sigmoid()), nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor | int = 0
        for branch in self.branches:
            summed = summed + branch(x)
        summed += 0
        result: Tensor = self.act(self.gate(summed))
        return result


class RepVit(nn.Module):
    """As in RepViT: the input itself, and a batch norm over the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.large, self.small = (
            conv(channels, channels, 5, groups=channels),
            nn.Conv2d(channels, channels, 1, groups=channels),
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.large(x) + self.small(x) + x)
        return result


class RepMixer(nn.Module):
    """As in FastViT: a block within it, a difference, and a factor for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mixer, self.norm = RepVit(channels), nn.BatchNorm2d(channels)
        self.factor = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.mixer(x) - self.norm(x)) * self.factor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = MobileOne(3, 8, 2), nn.Sequential(RepVgg(8), RepVgg(8, 2), RepVit(8), RepMixer(8))
        self.down, self.head = MobileOne(8, 12, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.down(self.body(self.stem(x))).mean((2, 3)))
        return result


def difference(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    module.eval()
    with torch.no_grad():
        ours, theirs = deployable(module, inputs)(*inputs), module(*inputs)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def merged(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    return [one.path for one in foldable(module, inputs) if isinstance(one, Merge)]


IMAGE = (torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)


def test_each_block_becomes_one_convolution(trained: Callable[..., nn.Module]) -> None:
    network = trained(Net())
    assert merged(network, IMAGE) == ["stem", "down", "body.0", "body.1", "body.2", "body.3"]
    shipped = deployable(network, IMAGE)
    assert sum(isinstance(one, nn.Conv2d) for one in shipped.modules()) == 6 + 2  # and the two gates
    assert not any(isinstance(one, nn.BatchNorm2d) for one in shipped.modules())
    assert {"stem.gate.0.weight", "stem.merged.weight"} <= dict(shipped.named_parameters()).keys()
    assert difference(network, IMAGE) < 1e-5


def test_a_merged_convolution_has_no_more_survivors_than_its_branches(
    trained: Callable[..., nn.Module], masked: Callable[..., nn.Module]
) -> None:
    network = masked(trained(Net()), 0.2)
    kept = sum(int((one.weight != 0).sum()) for one in network.modules() if isinstance(one, nn.Conv2d))
    straight = 8 * 4  # the input itself is a branch of four blocks
    held = [one.weight for one in deployable(network, IMAGE).modules() if isinstance(one, nn.Conv2d)]
    assert sum(int((one != 0).sum()) for one in held) <= kept + straight
    assert any((one == 0).any() for one in held)


@pytest.mark.slow
def test_the_file_is_the_network_and_its_bytes_are_counted_merged(
    tmp_path: Path, trained: Callable[..., nn.Module], masked: Callable[..., nn.Module]
) -> None:
    network, path = masked(trained(Net()), 0.3).eval(), tmp_path / "net.onnx"
    shipped, target = deployable(network, IMAGE), Onnx()
    target.write(shipped, IMAGE, path, pack=True)
    compared = compare(target, path, network, shipped, (torch.rand(8, 3, 16, 16),))
    assert compared.parity.weights_equal is not None
    assert target.packer(network, IMAGE)(network) == path.stat().st_size


class Block(nn.Module):
    """Two convolutions that are added up."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, straight: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.straight = first, second, straight

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.first(x) + self.second(x)
        return summed + x if self.straight else summed


@settings(max_examples=25)
@given(
    kernels=st.tuples(*[st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 1), (2, 2), (4, 4)])] * 2),
    paddings=st.tuples(*[st.sampled_from([(0, 0), (1, 1), (0, 1), (2, 0), (2, 2)])] * 2),
    groups=st.tuples(*[st.sampled_from([1, 2, 4])] * 2),
    strides=st.tuples(*[st.sampled_from([1, 2])] * 2),
    straight=st.booleans(),
)
def test_whatever_is_merged_computes_the_same(
    kernels: tuple[tuple[int, int], tuple[int, int]],
    paddings: tuple[tuple[int, int], tuple[int, int]],
    groups: tuple[int, int],
    strides: tuple[int, int],
    straight: bool,
) -> None:
    layers = [
        nn.Conv2d(4, 4, kernel, stride, padding, groups=count)
        for kernel, padding, count, stride in zip(kernels, paddings, groups, strides, strict=True)
    ]
    network, inputs = nn.Sequential(Block(layers[0], layers[1], straight)), (torch.rand(1, 4, 9, 9),)
    try:
        network(*inputs)
    except RuntimeError:
        return  # sizes that can't be added
    assert difference(network, inputs) < 1e-5
    same = len({*kernels}) == len({*paddings}) == len({*groups}) == len({*strides}) == 1
    if same and not straight:
        assert merged(network, inputs) == ["0"]


class Looks(nn.Module):
    """A block whose layers the network's own code looks at, and one that is called by name."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_at, self.by_name, self.twice = RepVgg(4), RepVgg(4), RepVgg(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.looked_at(x) * self.looked_at.large[0].kernel_size[0]
        result: Tensor = self.twice(self.twice(self.by_name(x=x)))
        return result


class Overwrites(RepVgg):
    """A block that changes its own input, and one whose branch is read by something else as well."""

    def forward(self, x: Tensor) -> Tensor:
        branch = self.small(x)
        return self.large(x) + branch + branch.relu()


@pytest.mark.parametrize("network", [Looks(), nn.Sequential(Overwrites(4))], ids=["looked at", "read twice"])
def test_a_block_that_something_else_needs_stays(network: nn.Module, trained: Callable[..., nn.Module]) -> None:
    network, inputs = trained(network), (torch.rand(1, 4, 6, 6),)
    assert merged(network, inputs) == []
    assert difference(network, inputs) < 1e-5


class Activated(nn.BatchNorm2d):
    """A batch norm with an activation in it, as timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(super().forward(x))
        return result


class Doubled(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_a_norm_that_calls_an_activation_folds_and_one_that_does_more_stays(trained: Callable[..., nn.Module]) -> None:
    network = trained(nn.Sequential(nn.Conv2d(3, 4, 3), Activated(4), nn.Conv2d(4, 4, 3), Doubled(4)))
    folds = foldable(network, IMAGE)
    assert [tuple(one) for one in folds] == [("0", "1", ("act",))]
    assert isinstance(fold(network, folds).get_submodule("1.act"), nn.ReLU)
    assert difference(network, IMAGE) < 1e-5


@pytest.mark.slow
@pytest.mark.needs("timm")
@pytest.mark.parametrize(
    "name",
    [
        "repvgg_a0",
        "mobileone_s0",
        "repvit_m0_9",
        "fastvit_t8",
        "mobilenetv3_small_050",
    ],
)
def test_timms_networks_ship_without_branches_and_batch_norm(name: str, trained: Callable[..., nn.Module]) -> None:
    import timm

    network, inputs = trained(timm.create_model(name, num_classes=5)), (torch.rand(1, 3, 64, 64),)
    norms = [path for path, one in deployable(network, inputs).named_modules() if isinstance(one, nn.BatchNorm2d)]
    assert norms == []
    assert difference(network, inputs) < 1e-4
