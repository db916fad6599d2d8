"""ExecuTorch through the Core ML delegate: a .pte whose work Core ML does, for iPhones and Macs.

ExecuTorch's own lowering decides that Core ML takes the network, and what the .pte says of it. The .mlpackage that the
delegate then finds inside is the one that the Core ML target writes, so that zeros are packed in it as they are there.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from dwindle.errors import RuntimeUnavailable, UsageError
from dwindle.export.coreml.read import MODEL
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable, reason, trace
from dwindle.export.quiet import quiet
from dwindle.export.target import one_by_one

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

_BACKEND = "CoreMLBackend"
_HELPER = "executorch.backends.apple.coreml.executorchcoreml"
"""Native code of ExecuTorch's wheel, that puts a folder into bytes and takes it out again."""
_ROOT, _PACKAGE, _METADATA = "lowered_module", "model.mlpackage", "metadata.json"
"""Paths that the delegate looks for (backends/apple/coreml/compiler/coreml_preprocess.py)."""


class ExecuTorchCoreML:
    """A .pte program that is one call of Core ML."""

    name = "executorch-coreml"
    suffix = ".pte"
    precisions = CoreML.precisions
    systems = CoreML.systems
    arithmetic = CoreML.arithmetic
    packs_zeros = True
    packages = ("torch", "executorch", "coremltools")

    def __init__(self, precision: str = precisions[0], min_os: str | None = None) -> None:
        if not find_spec("executorch") or not find_spec(_HELPER):
            raise RuntimeUnavailable("the installed executorch has no Core ML delegate: pip install executorch")
        self.precision = precision
        self.package = CoreML(precision, min_os)

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
        """What runs its files here, where Core ML isn't."""
        return self.package.stand_in

    def run(self, path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
        infer = self.loaded(path)
        return one_by_one(lambda sample: infer(sample)[0], inputs)

    def loaded(self, path: Path) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
        """As Core ML's target has it: the package in the file, run by itself."""
        with _unpacked(path) as package:
            return self.package.loaded(package)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        with _unpacked(path) as package:
            return self.package.decode(package, module)


def _program(network: nn.Module, inputs: tuple[Tensor, ...], package: bytes, min_os: str) -> bytes:
    """A .pte that gives everything to Core ML. Raises UsageError for a network of which Core ML takes but a part."""
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
            instead = staticmethod(lambda *given: PreprocessResult(processed_bytes=package))
            with patch.object(CoreMLBackend, "preprocess", instead):
                lowered = to_edge_transform_and_lower(program, partitioner=[CoreMLPartitioner(compile_specs=specs)])
            content = bytes(lowered.to_executorch().buffer)
    except Exception as error:
        raise UsageError(f"{name} cannot be written as ExecuTorch for Core ML: {reason(error)}") from error
    if (left := _outside(_plan(content)[0])) is not None:
        raise UsageError(f"Core ML takes but a part of {name}, without {left}: --delegate xnnpack takes all of it")
    return content


def _plan(content: bytes) -> tuple[Any, Any]:
    """The one plan of a .pte, and the file that it is in."""
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

        file = deserialize_pte_binary(content)
    (plan,) = file.program.execution_plan
    return plan, file


def _outside(plan: Any) -> str | None:
    """What a plan does besides its one call of Core ML, in words; None where that is all."""
    (chain,) = plan.chains
    if [delegate.id for delegate in plan.delegates] == [_BACKEND] and len(chain.instructions) == 1:
        return None
    return ", ".join(operator.name for operator in plan.operators) or "what lies between"


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The .mlpackage in a .pte, in a folder of its own while the context lasts.

    Raises ValueError for a damaged file, or one that isn't a single call of Core ML.
    """
    try:
        plan, file = _plan(path.read_bytes())
        if left := _outside(plan):
            raise ValueError(f"it computes {left} outside of Core ML")
        held = bytes(file.program.backend_delegate_data[plan.delegates[0].processed.index].data)
        folder = tempfile.TemporaryDirectory()
        if not _native().unflatten_directory_contents(held, folder.name):
            raise ValueError("its package is damaged")
    except Exception as error:  # the parser asserts, or reads beyond the end
        raise ValueError(f"{path.name} is no .pte of Core ML that can be read ({error})") from error
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
