"""What a target is: a file format that a phone runtime loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dwindle import registry

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

GROUP = "dwindle.targets"


class Target(Protocol):
    """A file format. Third parties add one through the entry-point group `dwindle.targets`."""

    name: str
    suffix: str
    precision: str
    """What the weights are stored in: `fp32` or `fp16`. Parity's tolerance follows from it."""
    packs_zeros: bool
    """Whether a pruned weight makes the file smaller."""

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        """Writes `module` (eval mode, batch norm folded, on the CPU), its batch that of `inputs`.

        Returns the encoding in words. With `pack` off, zeros are stored like any weight.
        """

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        """A function from a module of the same architecture to the bytes its packed file would have."""

    def run(self, path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
        """The file's output, computed by its own runtime.

        Raises RuntimeUnavailable where that isn't on this machine.
        """

    def decode(self, path: Path) -> dict[str, np.ndarray]:
        """Every packed weight as the runtime will see it, by parameter name; empty if nothing is packed."""


def load(name: str) -> Target:
    """The target of that name; raises UsageError for an unknown one."""
    target: Target = registry.resolve(GROUP, name, "target")()
    return target
