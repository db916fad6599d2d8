"""A cache for what follows from a network's architecture alone.

Tracing and converting take most of an export's time and do not depend on the weights: the dense network and the network
pruned by weights make the same graph, at any precision.
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
_cache: ContextVar[dict[Any, Any] | None] = ContextVar("architecture cache", default=None)


@contextmanager
def one_model() -> Iterator[None]:
    """Within the block, functions marked `once` cache their results, one for each architecture, until it ends.

    All networks in it must come from one model. Two of them have the same architecture if their modules have the same
    types and settings, and their tensors the same shapes, by name. Between different models that would not be enough,
    as `forward` may differ.
    """
    token = _cache.set({})
    try:
        yield
    finally:
        _cache.reset(token)


def once(
    find: Callable[Concatenate[nn.Module, tuple[Tensor, ...], P], R],
) -> Callable[Concatenate[nn.Module, tuple[Tensor, ...], P], R]:
    """A decorator for a function of a network, its inputs and other hashable arguments that reads no tensor's values.

    Within `one_model`, its result is cached for each architecture. Callers share that result and must not change it.
    """

    @wraps(find)
    def found(network: nn.Module, inputs: tuple[Tensor, ...], /, *args: P.args, **kwargs: P.kwargs) -> R:
        cache = _cache.get()
        if cache is None:
            return find(network, inputs, *args, **kwargs)
        key = (find, _architecture(network), _shapes(inputs), args, tuple(kwargs.items()))
        if key not in cache:
            cache[key] = find(network, inputs, *args, **kwargs)
        answer: R = cache[key]
        return answer

    return found


def _architecture(network: nn.Module) -> tuple[Any, ...]:
    modules = tuple((path, type(module), module.extra_repr()) for path, module in network.named_modules())
    tensors = {**dict(network.named_parameters(remove_duplicate=False)), **dict(network.named_buffers())}
    return modules, tuple(tensors), _shapes(tuple(tensors.values()))


def _shapes(given: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return tuple((tensor.shape, tensor.dtype) for tensor in given)
