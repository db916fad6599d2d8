"""MIL's operations that answer with places: the largest, the sorted, the first k, in PyTorch.

Of equal values "the identity of the return value is not guaranteed" (reduce_argmax), or nothing is said of them (topk,
argsort). Where samples have equal values and their places are read, the answer is unproven.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dwindle.errors import RuntimeUnavailable
from dwindle.export.coreml.mil_layers import Maybe, ints
from dwindle.export.coreml.mil_unproven import unproven


def place(operator: str, find: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """reduce_argmax or reduce_argmin. find: PyTorch's."""

    def over(x: Tensor, axis: Maybe = None, keep_dims: Maybe = None, output_dtype: str = "int32") -> Tensor:
        (along,) = ints(axis, [-1])
        found = find(x, along, True)
        if ((x == x.gather(along, found)).sum(along) > 1).any():
            raise _tied(operator)
        return found if keep_dims else found.squeeze(along)

    return over


def argsort(x: Tensor, axis: Maybe = None, ascending: Maybe = None) -> Tensor:
    (along,) = ints(axis, [-1])
    values, order = _sorted(x, along, ascending)
    _require_distinct("argsort", values, along)
    return order


def topk(
    x: Tensor,
    k: Maybe = None,
    axis: Maybe = None,
    ascending: Maybe = None,
    sort: Maybe = None,
    return_indices: Maybe = None,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    (count,), (along,) = ints(k, [1]), ints(axis, [-1])
    if return_indices is None or return_indices:
        values, _ = _sorted(x, along, ascending)
        _require_distinct("topk", values.narrow(along, 0, min(count + 1, x.shape[along])), along)
    return topk_of_values(x, k, axis, ascending, sort, return_indices, output_indices_dtype)


def topk_of_values(
    x: Tensor,
    k: Maybe = None,
    axis: Maybe = None,
    ascending: Maybe = None,
    sort: Maybe = None,
    return_indices: Maybe = None,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """`topk` for a program that reads no places: the values are the same whichever of equal ones are taken."""
    (count,), (along,) = ints(k, [1]), ints(axis, [-1])
    made = tuple(both.narrow(along, 0, count) for both in _sorted(x, along, ascending))
    return made[:1] if return_indices is not None and not return_indices else made


def _sorted(x: Tensor, along: int, ascending: Maybe) -> tuple[Tensor, Tensor]:
    values, order = torch.sort(x, dim=along, descending=not ascending, stable=True)
    return values, order


def _require_distinct(operator: str, ordered: Tensor, along: int) -> None:
    size = ordered.shape[along]
    if size > 1 and (ordered.narrow(along, 1, size - 1) == ordered.narrow(along, 0, size - 1)).any():
        raise _tied(operator)


def _tied(operator: str) -> RuntimeUnavailable:
    return unproven(operator, "which of equal values it takes is not documented, and a sample has equal ones")
