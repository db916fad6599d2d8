"""Programs converted from small modules, run by our interpreter, against the modules themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwindle.errors import ParityFailed, RuntimeUnavailable
from dwindle.export import parity
from dwindle.export.coreml.mil_ops import OPERATIONS
from dwindle.export.coreml.mil_torch import Interpreter
from dwindle.export.coreml.read import MODEL, main_block, read
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable
from dwindle.models import zoo
from tests.export.coreml import test_mil_ops

Changed = Callable[..., nn.Module]


class Of(nn.Module):
    """A function's results, one after another."""

    def __init__(self, of: Callable[..., list[Tensor]], **layers: nn.Module) -> None:
        super().__init__()
        self.of = of
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        made = self.of(self, x)
        return torch.cat([value.float().flatten() for value in made])[None]


def layers(m: nn.Module, x: Tensor) -> list[Tensor]:
    return [m.a(x), m.b(x), m.c(x), m.d(x), m.e(x), m.f(x.flatten(2)), m.norm(x), m.group(x), m.last(x), m.linear(x)]


LAYERS = {
    "a": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "b": nn.Conv2d(4, 8, (3, 2), dilation=2, padding=(2, 0), groups=2, bias=False),
    "c": nn.Conv2d(4, 4, 5, padding="same"),
    "d": nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1),
    "e": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    "f": nn.Conv1d(4, 5, 3, padding=1),
    "norm": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)),
    "group": nn.InstanceNorm2d(4, affine=True),
    "last": nn.LayerNorm([8, 6]),
    "linear": nn.Linear(6, 5),
}


def pools(_: nn.Module, x: Tensor) -> list[Tensor]:
    return [
        F.max_pool2d(x, 3, 2, 1),
        F.max_pool2d(x, 3, 2, ceil_mode=True),
        F.avg_pool2d(x, 3, 2, 1),
        F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        F.avg_pool2d(x, 2, ceil_mode=True),
        F.adaptive_avg_pool2d(x, 1),
        F.interpolate(x, size=(12, 9), mode="bilinear"),
        F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        F.interpolate(x, scale_factor=2),
        F.pixel_shuffle(x, 2),
        F.pad(x, (1, 2, 0, 1), value=0.5),
        F.pad(x, (1, 2, 0, 0), mode="reflect"),
        F.pad(x, (1, 2, 1, 1), mode="replicate"),
    ]


def activations(_: nn.Module, x: Tensor) -> list[Tensor]:
    return [
        x.relu(),
        F.relu6(4 * x),
        x.clamp(-0.5, 0.7),
        F.elu(x),
        F.leaky_relu(x, 0.2),
        F.gelu(x),
        F.gelu(x, approximate="tanh"),
        F.silu(x),
        x.sigmoid(),
        F.hardswish(3 * x),
        F.hardsigmoid(3 * x),
        x.softmax(1),
        F.softplus(x),
        x.tanh(),
        F.mish(x),
    ]


def arithmetic(_: nn.Module, x: Tensor) -> list[Tensor]:
    y = x.abs() + 0.5
    return [
        x + x.flip(1),
        2 - x,
        x * y,
        x / y,
        1 / y,
        (4 * x).floor() // 2,
        torch.maximum(x, x.flip(2)),
        torch.minimum(x, x.flip(2)),
        y**1.5,
        x.exp(),
        x.erf(),
        y.log(),
        y.sqrt(),
        y.rsqrt(),
        x.square(),
        (9 * x).ceil(),
        x.sin(),
        x.cos(),
        torch.where(torch.logical_and(x > 0, torch.logical_not(x >= 1)), x, y),
        torch.where(torch.logical_and(x < 0, x <= -1), x, y),
        torch.where(x.relu() == 0, x, y),
        torch.where(x.relu() != 0, x, y),
    ]


def reductions(_: nn.Module, x: Tensor) -> list[Tensor]:
    return [
        x.mean((2, 3)),
        x.mean((2, 3), keepdim=True),
        x.sum(1),
        x.amax(2),
        x.amin((1, 3)),
        x.norm(dim=1),
        x.argmax(1),
        x.cumsum(2),
    ]


def shapes(_: nn.Module, x: Tensor) -> list[Tensor]:
    written = x.transpose(1, 2).contiguous()
    written[:, 1:3] = 0.5
    return [
        x.reshape(1, 8, -1)[:, 1:7:2],
        x.permute(0, 2, 3, 1),
        x.unsqueeze(2).expand(1, 4, 3, 8, 6),
        x[:, 1],
        x[:, :, -3:-1, ::2],
        x.narrow(2, 3, 4).mean(3).squeeze(0),
        torch.stack([x, 2 * x], 2),
        torch.stack([x, 2 * x], 2).flatten(1, 2),
        *x.split([1, 3], 1),
        *x.chunk(2, 1)[::-1],
        x.repeat(1, 2, 1, 3),
        x.flip(3),
        x[:, :, torch.tensor([3, 0, 0])],
        x.roll((1, 2), (2, 3)),
        written,
    ]


def products(_: nn.Module, x: Tensor) -> list[Tensor]:
    a, b = x[:, :2], x[:, 2:]
    return [
        a @ b.mT,
        a.mT @ b,
        torch.einsum("nchw,nwhu->nchu", x, x.permute(0, 3, 2, 1)),
        F.scaled_dot_product_attention(a, b, b),
    ]


