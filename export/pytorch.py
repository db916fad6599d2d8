"""PyTorch itself: the cut, folded network as a `.pt2` program of torch.export, for servers and for torch.compile.

The format has no sparse weights: a zero takes as many bytes as any other weight, until the whole file is compressed.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.errors import UsageError, one_line
from dwindle.export.answers import outputs_of
from dwindle.export.fold import deployable, tensors, trace
from dwindle.export.target import Outputs, Target
from dwindle.export.zeros import Effects
from dwindle.manifest import Breakdown
from dwindle.quiet import quiet

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule


class PyTorch(Target):
    """A .pt2 archive, its batch fixed, that `torch.export.load` reads without the code of the model."""

    name = "pytorch"
    suffix = ".pt2"
    precisions = ("fp32",)
    packages = ("torch",)
    zstd = True
    effects = Effects(units=("CPU", "GPU"))

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        path.write_bytes(_archive(module, inputs))
        return f"dense {self.precision}"

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        size = len(_archive(deployable(module, inputs), inputs))  # follows from the shapes alone
        return lambda candidate: size

    def run(self, path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        return outputs_of(read(path).module(), inputs, batch)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        program = read(path)
        found = {**program.state_dict, **program.constants}
        return {name: found[name].numpy() for name in tensors(module) if name in found}

    def breakdown(self, path: Path) -> Breakdown:
        values = graph = 0
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.partition("/")[2]
                if _TENSOR.fullmatch(name):
                    values += entry.compress_size
                elif name == _GRAPH:
                    graph += entry.compress_size
        return Breakdown.of(path.stat().st_size, mask=0, values=values, graph=graph)

    def loaded(self, path: Path) -> GraphModule:
        """The file's program as a module on the CPU. Raises as `read` does."""
        return read(path).module()


_HARMLESS = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|archive_format|archive_version|version|byteorder|\.data/\w+|\.format_version"
)
"""What an archive may hold: raw tensors, JSON and marks of the format (torch/csrc/export/pt2_archive_constants.h). Its
other members are compiled libraries and pickles, which loading would execute."""
_TENSOR = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
_GRAPH = "models/model.json"
_EXAMPLE = "data/sample_inputs/model.pt"
"""A pickle of example inputs, which nothing here reads: it is written empty."""
_CALLS = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.getitem")
"""What the program may call: PyTorch's own operators. Another name is looked up in torch's modules, and called."""
_ARGUMENTS = frozenset(
    f"as_{kind}"
    for kind in (
        "none", "bool", "bools", "int", "ints", "float", "floats", "string", "strings", "tensor", "tensors",
        "optional_tensor", "optional_tensors", "scalar_type", "memory_format", "layout", "device", "name",
    )
)  # fmt: skip
"""The kinds of arguments that a program of fixed shapes has (torch/_export/serde/schema.py). Of the others, symbolic
sizes (`as_expr`) are evaluated by sympy, and operators and custom objects are looked up by name."""
_TREES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", None})
"""What inputs and outputs may be nested in: for a defaultdict or an enum, PyTorch imports a module by its name."""
_EMPTY = frozenset({"expr_str", "guards_code", "treespec_namedtuple_fields", "custom_obj_values"})
"""What holds nothing in a program of fixed shapes, and is evaluated or imported where it holds something."""


def read(path: Path) -> ExportedProgram:
    """The program in a file.

    Raises UsageError for one with parts that loading would execute, which are looked for before PyTorch sees the file,
    and for one that is damaged.
    """
    import torch

    content = _checked(path)
    try:
        with quiet():
            return torch.export.load(content)
    except Exception as error:  # a damaged program fails anywhere in PyTorch's reader
        raise _damaged(path, one_line(error, root_cause=True)) from error


def _checked(path: Path) -> io.BytesIO:
    """The archive written anew from what was read and found harmless: PyTorch's own readers of archives and JSON could
    see other parts than these in the file as it is."""
    checked = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(checked, "w") as clean:
            for entry in archive.infolist():
                name = entry.filename.partition("/")[2]
                if not (_HARMLESS.fullmatch(name) or (name == _EXAMPLE and not entry.file_size)):
                    raise _executed(path, name)
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise _damaged(path, f"{name} is compressed")
                part = archive.read(entry)
                if name.endswith(".json"):
                    part = json.dumps(_harmless(path, name, json.loads(part))).encode()
                clean.writestr(entry.filename, part)
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        raise _damaged(path, one_line(error, root_cause=True)) from error
    checked.seek(0)
    return checked


def _harmless(path: Path, name: str, document: dict[str, Any]) -> dict[str, Any]:
    """A document of the archive; raises UsageError for anything in it that loading would evaluate, import or call."""
    if name.endswith("_config.json") and any(held["use_pickle"] for held in document["config"].values()):
        raise _executed(path, name)
    for held in _objects(document):
        if isinstance(held.get("metadata"), dict):
            held["metadata"] = {}  # where a call came from: some of it is looked up by name, and none is needed
        for key, value in held.items():
            if (
                (key.startswith("as_") and key not in _ARGUMENTS)
                or (key == "target" and not (isinstance(value, str) and _CALLS.fullmatch(value)))
                or (key in ("in_spec", "out_spec") and not _is_plain_tree(value))
                or (key in _EMPTY and value)
            ):
                raise _executed(path, f"{name}, {key} {value!r:.60}")
    return document


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document, at any depth."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _objects(entry)


def _is_plain_tree(description: str) -> bool:
    """Whether a pytree's description names nothing but Python's own containers, with names for keys."""
    return all(
        held.keys() == {"type", "context", "children_spec"}
        and held["type"] in _TREES
        and (held["context"] is None or all(isinstance(key, str) for key in json.loads(held["context"]) or ()))
        for held in _objects(json.loads(description))
    )


def _executed(path: Path, name: str) -> UsageError:
    return UsageError(
        f"{path} is refused, because loading it would execute its part {name}: export it again by dwindle",
        code="executable-part",
        path=path,
        name=name,
    )


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is no .pt2 that can be read ({why}): export it again", code="damaged", path=path)


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
        name = type(network).__name__
        raise UsageError(
            f"{name} cannot be written as a .pt2: {one_line(error, root_cause=True)}", code="not-convertible", name=name
        ) from error
    return content.getvalue()
