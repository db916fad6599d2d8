"""How much of what operators made is still in memory."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class Made(TorchDispatchMode):
    """While it is entered, notes what memory operators take for their results.

    >>> made = Made()
    >>> with made:
    ...     tensor = torch.zeros(5) + 1
    >>> made.alive()
    20
    >>> del tensor
    >>> made.alive()
    0
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages = WeakIdKeyDictionary(ref_type=weakref.ref)

    def alive(self) -> int:
        """Bytes of what was made and is still there. What was there before, such as weights, doesn't count."""
        return sum(storage.nbytes() for storage in self._storages)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if id(storage) not in given:
                self._storages[storage] = None
        return result


def _storages(values: Any) -> list[torch.UntypedStorage]:
    tensors = [one for one in tree_leaves(values) if isinstance(one, Tensor) and one.layout == torch.strided]
    return [tensor.untyped_storage() for tensor in tensors]
