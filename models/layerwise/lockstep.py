"""A network run on many batches at once: all of them reach a layer before any of them passes it.

So a layer can be changed when everything it will ever be shown is there, and nothing is computed twice. Each batch is
a greenlet in the middle of the network's own forward pass, whatever that is written like; memory is what a forward pass
holds on to at one moment, for all batches. Where that is too much for the large maps of the first layers, batches join
late: only their inputs are held until then, and each passes the layers before by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from dwindle.errors import DwindleError
from dwindle.models.modes import in_mode

NONE_LATE: Mapping[str, int] = MappingProxyType({})
"""What `lockstep` is given where all batches are there from the start."""


@dataclass(frozen=True)
class Stop:
    """All batches that have joined, at one layer. The walk lets go of the tensors when it goes on."""

    name: str
    tensors: list[Tensor]
    """Each batch's first input of the layer, or its output."""


class Lockstep:
    """Goes through a network from layer to layer. Use `lockstep`, which leaves the network as it was."""

    def __init__(self, model: nn.Module, batches: Sequence[tuple[Tensor, ...]], present: Mapping[str, int]) -> None:
        self._passes = [greenlet(lambda batch=batch: _whole(model, batch)) for batch in batches]
        self._joined = min(present.values(), default=len(batches))
        self._present, self._passed = present, list[str]()
        self._at: list[Tensor] = []

    def advance(self) -> Stop | None:
        """On to the next layer; None at the network's end.

        Raises DwindleError where the batches don't reach the same layer next.
        """
        self._at.clear()
        reached = [one.switch() for one in self._passes[: self._joined]]
        name = _one_of({name for name, _ in reached})
        if name is None:
            return None
        self._passed.append(name)
        there = max(self._joined, self._present.get(name, 0))
        reached += [self._caught_up(late) for late in self._passes[self._joined : there]]
        self._joined = there
        self._at = [tensor for _, tensor in reached]
        return Stop(name, self._at)

    def advance_to(self, name: str) -> Stop:
        """On to the next layer, which is to be this one.

        Raises DwindleError with its name where it is another one, or where the batches don't reach the same.
        """
        stop = self.advance()
        if stop is None or stop.name != name:
            raise DwindleError(
                f"the network comes to {stop.name if stop else 'its end'} where {name} was to be next, as it was for "
                "other samples or before it was pruned: its layers can't be calibrated one after the other",
                code="data-dependent",
                name=name,
            )
        return stop

    def _caught_up(self, late: greenlet) -> tuple[str | None, Tensor]:
        """What a batch that joins reaches, once it has passed the layers that the others have."""
        for passed in self._passed:
            name, tensor = late.switch()
            _one_of({passed, name})
        return name, tensor

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
    present: Mapping[str, int] = NONE_LATE,
) -> Iterator[Lockstep]:
    """A walk through `model`, in eval mode and without gradients, that stops before each of `layers` (at its inputs)
    or behind it (at its outputs).

    present: how many batches, the first ones, are there from a layer on, never fewer than from one before it. Until its
    first layer as many are there as at it. Where it is empty, all are there from the start.
    """
    names = {module: name for name, module in layers.items()}
    handles = [_hook(module, name, at) for module, name in names.items()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a transformer layer's would go past the layers within
    walk = Lockstep(model, batches, present)
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
    return module.register_forward_pre_hook(
        lambda _, args, named: _pause(name, next(iter((*args, *named.values())))), with_kwargs=True
    )


def _pause(name: str, tensor: Tensor) -> None:
    parent = getcurrent().parent
    assert parent is not None
    parent.switch((name, tensor))


def _whole(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[None, Tensor | None]:
    model(*batch)
    return None, None


def _one_of(names: set[str | None]) -> str | None:
    """The one layer, or the end, that all batches have come to."""
    if len(names) > 1:
        listed = ", ".join(sorted(name or "its end" for name in names))
        raise DwindleError(
            f"the network's forward pass takes another way for other samples (to {listed}): its layers can't be "
            "calibrated one after the other",
            code="data-dependent",
        )
    return names.pop()
