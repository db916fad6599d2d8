"""The optimizer of the built-in task: SGD with momentum that is kept, saved and taken up by its parameters' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dwindle.errors import CheckpointError


def sgd(model: nn.Module, *, lr: float, momentum: float, weight_decay: float, nesterov: bool) -> torch.optim.SGD:
    """Makes an optimizer of the trainable parameters, its steps fused into one kernel where that is safe."""
    return torch.optim.SGD(
        _trainable(model),
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=nesterov,
        fused=_fusible(model) or None,
    )


def belongs(optimizer: torch.optim.Optimizer, model: nn.Module) -> bool:
    """Whether the optimizer's parameters are the model's trainable ones."""
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    return held == [id(parameter) for _, parameter in _trainable(model)]


def momentum_of(optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """A copy of the momentum by its parameters' names; parameters that have none yet are left out."""
    return {
        name: buffer.detach().clone()
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        if (buffer := optimizer.state[parameter].get("momentum_buffer")) is not None
    }


def take_momentum(optimizer: torch.optim.SGD, model: nn.Module, momentum: Mapping[str, Tensor]) -> None:
    """Gives a fresh optimizer of `model` this momentum; a parameter without any starts at rest.

    Raises CheckpointError where a shape isn't the parameter's.
    """
    for name, parameter in _trainable(model):
        buffer = momentum.get(name)
        if buffer is None:
            continue
        if buffer.shape != parameter.shape:
            raise CheckpointError(
                f"the momentum of {name} has shape {tuple(buffer.shape)} and the parameter "
                f"{tuple(parameter.shape)}: the state is another network's"
            )
        optimizer.state[parameter]["momentum_buffer"] = _laid_out_as(parameter, buffer)


@contextmanager
def placed(model: nn.Module, optimizer: torch.optim.SGD, device: torch.device) -> Iterator[None]:
    """Moves weights and momentum to `device` for the block, in the layout that trains faster there.

    Afterwards they are back where they were, in the usual layout: which kernel runs depends on it, and a network must
    evaluate to the same figures once it has been saved and loaded.
    """
    home = next(model.parameters()).device

    def place(where: torch.device, memory_format: torch.memory_format) -> None:
        model.to(where).to(memory_format=memory_format)
        for parameter, state in optimizer.state.items():
            buffer = state.get("momentum_buffer")
            if buffer is not None and (buffer.stride(), buffer.device) != (parameter.stride(), parameter.device):
                state["momentum_buffer"] = _laid_out_as(parameter, buffer)

    # torch has no such layout for a kernel of three dimensions, and refuses a model that has one.
    flat = all(tensor.dim() < 5 for tensor in model.state_dict().values())
    place(device, torch.channels_last if flat else torch.contiguous_format)
    try:
        yield
    finally:
        place(home, torch.contiguous_format)


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _fusible(model: nn.Module) -> bool:
    """Whether the fused step is safe for every trainable parameter.

    It walks through a parameter's memory and its momentum's from end to end, and checks nothing: of a parameter that
    is a view with gaps it changes what isn't the parameter's (seen in torch 2.14, on the CPU).
    """
    return all(
        parameter.device.type in ("cpu", "cuda")
        and (parameter.is_contiguous() or (parameter.dim() == 4 and _is_channels_last(parameter)))
        for _, parameter in _trainable(model)
    )


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def _laid_out_as(parameter: Tensor, buffer: Tensor) -> Tensor:
    return torch.empty_like(parameter).copy_(buffer).detach()
