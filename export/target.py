"""What a target is: a file format that a phone runtime loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dwindle import registry
from dwindle.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

GROUP = "dwindle.targets"


class Target(Protocol):
    """A file format. Third parties add one through the entry-point group `dwindle.targets`."""

    name: str
    suffix: str
    precisions: tuple[str, ...]
    """What it can store weights in (`export.quantize`); the first is its default. Its class takes one of them."""
    precision: str
    """The one that it was made for."""
    arithmetic: str
    """What its runtime computes in, whatever weights are stored in: `fp32`, `fp16`, or `int8` where it is `Calibrated`.
    Parity's tolerance follows."""
    packs_zeros: bool
    """Whether a pruned weight makes the file smaller."""
    packages: tuple[str, ...]
    """The distributions that make and run its files: the manifest records their versions."""

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        """Writes `module` (what `fold.deployable` returns), its batch that of `inputs`.

        Returns the encoding in words. With `pack` off, zeros are stored like any weight, as other tools expect.
        Raises UsageError for a network that the format cannot hold.
        """

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        """A function from a module of the same architecture to the bytes its packed file would have.

        Both are networks as they are trained: batch norm not folded, on any device, their zeros explicit.
        """

    def run(self, path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
        """The file's output for each sample of `inputs` (any number of them), by its own runtime.

        Raises RuntimeUnavailable where that isn't on this machine.
        """

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        """Each tensor that can be read back from the file, as its runtime will see it, by its name in `module`.

        module: what was written. Its names are read, never its values. Every packed weight must be there.
        """


@runtime_checkable
class Calibrated(Protocol):
    """What a target is besides, if at some precision it rounds activations too, and so has to see real ones first."""

    calibrates: bool
    """Whether it does at the precision that it was made for. If not, none of the other members is used."""
    samples: tuple[Tensor, ...] | None
    """What it was calibrated on, batched; None before."""

    def calibrated(self, samples: tuple[Tensor, ...]) -> Target:
        """The same target, which sees what `samples` (batched) make of each network that it writes.

        Raises UsageError for samples from which no range of activations follows.
        """

    def held(self, network: nn.Module, *, activations: bool) -> nn.Module:
        """The network that a file of `network` (what `fold.deployable` returns) holds, in torch.

        activations: as the file computes, all rounding included, for a batch of one; else only with its weights
        rounded, under the names of `network`. Raises as `write` does.
        """


def load(name: str, precision: str | None = None, min_os: str | None = None) -> Target:
    """The target of that name at a precision, by default its own; raises UsageError for one that isn't there.

    min_os: the earliest system that must load its files, for a target that has `systems` to choose from.
    """
    kind: Any = registry.resolve(GROUP, name, "target")
    if precision is not None and precision not in kind.precisions:
        raise UsageError(f"{name} has no precision {precision!r}: it stores {' or '.join(kind.precisions)}")
    options = {}
    if min_os is not None and (systems := getattr(kind, "systems", ())):
        if min_os not in systems:
            raise UsageError(f"{name} has no system {min_os!r}: it writes for {', '.join(systems)}")
        options["min_os"] = min_os
    target: Target = kind(precision or kind.precisions[0], **options)
    return target


DELEGATES = {"xnnpack": "executorch", "coreml": "executorch-coreml"}
"""What an ExecuTorch file may give its work to, and the target that writes such."""


def delegated(names: Sequence[str], delegate: str | None) -> list[str]:
    """Names of targets with ExecuTorch's for that delegate. Raises UsageError for an unknown one, or of no target."""
    if delegate is None:
        return list(names)
    if delegate not in DELEGATES:
        raise UsageError(registry.unknown("delegate", delegate, list(DELEGATES)))
    if DELEGATES["xnnpack"] not in names:
        raise UsageError("--delegate says what an ExecuTorch file gives its work to: give --target executorch with it")
    return [DELEGATES[delegate] if name == DELEGATES["xnnpack"] else name for name in names]


def require_used(asked: Sequence[Target], min_os: str | None, calib_samples: int | None) -> None:
    """Raises UsageError for an option of `export` that none of these targets has a use for."""
    if min_os is not None and not any(getattr(target, "systems", ()) for target in asked):
        raise UsageError("--min-os says which system's Core ML a file is for: give --target coreml with it")
    if calib_samples is not None and not any(isinstance(target, Calibrated) and target.calibrates for target in asked):
        raise UsageError(
            "--calib-samples set the ranges of activations that are rounded: give --target executorch --precision int8 "
            "with them"
        )


def one_by_one(infer: Callable[[list[np.ndarray]], np.ndarray], inputs: tuple[Tensor, ...]) -> np.ndarray:
    """Runs a file whose batch is one over any number of samples; the outputs, joined along dimension 0.

    infer: from one array per input, each a batch of one, to the output.
    """
    import numpy as np

    samples = zip(*(tensor.split(1) for tensor in inputs), strict=True)
    return np.concatenate([infer([tensor.numpy() for tensor in sample]) for sample in samples])
