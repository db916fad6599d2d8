"""Sums of convolutions within other code become one of them, and only where that computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwindle.export.fold import deployable, foldable
from dwindle.export.onnx.target import Onnx
from dwindle.export.parity import compare
from dwindle.export.sums import Sum

IMAGE = (torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(1)),)
Code = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Layers for code that is the network's own."""

    def __init__(self, code: Code) -> None:
        super().__init__()
        self.code, self.first, self.last = code, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.large, self.small = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)
        self.other, self.more = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.norm, self.normed, self.straight = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.last(self.code(self, self.first(x).relu())).mean((2, 3))
        return answer


def every(net: Any, x: Tensor) -> Tensor:
    result: Tensor = net.norm(net.large(x)) + net.normed(net.small(x)) + net.straight(x) + x
    return result.relu()


def in_place(net: Any, x: Tensor) -> Tensor:
    y = net.small(x)
    y += net.large(x)
    y = y.relu()
    result: Tensor = net.other(y) + net.more(y)
    return result


def looked_at(net: Any, x: Tensor) -> Tensor:
    result: Tensor = (net.large(x) + net.small(x)) * net.small.kernel_size[0]
    return result


def read_twice(net: Any, x: Tensor) -> Tensor:
    y = net.small(x)
    result: Tensor = net.large(x) + y + y.relu()
    return result


def overwritten(net: Any, x: Tensor) -> Tensor:
    y = net.small(x)
    x.mul_(2)
    result: Tensor = net.large(x) + y
    return result


def twice(net: Any, x: Tensor) -> Tensor:
    y = net.small(x)
    result: Tensor = y + y
    return result + net.large(net.large(x))


def one_after_the_other(net: Any, x: Tensor) -> Tensor:
    y = net.large(x)
    result: Tensor = y + net.small(y)
    return result


def sums(network: nn.Module) -> list[tuple[str, set[str]]]:
    found = [one for one in foldable(network, IMAGE) if isinstance(one, Sum)]
    return sorted((one.largest, set(one.replaced) - {one.largest}) for one in found)


def difference(network: nn.Module) -> float:
    with torch.no_grad():
        ours, theirs = deployable(network, IMAGE)(*IMAGE), network(*IMAGE)
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (every, [("large", {"norm", "small", "normed", "straight"})]),
        (in_place, [("large", {"small"}), ("other", {"more"})]),
    ],
)
def test_sums_in_code_that_does_more_are_merged(
    code: Code, expected: list[tuple[str, set[str]]], root: bool, trained: Callable[..., nn.Module]
) -> None:
    network = trained(Net(code)).eval()
    assert sums(network) == expected
    assert difference(network) < 1e-5
    if not root:
        whole = nn.Sequential(network, nn.ReLU())
        assert sums(whole) == [(f"0.{one}", {f"0.{path}" for path in paths}) for one, paths in expected]
        assert difference(whole) < 1e-5


@pytest.mark.parametrize("code", [looked_at, read_twice, overwritten, twice, one_after_the_other])
def test_a_sum_that_something_else_needs_stays(code: Code, trained: Callable[..., nn.Module]) -> None:
    network = trained(Net(code)).eval()
    assert sums(network) == []
    assert difference(network) < 1e-5


def test_the_file_is_the_network_and_has_fewer_convolutions(
    tmp_path: Path, trained: Callable[..., nn.Module], masked: Callable[..., nn.Module]
) -> None:
    network, path = masked(trained(Net(every)), 0.3).eval(), tmp_path / "net.onnx"
    shipped, target = deployable(network, IMAGE), Onnx()
    target.write(shipped, IMAGE, path, pack=True)
    assert compare(target, path, network, shipped, (torch.rand(8, 3, 9, 9),)).parity.weights_equal is not None
    assert target.packer(network, IMAGE)(network) == path.stat().st_size
    used = {name for name, _ in shipped.named_parameters()}
    assert not any(name.startswith(("small", "norm", "straight")) for name in used)
