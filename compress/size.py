"""The size on disk that a network will have when exported, counted by the target's own packer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from dwindle.export.target import Target


@dataclass
class Sizer:
    """Counts the bytes of a module's exported file. A packer is made for one architecture, so the last one is kept for
    as long as the shapes stay the same."""

    target: Target
    inputs: tuple[Tensor, ...]
    _shapes: tuple[tuple[int, ...], ...] = ()
    _packer: Callable[[nn.Module], int] | None = field(default=None, repr=False)

    def __call__(self, module: nn.Module) -> int:
        shapes = tuple(tuple(parameter.shape) for parameter in module.parameters())
        if self._packer is None or shapes != self._shapes:
            self._shapes, self._packer = shapes, self.target.packer(module, self.inputs)
        return self._packer(module)
