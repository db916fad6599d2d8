"""ExecuTorch through the Core ML delegate: a .pte whose work Core ML does, for iPhones and Macs.

ExecuTorch's own lowering decides that Core ML takes the network, and what the .pte says of it. The .mlpackage that the
delegate then finds inside is the one that the Core ML target writes, so that zeros are packed in it as they are there.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dwindle.errors import RuntimeUnavailable, UsageError
from dwindle.export.blame import refusal
from dwindle.export.coreml.read import MODEL
from dwindle.export.coreml.read import breakdown as package_breakdown
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable, trace
from dwindle.export.patch import replaced
from dwindle.export.target import Outputs, Target, one_by_one
from dwindle.files import raw_bytes
from dwindle.manifest import Breakdown
from dwindle.quiet import quiet

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from dwindle.export.target import Rounding

_BACKEND = "CoreMLBackend"
_HELPER = "executorch.backends.apple.coreml.executorchcoreml"
"""The native module of ExecuTorch's wheel that turns a folder into bytes and back."""
_ROOT, _PACKAGE, _METADATA = "lowered_module", "model.mlpackage", "metadata.json"
"""Paths that the delegate looks for (backends/apple/coreml/compiler/coreml_preprocess.py)."""


class ExecuTorchCoreML(Target):
    """A .pte program that is one call of Core ML."""

    name = "executorch-coreml"
    suffix = ".pte"
    precisions = CoreML.precisions
    systems = CoreML.systems
    arithmetic = CoreML.arithmetic
    effects = CoreML.effects
    packages = ("torch", "executorch", "coremltools")

    def __init__(self, precision: str | None = None, min_os: str | None = None) -> None:
        if not find_spec("executorch") or not find_spec(_HELPER):
            raise RuntimeUnavailable(
                "the installed executorch has no Core ML delegate: pip install executorch",
                code="not-installed",
                name="executorch",
            )
        self.package = CoreML(precision, min_os)
        super().__init__(precision, self.package.min_os)

    @property
    def calibrates(self) -> bool:
        return self.package.calibrates

    def calibrated(self, samples: tuple[Tensor, ...]) -> ExecuTorchCoreML:
        changed = copy.copy(self)
        changed.package, changed.samples = self.package.calibrated(samples), samples
        return changed

    def keeping(self, names: tuple[str, ...]) -> ExecuTorchCoreML:
        changed = copy.copy(self)
        changed.package = self.package.keeping(names)
        return changed

    def rounded_by(self, rounding: Rounding) -> Self:
        changed = super().rounded_by(rounding)
        changed.package = self.package.rounded_by(rounding)
        return changed

    def as_stored(self, network: nn.Module, *, activations: bool) -> nn.Module:
        return self.package.as_stored(network, activations=activations)

    @property
    def note(self) -> str | None:
        return self.package.note

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        files, words = self.package.files(module, inputs, pack=pack)
        path.write_bytes(_program(module, inputs, _folded(files), self.package.min_os))
        return words

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        packed = self.package.packed(module, inputs)
        first = _folded(packed(module))
        around = len(_program(deployable(module, inputs), inputs, first, self.package.min_os)) - len(first)
        return lambda candidate: around + len(_folded(packed(candidate)))

    @property
    def stand_in(self) -> str | None:
        """What runs its files on a machine without Core ML; None on a Mac."""
        return self.package.stand_in

    def run(self, path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        infer = self.loaded(path)
        return one_by_one(infer, inputs, batch)

    def loaded(self, path: Path) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
        """As `CoreML.loaded`, for the package in the file."""
        with _unpacked(path) as package:
            return self.package.loaded(package)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        with _unpacked(path) as package:
            return self.package.decode(package, module)

    def breakdown(self, path: Path) -> Breakdown:
        """That of the package in the file; the program around it counts with the rest."""
        with _unpacked(path) as package:
            inner = package_breakdown(package)
        return Breakdown.of(raw_bytes(path), mask=inner.mask, values=inner.values, graph=inner.graph)


def _program(network: nn.Module, inputs: tuple[Tensor, ...], package: bytes, min_os: str) -> bytes:
    """A .pte that delegates a whole network to Core ML.

    package: what Core ML is given, as `_folded` makes it. Raises UsageError where Core ML takes only a part of it.
    """
    program, name = trace(network, inputs), type(network).__name__
    try:
        with quiet():
            import coremltools
            from executorch.backends.apple.coreml.compiler import CoreMLBackend
            from executorch.backends.apple.coreml.partition import CoreMLPartitioner
            from executorch.exir import to_edge_transform_and_lower
            from executorch.exir.backend.backend_details import PreprocessResult

            specs = CoreMLBackend.generate_compile_specs(
                minimum_deployment_target=coremltools.target[min_os],
                compute_precision=coremltools.precision.FLOAT16,
            )
            write_ours = staticmethod(lambda *_: PreprocessResult(processed_bytes=package))
            with replaced(CoreMLBackend, "preprocess", write_ours):
                lowered = to_edge_transform_and_lower(program, partitioner=[CoreMLPartitioner(compile_specs=specs)])
            content = bytes(lowered.to_executorch().buffer)
    except Exception as error:
        raise refusal(error, name, "written as ExecuTorch for Core ML") from error
    if (operators := _outside(_plan(content)[0])) is not None:
        raise UsageError(
            f"Core ML cannot run all of {name}, as it lacks {operators}: give `delegate` xnnpack, which runs all of it",
            code="partly-delegated",
            name=operators,
        )
    return content


def _plan(content: bytes) -> tuple[Any, Any]:
    """The execution plan of a .pte, of which there is one, and the parsed file."""
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

        file = deserialize_pte_binary(content)
    (plan,) = file.program.execution_plan
    return plan, file


def _outside(plan: Any) -> str | None:
    """The operators that a plan runs besides its one call of Core ML, in words; None where it runs no others."""
    (chain,) = plan.chains
    if [delegate.id for delegate in plan.delegates] == [_BACKEND] and len(chain.instructions) == 1:
        return None
    return ", ".join(operator.name for operator in plan.operators) or "the steps between two calls"


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The .mlpackage in a .pte, in a folder of its own while the context lasts.

    Raises ValueError for a damaged file, or one that isn't a single call of Core ML.
    """
    try:
        plan, file = _plan(path.read_bytes())
        if operators := _outside(plan):
            raise ValueError(f"it computes {operators} outside of Core ML")
        flattened = bytes(file.program.backend_delegate_data[plan.delegates[0].processed.index].data)
        folder = tempfile.TemporaryDirectory()
        if not _native().unflatten_directory_contents(flattened, folder.name):
            raise ValueError("its package is damaged")
    except Exception as error:  # the parser asserts, or reads beyond the end
        raise ValueError(f"{path.name} is not a .pte file for Core ML that dwindle can read ({error})") from error
    with folder:
        yield Path(folder.name, _ROOT, _PACKAGE)


def _folded(files: Mapping[str, bytes]) -> bytes:
    """A package as the delegate takes it: a folder in bytes, with the names of the model's inputs and outputs.

    The identifier is what a device keeps the compiled model by: the package's own digest.
    """
    with quiet():
        from coremltools.proto.Model_pb2 import Model
    model = Model.FromString(files[MODEL])
    digest = hashlib.sha256(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()
    metadata = {
        "inputNames": [value.name for value in model.description.input],
        "outputNames": [value.name for value in model.description.output],
        "identifier": f"executorch_{digest[:32]}",
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, _ROOT)
        inside = {f"{_PACKAGE}/{name}": content for name, content in files.items()}
        for name, content in {_METADATA: json.dumps(metadata).encode(), **inside}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        return bytes(_native().flatten_directory_contents(str(root)))


def _native() -> Any:
    with quiet():
        from executorch.backends.apple.coreml import executorchcoreml
    return executorchcoreml