SMALL = {
    "layers": Of(layers, **LAYERS),
    "pools": Of(pools),
    "activations": Of(activations),
    "arithmetic": Of(arithmetic),
    "reductions": Of(reductions),
    "shapes": Of(shapes),
    "products": Of(products),
}
X = torch.randn(1, 4, 8, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each of SMALL, converted when it is first asked for; `products18` for iOS 18."""
    folder = tmp_path_factory.mktemp("mil")

    @cache
    def converted(name: str) -> Path:
        path, target = folder / f"{name}.mlpackage", CoreML(min_os="iOS18" if name.endswith("18") else None)
        target.write(deployable(SMALL[name.removesuffix("18")], (X,)), (X,), path, pack=False)
        return path

    return converted


FILES = [*SMALL, "products18"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_each_operation_computes_what_pytorch_does(file: Callable[[str], Path], name: str) -> None:
    (made,) = Interpreter(file(name))(X)
    with torch.no_grad():
        expected = SMALL[name.removesuffix("18")].eval()(X)
    np.testing.assert_allclose(made.numpy(), expected.numpy(), rtol=5e-3, atol=5e-3)


@pytest.mark.slow
def test_no_operation_is_there_untested(file: Callable[[str], Path]) -> None:
    ran = {operation.type for name in FILES for operation in main_block(read(file(name))[0]).operations}
    assert OPERATIONS.keys() - test_mil_ops.TESTED <= ran


def altered(original: Path, change: Callable[[bytes], bytes], folder: Path) -> Path:
    import shutil

    path = folder / "net.mlpackage"
    shutil.copytree(original, path)
    (path / MODEL).write_bytes(change((path / MODEL).read_bytes()))
    return path


@pytest.mark.slow
def test_an_operation_it_lacks_is_named(file: Callable[[str], Path], tmp_path: Path) -> None:
    path = altered(file("activations"), lambda content: content.replace(b"silu", b"sulk"), tmp_path)
    with pytest.raises(RuntimeUnavailable) as raised:
        CoreML().run(path, (X,))
    assert (raised.value.code, raised.value.name) == ("unproven", "sulk")


@pytest.mark.slow
def test_so_is_a_parameter(file: Callable[[str], Path], tmp_path: Path) -> None:
    path = altered(file("layers"), lambda content: content.replace(b"dilations", b"dilution_"), tmp_path)
    with pytest.raises(RuntimeUnavailable, match="dilution_") as raised:
        CoreML().run(path, (X,))
    assert (raised.value.code, raised.value.name) == ("unproven", "conv")


def test_what_fp16_cannot_hold_is_infinite(tmp_path: Path) -> None:
    module = Of(lambda _, x: [(300 * x).square()])
    CoreML().write(module, (X,), tmp_path / "net.mlpackage", pack=False)
    (made,) = Interpreter(tmp_path / "net.mlpackage")(torch.ones_like(X))
    assert torch.isinf(made).all()


@pytest.mark.slow
@pytest.mark.usefixtures("one_model")
@pytest.mark.parametrize(
    "name",
    [
        "resnet8",
        "resnet20",
        "resnet56",
        "mobilenetv2",
    ],
)
def test_every_network_of_the_zoo_passes_parity(name: str, trained: Changed, masked: Changed, tmp_path: Path) -> None:
    network = masked(trained(getattr(zoo, name)(in_channels=1)), 0.3).eval()
    inputs = (torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(1)),)
    example, path = (inputs[0][:1],), tmp_path / "net.mlpackage"
    shipped = deployable(network, example)
    for target in (CoreML("fp16"), CoreML("int8")):
        assert "bitmask" in target.write(shipped, example, path, pack=True)
        found = parity.check(target, path, network, shipped, inputs)
        assert (found.samples, found.not_run) == (8, None)
        assert found.run_by == target.stand_in
        assert found.relative is not None
        assert found.relative < 2e-2


@pytest.mark.slow
def test_parity_finds_outputs_that_differ(trained: Changed, masked: Changed, tmp_path: Path) -> None:
    """A bias in another place: the weights that are compared one by one are all there."""
    network, other = (masked(trained(zoo.resnet8(in_channels=1)), 0.3).eval() for _ in range(2))
    inputs = (torch.randn(2, 1, 8, 8),)
    CoreML().write(deployable(network, (inputs[0][:1],)), (inputs[0][:1],), tmp_path / "net.mlpackage", pack=True)
    other.stage2[0].bn1.running_mean += 0.5
    with pytest.raises(ParityFailed) as failed:
        parity.check(CoreML(), tmp_path / "net.mlpackage", other, deployable(network, (inputs[0][:1],)), inputs)
    assert failed.value.code == "outputs-differ"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "vit"])
def test_networks_of_torchvision_pass_parity(name: str, trained: Changed, tmp_path: Path) -> None:
    import torchvision

    if name == "vit":
        network = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)
        nn.init.normal_(network.heads.head.weight)
        size = 32
    else:
        network, size = trained(torchvision.models.get_model(name)), 96
    network, inputs = network.eval(), (torch.randn(2, 3, size, size),)
    shipped = deployable(network, (inputs[0][:1],))
    CoreML().write(shipped, (inputs[0][:1],), tmp_path / "net.mlpackage", pack=False)
    found = parity.check(CoreML(), tmp_path / "net.mlpackage", network, shipped, inputs)
    assert found.relative is not None
    assert found.relative < 2e-2
