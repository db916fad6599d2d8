"""Optimizers whose state (momentum, Adam's moments) is kept, saved and taken up by its parameters' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dwindle.errors import CheckpointError

if TYPE_CHECKING:
    from dwindle.models.spec import TaskSpec

MOMENTUM, SAVED_MOMENTUM = "momentum_buffer", "momentum"
"""The name of SGD's momentum in torch, and in a saved state."""


def make(spec: TaskSpec, model: nn.Module) -> torch.optim.Optimizer:
    """Makes the optimizer of a task's options for the trainable parameters; SGD's steps are fused into one kernel where
    that is safe. RMSprop's constants are those that torchvision's mobile networks were trained with."""
    common: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay}
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(_trainable(model), **common)
    common["momentum"] = spec.momentum
    if spec.optimizer == "rmsprop":
        return torch.optim.RMSprop(_trainable(model), alpha=0.9, eps=0.0316, **common)
    return torch.optim.SGD(_trainable(model), **common, nesterov=spec.nesterov, fused=_fusible(model) or None)


def holder(model: nn.Module) -> torch.optim.SGD:
    """An optimizer that only holds the state of another, by the parameters of `model`, until that one is made."""
    return torch.optim.SGD(_trainable(model), lr=1.0)


def take_over(fresh: torch.optim.Optimizer, before: torch.optim.Optimizer | None, model: nn.Module) -> None:
    """Gives a fresh optimizer the state that `before` has of the same parameters, and the names that they have in
    `model`, so that `state_of` can save it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in fresh.param_groups:
        group["param_names"] = [names.get(id(parameter), "") for parameter in group["params"]]
        for parameter in group["params"]:
            for key, value in (before.state.get(parameter, {}) if before else {}).items():
                mirrors = isinstance(value, Tensor) and value.dim()
                fresh.state[parameter][key] = value.to(parameter.device) if mirrors else value


def belongs(optimizer: torch.optim.Optimizer, model: nn.Module) -> bool:
    """Whether the optimizer's parameters are the model's trainable ones."""
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    return held == [id(parameter) for _, parameter in _trainable(model)]


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """A copy of the state of an optimizer that was made of named parameters, as flat tensors.

    What mirrors a parameter, such as SGD's momentum, is named `momentum/NAME`, so that it is cut as its parameter is
    (`dwindle.compress.channels.cut_by`); anything else, such as Adam's number of steps, is named `NAME:step`.
    """
    return {
        _stored(key, name, mirrors=tensor.shape == parameter.shape and tensor.dim() > 0): tensor.detach().clone()
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
        for tensor in [torch.as_tensor(value)]
    }


def take_state(optimizer: torch.optim.Optimizer, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives a fresh optimizer of `model` a state of `state_of`; a parameter without any starts at rest.

    Raises CheckpointError where a shape isn't the parameter's.
    """
    parameters = dict(_trainable(model))
    for stored, tensor in state.items():
        if ":" in stored:
            name, _, key = stored.rpartition(":")
            if name in parameters:
                optimizer.state[parameters[name]][key] = tensor.clone()
            continue
        key, _, name = stored.partition("/")
        if (parameter := parameters.get(name)) is None:
            continue
        if tensor.shape != parameter.shape:
            raise CheckpointError(
                f"the {key} of {name} has shape {tuple(tensor.shape)} and the parameter "
                f"{tuple(parameter.shape)}: the state is another network's"
            )
        optimizer.state[parameter][MOMENTUM if key == SAVED_MOMENTUM else key] = _laid_out_as(parameter, tensor)


def _stored(key: str, name: str, *, mirrors: bool) -> str:
    if not mirrors:
        return f"{name}:{key}"
    return f"{SAVED_MOMENTUM if key == MOMENTUM else key}/{name}"


@contextmanager
def placed(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Iterator[None]:
    """Moves weights and what mirrors them (momentum) to `device` for the block, in the layout that trains faster there.

    Afterwards they are back where they were, in the usual layout: which kernel runs depends on it, and a network must
    evaluate to the same figures once it has been saved and loaded.
    """
    home = next(model.parameters()).device

    def place(where: torch.device, memory_format: torch.memory_format) -> None:
        model.to(where).to(memory_format=memory_format)
        for parameter, state in optimizer.state.items():
            for key, buffer in state.items():
                if not isinstance(buffer, Tensor) or not buffer.dim() or buffer.shape != parameter.shape:
                    continue
                if (buffer.stride(), buffer.device) != (parameter.stride(), parameter.device):
                    state[key] = _laid_out_as(parameter, buffer)

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
