"""Which layers and networks a profile measures: those that networks for phones are made of, over their sizes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from dwindle.price import Shape

if TYPE_CHECKING:
    from torch import nn

REFERENCE = Shape(64, 64, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1))
"""Timed again and again through the run: what it loses in speed, the device loses."""
NOTHING = Shape(8, 8, ())
"""A file of this takes as long as having a file run at all."""
MOST_MACS = 60_000_000
"""Layers of more are not measured: they would take the time of all others."""
_KINDS = {"1×1": 32, "spatial": 28, "depthwise": 16, "linear": 6}
"""How many layers of each kind."""
_SIZES = (112, 56, 28, 14, 7)
NETWORKS = (
    *((name, pixels) for pixels in (32, 64, 96) for name in ("zoo:resnet8", "zoo:resnet20", "zoo:mobilenetv2")),
    ("torchvision:resnet34", 64),
    ("torchvision:mnasnet1_0", 96),
)
"""Networks, and the pixels of their images: the last two have millions of weights."""


def layers() -> list[Shape]:
    """The layers, the same in every profile."""
    generator, found = random.Random(0), list[Shape]()
    for name, count in _KINDS.items():
        own: list[Shape] = []
        while len(own) < count:
            shape = _drawn(name, generator)
            if 20_000 < shape.macs < MOST_MACS and shape not in own:
                own.append(shape)
        found += own
    generator.shuffle(found)
    return found


def _drawn(name: str, generator: random.Random) -> Shape:
    def width(most: int) -> int:
        return 8 * round(2 ** generator.uniform(0, (most // 8).bit_length() - 1))

    if name == "linear":
        return Shape(width(2048), width(1024), ())
    pixels = generator.choice(_SIZES)
    inputs, outputs = width(1024), width(1024)
    side = 1 if name == "1×1" else generator.choice((3, 3, 3, 5))
    stride = 1 if name == "1×1" else generator.choice((1, 1, 2))
    groups = inputs if name == "depthwise" else 1
    outputs = inputs if name == "depthwise" else outputs
    pair = (side, side), (stride, stride), (side // 2, side // 2), (1, 1)
    return Shape(inputs, outputs, (pixels, pixels), *pair, groups)


def network(name: str, pixels: int) -> nn.Module:
    """A network for one class of images, its batch norm folded away, in eval mode."""
    import torch
    from torch import nn

    from dwindle.models.build import ModelSpec, build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = build(ModelSpec(name, 10, (3, pixels, pixels))).eval()
    for parent in list(made.modules()):
        for child, module in list(parent.named_children()):
            if isinstance(module, nn.BatchNorm2d):
                setattr(parent, child, nn.Identity())
    return made.requires_grad_(False)
