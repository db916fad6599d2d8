"""What follows from a network's architecture alone, found once for all of a checkpoint's networks that share it.

Tracing and converting are most of an export's time, and see nothing of the weights: the dense network, and at any
precision the one pruned by weights, make the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")
_kept: ContextVar[dict[Any, Any] | None] = ContextVar("kept", default=None)


@contextmanager
def one_model() -> Iterator[None]:
    """Within it, what is marked `once` is found once for each architecture, and kept until its end.

    For networks of one model only: two are then of one architecture where their modules have the same types and
    settings, and their tensors the same shapes, by name. Elsewhere that proves nothing of what `forward` does.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def once(
    find: Callable[Concatenate[nn.Module, tuple[Tensor, ...], P], R],
) -> Callable[Concatenate[nn.Module, tuple[Tensor, ...], P], R]:
    """For a function of a network and its inputs (and what else can be hashed) that reads no values of either.

    What it returns is shared: nobody may change it.
    """

    @wraps(find)
    def found(network: nn.Module, inputs: tuple[Tensor, ...], /, *args: P.args, **kwargs: P.kwargs) -> R:
        kept = _kept.get()
        if kept is None:
            return find(network, inputs, *args, **kwargs)
        key = (find, _architecture(network), _shapes(inputs), args, tuple(kwargs.items()))
        if key not in kept:
            kept[key] = find(network, inputs, *args, **kwargs)
        answer: R = kept[key]
        return answer

    return found


def _architecture(network: nn.Module) -> tuple[Any, ...]:
    modules = tuple((path, type(module), module.extra_repr()) for path, module in network.named_modules())
    held = {**dict(network.named_parameters(remove_duplicate=False)), **dict(network.named_buffers())}
    return modules, tuple(held), _shapes(tuple(held.values()))


def _shapes(given: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return tuple((tensor.shape, tensor.dtype) for tensor in given)
