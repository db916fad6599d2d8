"""A network run on many batches at once: all of them reach a layer before any of them passes it.

So a layer can be changed when everything it will ever be shown is there, and nothing is computed twice. Each batch is
a greenlet in the middle of the network's own forward pass, whatever that is written like; memory is what a forward pass
holds on to at one moment, for all batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from dwindle.errors import DwindleError
from dwindle.models.modes import in_mode


@dataclass(frozen=True)
class Stop:
    """All batches at one layer."""

    name: str
    tensors: list[Tensor]
    """Each batch's first input of the layer, or its output."""


class Lockstep:
    """Goes through a network from layer to layer. Use `lockstep`, which leaves the network as it was."""

    def __init__(self, model: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> None:
        self._passes = [greenlet(lambda batch=batch: _whole(model, batch)) for batch in batches]

    def advance(self) -> Stop | None:
        """On to the next layer; None at the network's end.

        Raises DwindleError where the batches don't reach the same layer next.
        """
        reached = [one.switch() for one in self._passes]
        names = {name for name, _ in reached}
        if len(names) > 1:
            raise DwindleError(
                f"the network's forward pass takes another way for other samples (to {_listed(names)}): its layers "
                "can't be calibrated one after the other",
                code="data-dependent",
            )
        name = names.pop()
        return None if name is None else Stop(name, [tensor for _, tensor in reached])

    def close(self) -> None:
        """Ends what is still under way."""
        for one in self._passes:
            if one:  # begun, not finished
                one.throw()


@contextmanager
def lockstep(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, ...]],
    layers: Mapping[str, nn.Module],
    at: Literal["inputs", "outputs"],
) -> Iterator[Lockstep]:
    """A walk through `model`, in eval mode and without gradients, that stops before each of `layers` (at its inputs)
    or behind it (at its outputs)."""
    names = {module: name for name, module in layers.items()}
    handles = [_hook(module, name, at) for module, name in names.items()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a transformer layer's would go past the layers within
    walk = Lockstep(model, batches)
    try:
        with torch.no_grad(), in_mode(model, training=False):
            yield walk
    finally:
        walk.close()
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


def _hook(module: nn.Module, name: str, at: Literal["inputs", "outputs"]) -> Any:
    if at == "outputs":
        return module.register_forward_hook(lambda _, args, output: _pause(name, output))
    return module.register_forward_pre_hook(lambda _, args: _pause(name, args[0]))


def _pause(name: str, tensor: Tensor) -> None:
    parent = getcurrent().parent
    assert parent is not None
    parent.switch((name, tensor))


def _whole(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[None, Tensor | None]:
    model(*batch)
    return None, None


def _listed(names: set[str | None]) -> str:
    return ", ".join(sorted(name or "its end" for name in names))
