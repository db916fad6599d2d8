"""What is in a model file, whoever wrote it.

A format's reader runs, unpickles and imports nothing of the file. It needs the standard library and NumPy alone, so
that the verdict on a file comes at once and takes no installation of the format's own.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dwindle import registry
from dwindle.errors import DwindleError, UsageError, one_line

READERS = "dwindle.readers"
"""The entry-point group of functions from a path to Contents, each registered as its suffix without the dot."""

VALUES, MASK, TABLE, CONSTANT, GRAPH = "values", "mask", "table", "constant", "graph"
"""What bytes are: weights (tensors of two dimensions or more), which weights survive, the scales and palettes by which
codes are read, other tensors, and all else: operators, names, padding."""
BITS = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 64),
    **dict.fromkeys(("float32", "int32", "uint32"), 32),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 16),
    **dict.fromkeys(("int8", "uint8", "bool", "float8"), 8),
    **{
        "complex128": 128,
        "complex32": 32,
        "uint6": 6,
        "int4": 4,
        "uint4": 4,
        "float4": 4,
        "uint3": 3,
        "int2": 2,
        "uint2": 2,
        "uint1": 1,
    },
}
"""Bits of a number in each storage type."""
_WORDS = {"float32": "f4", "float64": "f8", "int8": "i1", "float16": "u2", "bfloat16": "u2", "int16": "i2"}
"""NumPy's types in which zeros are counted. Of unsigned codes, no one knows which stands for zero."""


@dataclass(frozen=True)
class Part:
    """Bytes of a file that are of one kind and have one name."""

    kind: str
    name: str
    """The tensor's, as the file has it, or the operator's; empty for what has no name."""
    bytes: int
    storage: str = ""
    """What its numbers are stored as, such as `float16`; empty where they aren't numbers."""
    zeros: int = 0
    """Numbers that are zero and take as many bytes as any other."""

    @property
    def numbers(self) -> int:
        return self.bytes * 8 // BITS[self.storage] if self.storage else 0

    @property
    def packable(self) -> int:
        """Bytes that storing a bit per weight and only the weights that aren't zero would save."""
        if self.kind != VALUES or not self.storage:
            return 0
        return max(0, self.zeros * BITS[self.storage] // 8 - -(-self.numbers // 8))


@dataclass(frozen=True)
class Tensor:
    """An input or output: the name, type and shape by which an app calls the network."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    """A string, or −1, is a size that is not fixed."""

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Contents:
    """A model file. The bytes of its parts add up to those of the file."""

    format: str
    """Such as `ONNX`."""
    parts: tuple[Part, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: Mapping[str, int] = field(default_factory=dict)
    """How often the graph calls each."""
    undelegated: Mapping[str, int] | None = None
    """Of those, the ones that no delegate takes; None where no delegate is chosen before the file is loaded."""
    opaque: str | None = None
    """What holds weights in a form that isn't read here, such as `CoreMLBackend`; None where nothing does."""
    beside: tuple[str, ...] = ()
    """The names of further files that the file needs, whose bytes are counted too."""

    @cached_property
    def bytes(self) -> int:
        """Installed size."""
        return sum(part.bytes for part in self.parts)

    @cached_property
    def weights(self) -> dict[str, int]:
        """Bytes of the weights by storage type, the most first."""
        found: dict[str, int] = {}
        for part in self.parts:
            if part.kind == VALUES:
                found[part.storage or "packed"] = found.get(part.storage or "packed", 0) + part.bytes
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @cached_property
    def zeros(self) -> float:
        """The share of the stored weights that are zero, in [0, 1]; 0 where there are no weights."""
        weights = [part for part in self.parts if part.kind == VALUES]
        numbers = sum(part.numbers for part in weights)
        return sum(part.zeros for part in weights) / numbers if numbers else 0.0

    @cached_property
    def uncounted(self) -> int:
        """Bytes of the weights of which nobody knows what stands for zero: unsigned codes, and codes of few bits."""
        return sum(part.bytes for part in self.parts if part.kind == VALUES and part.storage not in ("", *_WORDS))

    @cached_property
    def packable(self) -> int:
        """Bytes that packing the zeros as a bit mask would save."""
        return sum(part.packable for part in self.parts)


_CODE = (".pt", ".pth", ".jit", ".pkl", ".pickle", ".ckpt")
"""Pickles and TorchScript."""
_DAMAGE = (
    *(ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError, MemoryError),
    *(struct.error, zipfile.BadZipFile, NotImplementedError, RuntimeError),
)
"""What readers and the standard library make of a damaged file."""


def suffixes() -> list[str]:
    """The suffixes of the files that can be read, such as `.onnx`."""
    return [f".{name}" for name in registry.names(READERS)]


def is_model_file(path: Path) -> bool:
    """Whether the path's name says that it is a file of a kind that can be read."""
    return path.suffix.lower() in suffixes()


def contents(path: Path) -> Contents:
    """What is in a model file.

    Raises UsageError for a file that isn't there or of a kind that can't be read, DwindleError for a damaged one.
    """
    if not path.exists():
        raise UsageError(f"there is no {path}", code="missing", path=path)
    if not is_model_file(path):
        listed = ", ".join(suffixes())
        message = f"{path} is neither a checkpoint nor a model file that dwindle reads ({listed})"
        if path.suffix.lower() in _CODE:
            message += f": a {path.suffix} file is a program that Python or PyTorch runs; export it to one of these"
        raise UsageError(message, code="unknown-format", path=path)
    read: Callable[[Path], Contents] = registry.resolve(READERS, path.suffix.lower()[1:], "kind of file")
    try:
        return read(path)
    except DwindleError:
        raise
    except OSError as error:
        raise DwindleError(f"cannot read {path}: {error.strerror}", code="unreadable", path=path) from error
    except _DAMAGE as error:
        message = f"{path} is damaged, cut short, or no {path.suffix} file ({one_line(error)})"
        raise DwindleError(message, code="damaged", path=path) from error


def zeros(data: memoryview, storage: str) -> int:
    """How many of the numbers in `data` are zero; 0 for a type of which that isn't known."""
    if storage not in _WORDS:
        return 0
    import numpy as np

    kind = np.dtype("<" + _WORDS[storage])
    numbers = np.frombuffer(data, kind, len(data) // kind.itemsize)
    if kind.kind == "u":  # the bits of a float, whose sign does not count
        return int(numbers.size - np.count_nonzero(numbers & 0x7FFF))
    return int(numbers.size - np.count_nonzero(numbers))
