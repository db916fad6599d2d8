"""PyTorch itself: the cut, folded network as a `.pt2` program of torch.export, for servers and for torch.compile.

The format has no sparse weights, so zeros cost what others do, until the file is compressed as a whole.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.errors import UsageError
from dwindle.export.fold import deployable, reason, tensors, trace
from dwindle.export.quiet import quiet
from dwindle.export.target import one_by_one

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule


class PyTorch:
    """A .pt2 archive, its batch fixed, that `torch.export.load` reads without the code of the model."""

    name = "pytorch"
    suffix = ".pt2"
    precisions = ("fp32",)
    arithmetic = "fp32"
    packs_zeros = False
    packages = ("torch",)
    zstd = True
    """Whether an export has the file compressed beside it, for want of zeros packed in it."""

    def __init__(self, precision: str = precisions[0]) -> None:
        self.precision = precision

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        path.write_bytes(_archive(module, inputs))
        return f"dense {self.precision}"

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        size = len(_archive(deployable(module, inputs), inputs))  # follows from the shapes alone
        return lambda candidate: size

    def run(self, path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
        import torch

        module = read(path).module()
        with torch.inference_mode():
            return one_by_one(lambda sample: module(*map(torch.from_numpy, sample)).numpy(), inputs)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        program = read(path)
        held = {**program.state_dict, **program.constants}
        return {name: held[name].numpy() for name in tensors(module) if name in held}

    def loaded(self, path: Path) -> GraphModule:
        """The file's program as a module, on the CPU, for its runtimes. Raises as `read` does."""
        return read(path).module()


_HARMLESS = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|archive_format|archive_version|version|byteorder|\.data/\w+|\.format_version"
)
"""What an archive may hold: raw tensors, JSON and marks of the format (torch/csrc/export/pt2_archive_constants.h). Its
other members are compiled libraries and pickles, which loading would execute."""
_EXAMPLE = "data/sample_inputs/model.pt"
"""A pickle: of use to nobody here, so that it is written empty."""


def read(path: Path) -> ExportedProgram:
    """The program in a file. Raises UsageError for one with parts that loading would execute, without loading it."""
    import torch

    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.partition("/")[2]
            pickled = name.endswith("_config.json") and any(
                held["use_pickle"] for held in json.loads(archive.read(entry))["config"].values()
            )
            if pickled or not (_HARMLESS.fullmatch(name) or (name == _EXAMPLE and not entry.file_size)):
                raise UsageError(f"{path} has a part that would be executed, {name}: dwindle writes none such")
    with quiet():
        return torch.export.load(path)


def _archive(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    import torch

    program = trace(network, inputs)
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of the user's code, and where they lie on this machine
    content = io.BytesIO()
    try:
        with quiet():
            torch.export.save(program, content)
    except Exception as error:
        raise UsageError(f"{type(network).__name__} cannot be written as a .pt2: {reason(error)}") from error
    return content.getvalue()
