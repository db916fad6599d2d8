"""What a target is: a file format that a phone runtime loads."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

from dwindle.errors import UsageError
from dwindle.export.zeros import Effects, Kind, Verdict

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from dwindle.export.coreml.interface import Interface
    from dwindle.export.quantize import Stored
    from dwindle.manifest import Breakdown, Consumer

Outputs = tuple["np.ndarray", ...]
"""An array for each output of a file or network, the samples' own joined along dimension 0."""
Rounding = Callable[["nn.Module", "dict[str, Stored]"], "dict[str, Stored]"]
"""From a network (`fold.deployable`'s) and what a file would store of each tensor, by name and with the nearest codes,
to what it stores."""
CALIBRATED = "calibrated"
ROUNDINGS = ("nearest", CALIBRATED)
"""How weights become codes: each the nearest, or all of a layer by what they change for samples."""


class Target(ABC):
    """A file format at one precision: how a network is written to it, measured, read back and run.

    A third party adds a target by one subclass, registered through the entry-point group `dwindle.targets`:

        [project.entry-points."dwindle.targets"]
        mine = "package.module:Mine"

    The subclass sets `name`, `suffix`, `precisions` and `packages` and implements the abstract methods. Everything else
    has a default. dwindle creates it as `Mine(precision, min_os)`.
    """

    name: ClassVar[str]
    """What `--target` calls it."""
    suffix: ClassVar[str]
    """The ending of its files' names, with the dot."""
    precisions: ClassVar[tuple[str, ...]]
    """What it can store weights in (`export.quantize`). The first is its default."""
    mixes: ClassVar[bool] = False
    """Whether tensors of one file can have different ones of its precisions: then it has the precision `mixed` too."""
    packages: ClassVar[tuple[str, ...]]
    """The distributions that write and run its files. The manifest records their versions."""
    systems: ClassVar[tuple[str, ...]] = ()
    """The earliest operating systems that its files can be written for. Empty: its files do not depend on one."""
    since: ClassVar[Mapping[str, str]] = {}
    """The earliest of `systems` that has a precision, for each that not all of them have."""
    zstd: ClassVar[bool] = False
    """Whether an export also writes the file compressed by Zstandard, for an app that unpacks it at its first start."""
    effects: ClassVar[Effects] = Effects()
    """What each kind of pruning changes about size and speed, with grounds and sources."""
    fastest: ClassVar[str] = "channel"
    """The granularity whose pruning makes its inference fastest, as `granularity` names it: what `fast` stands for."""
    lacks: ClassVar[tuple[str, ...]] = ()
    """The dtypes that inputs of its files can't have, as torch names them, such as `uint8`."""
    dynamic: ClassVar[bool] = False
    """Whether its files can have inputs whose sizes vary. If so, `write` makes such ones for a network whose signature
    says so (`export.dynamic`), and `run` takes `batch`."""
    holds_metadata: ClassVar[bool] = False
    """Whether its files have a place for `metadata`. If so, `write` and `packer` put it there."""
    takes_interface: ClassVar[bool] = False
    """Whether its files can take images and answer with class labels. If so, it overrides `with_interface`."""

    runtimes: ClassVar[tuple[str, ...]] = ()
    """The programs of which `min_runtime` may name the oldest version that must load its files. If any, it overrides
    `for_runtime`."""

    precision: str
    """What this target stores weights in."""
    min_os: str | None
    """The earliest system that must load the files; None where `systems` is empty."""
    compute: str | None = None
    """What its files were asked to compute in; None: the target's own choice."""
    fp32: tuple[str, ...] = ()
    """The operations and layers that compute in float in a file that computes in less, as that loses too much there."""
    widths: Mapping[str, str] = MappingProxyType({})
    """At `precision` mixed the precision of each tensor by its name; those that it lacks are stored in fp16."""
    rounding: Rounding | None = None
    """What chooses the codes of weights; None: the nearest are taken."""
    metadata: Mapping[str, str] = MappingProxyType({})
    """What its files say of themselves, of `export.facts`."""
    samples: tuple[Tensor, ...] | None = None
    """The inputs that it was calibrated on, batched; None before, and where `calibrates` is false."""

    def __init__(self, precision: str | None = None, min_os: str | None = None) -> None:
        """precision: one of `precisions`; None: the first. min_os: one of `systems`; None: the target's own choice."""
        self.precision = precision or self.precisions[0]
        self.min_os = min_os

    @property
    def arithmetic(self) -> str:
        """What its runtime computes in, whatever weights are stored in: `fp32`, `winograd` (fp32, with 3×3
        convolutions by that algorithm) or `fp16`, or `int8` where it `rounds_activations`. The tolerance of parity
        follows from it."""
        return "fp32"

    @property
    def note(self) -> str | None:
        """A sentence for the user about this precision and system, such as a form of storage that an old system lacks;
        None: there is nothing to say."""
        return None

    @property
    def stand_in(self) -> str | None:
        """What runs its files on this machine in place of its own runtime, in words; None: its own runtime does."""
        return None

    @property
    def packs_zeros(self) -> bool:
        """Whether a pruned weight makes the file smaller."""
        return self.effects.weights.smaller

    def verdict(self, kind: Kind, density: float, rows: int = 1) -> Verdict:
        """What pruning of that kind brings on it at its precision.

        density: the share of the weights that survives. rows: the output channels that are pruned together.
        """
        return self.effects.verdict(self.name, self.precision, kind, density, rows)

    @property
    def calibrates(self) -> bool:
        """Whether it rounds activations too at this precision, and therefore has to see real inputs first. If so, it
        overrides `calibrated`."""
        return False

    @property
    def rounds_activations(self) -> bool:
        """Whether its files round activations too at this precision: to calibrated ranges, or when they run. If so, it
        overrides `as_stored`."""
        return self.calibrates

    def calibrated(self, samples: tuple[Tensor, ...]) -> Target:
        """The same target with the ranges of activations that `samples` (batched) lead to in each network it writes.

        Raises UsageError for samples from which no range follows.
        """
        return self

    def keeping(self, names: tuple[str, ...]) -> Target:
        """The same target, with layers that stay float where it computes in int8.

        names: of layers or of modules around them; `w8a8.KEEP_AUTO`: those that lose most. `write` raises
        UsageError for a name that is of neither.
        """
        return self

    def as_stored(self, network: nn.Module, *, activations: bool) -> nn.Module:
        """The network that a file of `network` (what `fold.deployable` returns) stores, in PyTorch.

        activations: False: its weights rounded as in the file, under the names of `network`. True: activations rounded
        as well, for a batch of one; the same where the target does not round them. Raises as `write` does.
        """
        from dwindle.export.quantize import quantized

        return quantized(network, self.stored(network))

    def stored(self, network: nn.Module) -> dict[str, Stored]:
        """What a file of `network` (what `fold.deployable` returns) stores of each tensor, by name.

        `write` writes this; `packer` counts the bytes of the nearest codes. Raises as `write` does.
        """
        from dwindle.export.quantize import stored

        nearest = stored(network, self.storing)
        return self.rounding(network, nearest) if self.rounding else nearest

    def trained_through(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Mapping[str, Stored]:
        """How training rounds tensors (`compress.qat`), by name: those with a scale or a palette, as they are stored.

        network: what `fold.deployable` returns. inputs: what it takes, one sample as a batch of one.
        """
        return self.stored(network)

    @property
    def storing(self) -> str | Mapping[str, str]:
        """The precision that `stored` is asked for: one for all tensors, or `widths`."""
        from dwindle.export.quantize import MIXED

        return self.widths if self.precision == MIXED else self.precision

    def mixing(self, widths: Mapping[str, str]) -> Self:
        """The same target, with the precisions of tensors, by name, that its files have at `precision` mixed.

        widths: read whenever a file is written or counted, so that a caller may still change it.
        """
        changed = copy.copy(self)
        changed.widths = widths
        return changed

    def tensor_bytes(self, tensor: Stored) -> float:
        """About how many bytes a tensor takes in its packed files, for choosing between precisions and densities.

        The default is that of a file which stores it dense, or a bit for each weight and its survivors.
        """
        import numpy as np

        alive, size = int(np.count_nonzero(tensor.values)), tensor.values.size
        sparse = (alive * tensor.bits + size) / 8 if self.packs_zeros else size * tensor.bits / 8
        scales = 0 if tensor.scale is None else 2 * tensor.scale.size
        return min(size * tensor.bits / 8, sparse) + scales + (0 if tensor.palette is None else tensor.palette.nbytes)

    @property
    def has_codes(self) -> bool:
        """Whether it stores codes at its precision, which `rounding` may choose."""
        from dwindle.export.quantize import CODED, MIXED

        return self.calibrates or self.precision in (*CODED, MIXED)

    def rounded_by(self, rounding: Rounding) -> Self:
        """The same target, whose codes `rounding` chooses, such as `export.rounding.Calibrated`."""
        changed = copy.copy(self)
        changed.rounding = rounding
        return changed

    def computing(self, compute: str) -> Target:
        """The same target, whose files compute in `compute`, fp16 or fp32; raises UsageError where it can't choose."""
        raise UsageError(
            f"{self.name} files compute in {self.arithmetic} alone: leave out `compute`, or export to coreml or onnx",
            code="no-compute",
            option="compute",
            name=self.name,
        )

    def for_runtime(self, name: str, version: tuple[int, int]) -> Target:
        """The same target, whose files a version of one of `runtimes` loads.

        Raises UsageError for a version that none can be written for.
        """
        raise UsageError(
            f"{self.name} files are written for no version of {name}", code="unknown-runtime", option="min_runtime"
        )

    def described(self, metadata: Mapping[str, str]) -> Target:
        """The same target, whose files say that of themselves; one that has no place for it in them is as it was."""
        if not self.holds_metadata or metadata == self.metadata:
            return self
        described = copy.copy(self)
        described.metadata = MappingProxyType(dict(metadata))
        return described

    def original(self) -> Target:
        """The target of the dense network's file: its weights at the first precision, all else the same."""
        return type(self)() if self.compute is None else type(self)().computing(self.compute)

    def holding(self, network: nn.Module, inputs: tuple[Tensor, ...], real: tuple[Tensor, ...]) -> Target:
        """The same target, with what it has to know of a network's values before it writes that.

        network: what `write` is given, with `inputs`. real: samples, batched. The default needs to know nothing.
        """
        return self

    def with_interface(self, interface: Interface) -> Target:
        """The same target, whose files take and answer what `interface` says.

        Raises UsageError where `takes_interface` is false, which is the default.
        """
        raise UsageError(
            f"{self.name} files take neither images nor class labels: export to coreml",
            code="no-interface",
            name=self.name,
        )

    def breakdown(self, path: Path) -> Breakdown | None:
        """What the bytes of a file that this target wrote are spent on; None: it cannot tell, which is the default."""
        return None

    def consumers(self, path: Path) -> tuple[Consumer, ...]:
        """The programs known to load a file that this target wrote, and those that don't; empty where the format has
        one reader, which is the default."""
        return ()

    @abstractmethod
    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        """Writes a network (what `fold.deployable` returns) to `path`, for the batch size of `inputs`.

        The file's inputs and outputs have the names and the order of `models.signature.input_names` and `output_names`.
        pack: False stores zeros like any other weight, as other tools expect. Returns how weights are encoded, in
        words, such as `bitmask + fp16 survivors`. Raises UsageError for a network that the format cannot hold.
        """

    @abstractmethod
    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        """A function from a network of the same architecture to the bytes that its packed file would have.

        Both are networks as they are trained: batch norm not folded, on any device, their zeros explicit.
        """

    @abstractmethod
    def run(self, path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        """The file's outputs for each sample of `inputs` (any number of them), by its own runtime.

        batch: how many it is given at once; more than one only where `dynamic` is true. Raises RuntimeUnavailable where
        that runtime is not on this machine.
        """

    @abstractmethod
    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        """Each tensor that can be read back from the file, as its runtime will see it, by its name in `module`.

        module: what was written. Its names and shapes are read, never its values. Every packed weight must be there.
        """


def one_by_one(
    infer: Callable[[list[np.ndarray]], Sequence[np.ndarray]], inputs: tuple[Tensor, ...], batch: int = 1
) -> Outputs:
    """Runs a file over any number of samples, `batch` of them at once.

    infer: from one array per input, each a batch, to one array per output.
    """
    import numpy as np

    samples = zip(*(tensor.split(batch) for tensor in inputs), strict=True)
    answers = [infer([tensor.numpy() for tensor in sample]) for sample in samples]
    return tuple(np.concatenate([np.atleast_1d(one) for one in column]) for column in zip(*answers, strict=True))
