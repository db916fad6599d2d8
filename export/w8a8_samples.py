"""The samples that ranges of activations are taken from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dwindle.errors import UsageError
from dwindle.export.fold import distinct, tensors
from dwindle.models.signature import Flat, outputs_of

if TYPE_CHECKING:
    from torch import Tensor, nn


def noise_like(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Noise of the shapes of a network's inputs, for what depends on ranges and not on which."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(one.shape, generator=generator) if one.is_floating_point() else one for one in inputs)


def untrained(network: nn.Module) -> nn.Module:
    """A copy whose floating-point values all differ, its weights of the size that networks are initialised with (He et
    al. 2015): however deep it is, what it makes of noise stays finite, so that ranges follow."""
    import torch

    made = distinct(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in tensors(made).values():
            if tensor.is_floating_point() and tensor.dim() > 1:
                bound = math.sqrt(6 / tensor[0].numel())
                tensor.uniform_(-bound, bound, generator=generator)
    return made


def check_samples(samples: tuple[Tensor, ...]) -> None:
    """Raises UsageError for samples from which no range of activations follows."""
    if not samples or not all(len(tensor) for tensor in samples):
        raise UsageError(
            "there are no samples to calibrate int8 on: return some from the task's `inputs` of the training split",
            code="no-samples",
            name="inputs",
        )
    for tensor in samples:
        if not tensor.is_floating_point():
            continue  # token ids, say, which are not rounded
        if not tensor.isfinite().all():
            raise UsageError(
                "the samples to calibrate int8 on are not all finite: check the task's `inputs` of the training split",
                code="not-finite",
                name="inputs",
            )
    floats = [tensor for tensor in samples if tensor.is_floating_point()]
    if floats and all(_constant(tensor) for tensor in floats):
        raise _no_range(floats[0], "")


def streamed(network: nn.Module, samples: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The samples as calls of a stream have them: what is the network's state, and the same in all of them, as zeros
    are at first, is what the call before gave.

    network: flat. Raises UsageError for another input that is the same in all samples, and for a state that is no
    longer finite.
    """
    import torch

    signature = network.signature if isinstance(network, Flat) else None
    names = [one.name for one in signature.inputs] if signature else [""] * len(samples)
    still = [place for place, tensor in enumerate(samples) if tensor.is_floating_point() and _constant(tensor)]
    states = {place: signature.inputs[place].state for place in still} if signature else {}
    for place in still:
        if not states.get(place):
            raise _no_range(samples[place], names[place])
    if signature is None or not states:
        return samples
    answers = [one.name for one in signature.outputs]
    given = tuple(tensor.clone() for tensor in samples)
    with torch.no_grad():
        for call in range(1, len(samples[0])):
            last = outputs_of(network(*(tensor[call - 1 : call] for tensor in given)))
            for place, state in states.items():
                given[place][call : call + 1] = last[answers.index(str(state))]
    for place in states:
        if not given[place].isfinite().all():
            raise UsageError(
                f"the state {names[place]!r} is no longer finite after {len(given[place])} calls on the samples to "
                "calibrate int8 on: return states of real calls from the task's `inputs` of the training split",
                code="not-finite",
                name="inputs",
            )
    return given


def _constant(tensor: Tensor) -> bool:
    return bool(tensor.min() == tensor.max())


def _no_range(tensor: Tensor, name: str) -> UsageError:
    where = f" in {name!r}" if name else ""
    stream = "; where it is the state of a stream, name the output that it becomes in the task's `states`"
    return UsageError(
        f"the samples to calibrate int8 on are all {float(tensor.min()):g}{where}, from which no range of values "
        f"follows: return real ones from the task's `inputs` of the training split{stream if name else ''}",
        code="constant-samples",
        name="inputs",
    )
