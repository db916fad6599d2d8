"""The sizes at which a file whose inputs vary is compared with its network, and samples of these sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dwindle.export.architecture import once
from dwindle.export.dynamic import Axis, Place, axes_of, places_of, stretched
from dwindle.export.fold import trace
from dwindle.models.signature import input_names

if TYPE_CHECKING:
    from torch import Tensor, nn

SAMPLES = 2
"""How many samples are made at each of the sizes, where the batch has no size of its own."""


def resized(network: nn.Module, samples: tuple[Tensor, ...]) -> Iterator[tuple[str, int, tuple[Tensor, ...]]]:
    """Samples at each of the sizes that are to be tried of a network, after these in words and the size of a batch.

    There are none where no size varies. samples: batched, as the network's inputs are fed.
    """
    if not places_of(network):
        return
    names = input_names(network, len(samples))
    for sizes in _tried(axes(network, tuple(one[:1] for one in samples))):
        words = ", ".join(f"{names[index]}:{dim}={size}" for (index, dim), size in sizes.items())
        yield words, sizes.get((0, 0), 1), stretched(tuple(one[:SAMPLES] for one in samples), sizes)


@once
def axes(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Axis, ...]:
    """The sizes of a network's inputs that vary independently. Raises UsageError where it cannot be traced."""
    return axes_of(trace(network, inputs), network) if places_of(network) else ()


def _tried(found: tuple[Axis, ...]) -> list[dict[Place, int]]:
    """All at their least, in the middle and at their most; and of independent ones, some at either end."""
    every = [[axis.varies for axis in found]] * 4
    sizes = [
        [one.least for one in every[0]],
        [one.middle for one in every[1]],
        [one.most for one in every[2]],
        [one.most if index % 2 else one.least for index, one in enumerate(every[3])],
    ]
    return [
        {place: size for axis, size in zip(found, each, strict=True) for place in axis.places}
        for each in sizes[: 3 if len(found) == 1 else 4]
    ]
