"""Modules in another mode or on another device for a while, and as they were afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def on_device(device: torch.device, model: nn.Module) -> Iterator[None]:
    """Moves the model to a device, and back at the end. A wrapper around a runtime takes tensors from anywhere."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    home = next((parameter.device for parameter in parameters), device)
    if home == device:
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.to(home)


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Puts every module into one mode for the block, and each back into its own afterwards."""
    before = {module: module.training for module in model.modules()} if isinstance(model, nn.Module) else {}
    for module in before:
        module.training = training
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was
