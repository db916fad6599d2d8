"""What a Core ML model takes and answers with: plain arrays, or an image, and scores by class.

An image's pixels, 0 to 255, are normalised in the program itself, channel by channel: the one scale that Core ML has
for an image holds no standard deviation per channel. What the network itself takes is in the model's metadata, so
that whoever runs the file on the network's own inputs (`pixels`) need not be told.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwindle.errors import UsageError

if TYPE_CHECKING:
    from coremltools.proto.Model_pb2 import Model
    from torch import Tensor, nn

_GREY, _RGB = 10, 20
"""`ImageFeatureType.ColorSpace` in coremltools' FeatureTypes.proto."""
_MEAN, _STD = "dwindle.mean", "dwindle.std"
_OFF = 1e-2
"""Grey levels from a whole one that fp32 may leave of one that was normalised."""


@dataclass(frozen=True)
class Normalization:
    """What was taken from each channel of an image's pixels, and what it was divided by, on the scale 0 to 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Interface:
    """How a model meets the app."""

    image: Normalization | None = None
    """With it the input is an image: grey or RGB, by its channels."""
    classes: tuple[str, ...] = ()
    """With them the model is a classifier: it answers with the scores by class, and the class of the largest."""

    def check(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Raises UsageError where the network's inputs are no image, or its outputs not a score per class."""
        import torch

        if self.image:
            shapes = [tuple(tensor.shape) for tensor in inputs]
            if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
                raise UsageError(f"an image input is (1, 1 or 3, height, width), and the network takes {shapes}")
            if shapes[0][1] != len(self.image.mean):
                raise UsageError(f"the image has {shapes[0][1]} channels, and {len(self.image.mean)} are normalised")
        if self.classes:
            if twice := {name for name in self.classes if self.classes.count(name) > 1}:
                raise UsageError(f"class labels must differ, and there is more than one {min(twice)!r}")
            with torch.no_grad():
                shape = tuple(network(*inputs).shape)
            if shape != (1, len(self.classes)):
                raise UsageError(
                    f"class labels name a score each: there are {len(self.classes)}, and the network answers with "
                    f"{shape[1] if len(shape) == 2 else f'a tensor of shape {shape}'}"
                )

    def normalizing(self, network: nn.Module) -> nn.Module:
        """The network, made to take pixels where its input is an image."""
        if self.image is None:
            return network
        import torch

        mean, std = (torch.tensor(moment)[:, None, None] for moment in (self.image.mean, self.image.std))
        scale, bias = 1 / std, -mean / std
        copied = copy.deepcopy(network)
        copied.register_forward_pre_hook(lambda module, pixels: (pixels[0] * scale + bias,))
        return copied

    def describe(self, model: Model) -> None:
        """Says in a converted model, in place, that its input is an image."""
        if self.image is None:
            return
        kind = model.description.input[0].type
        *_, height, width = kind.multiArrayType.shape
        kind.imageType.height, kind.imageType.width = height, width  # in the place of multiArrayType
        kind.imageType.colorSpace = _GREY if len(self.image.mean) == 1 else _RGB
        for key, moment in ((_MEAN, self.image.mean), (_STD, self.image.std)):
            model.description.metadata.userDefined[key] = json.dumps(moment)


PLAIN = Interface()


def pixels(model: Model, array: NDArray[Any]) -> NDArray[np.float32]:
    """What a file takes for an input of its network's: pixels if that is an image, else the input itself.

    Raises UsageError for an input that comes of no image of whole grey levels.
    """
    held = model.description.metadata.userDefined
    if _MEAN not in held:
        return array
    mean, std = (np.array(json.loads(held[key]), np.float64)[:, None, None] for key in (_MEAN, _STD))
    levels = array * std + mean
    whole = np.rint(levels).clip(0, 255)
    if np.abs(levels - whole).max() > _OFF:
        raise UsageError("the model takes images, and a sample is none: it has values between or beyond grey levels")
    return whole.astype(np.float32)
