"""What a Core ML model takes and answers with: plain arrays, or an image, and scores by class.

An image's pixels, 0 to 255, are normalised in the program itself, channel by channel, because Core ML's own scale of an
image cannot hold a standard deviation for each channel. Mean and deviation are in the model's metadata too, so that the
file can be run on the network's own inputs, which `pixels` turns back into an image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwindle.errors import UsageError
from dwindle.export.facts import CLASSES
from dwindle.models.copies import copied
from dwindle.models.signature import outputs_of

if TYPE_CHECKING:
    from coremltools.proto.Model_pb2 import Model
    from torch import Tensor, nn

_GREY, _RGB, _BGR = 10, 20, 30
"""`ImageFeatureType.ColorSpace` in coremltools' FeatureTypes.proto."""
_MEAN, _STD = "dwindle.mean", "dwindle.std"
_OFF = 1e-2
"""How far from a whole grey level a normalised one may be in fp32 when it is turned back."""


@dataclass(frozen=True)
class Normalization:
    """The mean and deviation by which each channel of an image's pixels is normalised, on the scale 0 to 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False
    """Whether the channels are blue, green and red, in this order, which mean and deviation are in too."""


@dataclass(frozen=True)
class Interface:
    """What a model takes from an app and answers with."""

    image: Normalization | None = None
    """If given, the input is an image, grey, RGB or BGR by its channels, and the file normalises it."""
    classes: tuple[str, ...] = ()
    """If given, the model answers with a score for each of these classes, and the class of the largest score."""

    def check(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Raises UsageError where the network's inputs are no image, or its outputs not a score per class."""
        import torch

        if self.image:
            shapes = [tuple(tensor.shape) for tensor in inputs]
            if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
                raise UsageError(
                    f"an image input has shape (1, 1 or 3, height, width), but the network takes {shapes}",
                    code="not-an-image",
                    option="image_input",
                )
            if shapes[0][1] != len(self.image.mean):
                raise UsageError(
                    f"the network takes {shapes[0][1]} channels, the task's `normalization` has {len(self.image.mean)}",
                    code="wrong-channels",
                    option="image_input",
                    name="normalization",
                )
        if self.classes:
            if twice := {name for name in self.classes if self.classes.count(name) > 1}:
                raise UsageError(
                    f"class labels must differ, and {min(twice)!r} stands there more than once",
                    code="duplicate-label",
                    option="classes",
                    name=min(twice),
                )
            with torch.no_grad():
                shape = tuple(outputs_of(network(*inputs))[0].shape)
            if shape != (1, len(self.classes)):
                answer = f"{shape[1]} scores" if len(shape) == 2 else f"a tensor of shape {shape}"
                raise UsageError(
                    f"there are {len(self.classes)} class labels, but the network answers with {answer}: give as many "
                    "labels as scores",
                    code="wrong-label-count",
                    option="classes",
                )

    def normalizing(self, network: nn.Module) -> nn.Module:
        """A network that takes pixels and normalises them, where the input is an image; else the network itself."""
        if self.image is None:
            return network
        import torch

        mean, std = (torch.tensor(moment)[:, None, None] for moment in (self.image.mean, self.image.std))
        scale, bias = 1 / std, -mean / std
        normalised = copied(network)
        normalised.register_forward_pre_hook(lambda module, pixels: (pixels[0] * scale + bias,))
        return normalised

    def describe(self, model: Model) -> None:
        """Marks the input of a converted model as an image, in place, where it is one."""
        if self.image is None:
            return
        kind = model.description.input[0].type
        *_, height, width = kind.multiArrayType.shape
        kind.imageType.height, kind.imageType.width = height, width  # in the place of multiArrayType
        colours = _BGR if self.image.bgr else _RGB
        kind.imageType.colorSpace = _GREY if len(self.image.mean) == 1 else colours
        for key, moment in ((_MEAN, self.image.mean), (_STD, self.image.std)):
            model.description.metadata.userDefined[key] = json.dumps(moment)


ARRAYS_ONLY = Interface()
_OWN = {"author": "author", "license": "license", "model_version": "versionString", "description": "shortDescription"}
"""Core ML's own names of what metadata may say; the rest is `userDefined`."""


def described(model: Model, metadata: Mapping[str, str]) -> Model:
    """A model that says that of itself, without the labels, which a classifier has in its program."""
    if not metadata:
        return model
    copied = type(model)()
    copied.CopyFrom(model)
    for key, text in metadata.items():
        if key in _OWN:
            setattr(copied.description.metadata, _OWN[key], text)
        elif key != CLASSES or not model.description.predictedFeatureName:
            copied.description.metadata.userDefined[key] = text
    return copied


def are_probabilities(scores: NDArray[Any]) -> bool:
    """Whether a network's first output is a distribution over classes, for each of some samples."""
    return bool((scores >= 0).all() and (np.abs(scores.sum(-1) - 1) < _OFF).all())


def answering_probabilities(network: nn.Module) -> nn.Module:
    """A copy of a flat network that answers logits, with their softmax in the place of its first output."""
    import torch

    def probable(_: nn.Module, given: tuple[Tensor, ...], answer: Any) -> Any:
        if isinstance(answer, torch.Tensor):
            return answer.softmax(-1)
        first, *rest = answer
        return (first.softmax(-1), *rest)

    answering = copied(network)
    answering.register_forward_hook(probable)
    return answering


def pixels(model: Model, array: NDArray[Any]) -> NDArray[np.float32]:
    """The pixels that a file takes in place of its network's input, if it takes an image; else the input itself.

    Raises UsageError for an input that is not a normalised image of whole grey levels.
    """
    metadata = model.description.metadata.userDefined
    if _MEAN not in metadata:
        return array
    mean, std = (np.array(json.loads(metadata[key]), np.float64)[:, None, None] for key in (_MEAN, _STD))
    levels = array * std + mean
    whole = np.rint(levels).clip(0, 255)
    if np.abs(levels - whole).max() > _OFF:
        raise UsageError(
            "the model takes images, and a sample is not one: it has values between or beyond the grey levels 0 to 255",
            code="not-an-image",
        )
    return whole.astype(np.float32)
