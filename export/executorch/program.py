"""A network as an ExecuTorch program in fp32: lowered once for XNNPACK, then filled with any weights of its shapes.

Lowering takes most of the time and does not depend on the weights: it writes each with its dimensions in the order that
XNNPACK wants, under the SHA-256 of those bytes (`backends/xnnpack/operators/node_visitor.py` in ExecuTorch). All 64 of
its digits, twice for each tensor, are a tenth of a small network's file; runtimes take any name, and share tensors of
one name between the programs of a process, so that names still have to follow from the bytes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

from dwindle.export.architecture import once
from dwindle.export.blame import refusal
from dwindle.export.executorch.spelling import spell_out
from dwindle.export.fold import distinct, tensors, trace
from dwindle.export.patch import replaced
from dwindle.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

_DIGITS = 24
"""How many digits of its SHA-256 a tensor is written under: 96 bits, which no two tensors share."""
_KEY = re.compile(rb"[0-9a-f]{%d}" % _DIGITS)
_NUMBER = 8
"""The largest constant, in bytes, that may be a number of the program's own and not a tensor of the network."""
_ALIGNED = 16
"""What multiple of bytes some constants are filled up to with zeros."""


class Place(NamedTuple):
    """Where a tensor of the network lies in a file."""

    name: str
    axes: tuple[int, ...]
    """The order of its dimensions in the file."""
    start: int
    keys: tuple[int, ...]
    """The offsets of what it is written under: see `key_of`."""


class _Digest(NamedTuple):
    """In the place of what `hashlib.sha256` returns."""

    data: bytes

    def hexdigest(self) -> str:
        return key_of(self.data)


def key_of(data: bytes) -> str:
    """What a tensor of these bytes is written under: the first digits of their SHA-256."""
    return sha256(data).hexdigest()[:_DIGITS]


@dataclass(frozen=True)
class Program:
    """A lowered network."""

    content: bytes
    places: tuple[Place, ...]
    complete: bool
    """Whether all constants are tensors of the network, so that they can be replaced by another network's."""

    def filled(self, network: nn.Module) -> bytes:
        """The file with the tensors of another network of the same architecture."""
        content, values = bytearray(self.content), tensors(network)
        for name, axes, start, keys in self.places:
            data = _bytes(values[name], axes)
            content[start : start + len(data)] = data
            key = key_of(data).encode()
            for place in keys:
                content[place : place + len(key)] = key
        return bytes(content)


@once
def lower(network: nn.Module, inputs: tuple[Tensor, ...]) -> Program:
    """The program of a network's architecture. Raises UsageError where the network cannot be traced or lowered."""
    network = distinct(network)
    content = lowered(trace(network, inputs), type(network).__name__)
    return Program(content, *_found(content, {name: own for name, own in tensors(network).items() if own.numel()}))


def lowered(program: ExportedProgram, name: str) -> bytes:
    """The content of a traced network's file. name: the network's, for the UsageError where ExecuTorch refuses it."""
    spell_out(program)
    try:
        with quiet(), _without_idle_patterns(program):
            from executorch.backends.xnnpack.operators import node_visitor
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            with replaced(node_visitor, "hashlib", SimpleNamespace(sha256=_Digest)):
                edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            return bytes(edge.to_executorch().buffer)
    except Exception as error:
        raise refusal(error, name, "written as ExecuTorch") from error


@contextmanager
def _without_idle_patterns(program: ExportedProgram) -> Iterator[None]:
    """Within it, lowering does not search for two subgraphs that a network cannot have.

    To search for one, it exports examples of it first, which takes a third of lowering's time.
    """
    from executorch.backends.xnnpack.partition.graphs import bilinear_2d, sdpa

    called = " ".join(str(node.target) for node in program.graph.nodes)
    with ExitStack() as patches:
        if not re.search("softmax|scaled_dot_product", called):
            patches.enter_context(replaced(sdpa, "get_graphs", tuple))
        if not re.search("index|upsample", called):
            patches.enter_context(replaced(bilinear_2d, "get_graphs_dict", dict))
        yield


def _found(content: bytes, named: dict[str, Tensor]) -> tuple[tuple[Place, ...], bool]:
    """Where each of the tensors is in a file, and whether every constant that could come from one is among them.

    named: tensors of which no two are equal, by name.
    """
    by_digest: dict[str, tuple[str, tuple[int, ...], str]] = {}
    for name, tensor in named.items():
        for axes in _orders(tensor.shape):
            data = _bytes(tensor, axes)
            known = name, axes, key_of(data)
            by_digest[known[-1]] = known
            if missing := -len(data) % _ALIGNED:
                by_digest[key_of(data + bytes(missing))] = known
    keys: dict[str, list[int]] = {}
    for match in _KEY.finditer(content):
        keys.setdefault(match.group().decode(), []).append(match.start())
    numbers = any(tensor.is_floating_point() and tensor.numel() == 1 for tensor in named.values())
    places, start, complete = [], 0, True
    for constant in _constants(content):
        held = by_digest.get(key_of(constant))
        if held and (at := content.find(constant, start)) >= 0:
            name, axes, key = held
            places.append(Place(name, axes, at, tuple(keys.get(key, []))))
            start = at
        else:
            complete &= not constant[_NUMBER:].strip(b"\0") and not numbers
    return tuple(places), complete


def _constants(content: bytes) -> Iterator[bytes]:
    """The constants of a file, in the order of their offsets."""
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

        file = deserialize_pte_binary(content)
    yield from (constant for buffer in file.program.constant_buffer if (constant := bytes(buffer.storage)))
    yield from map(bytes, file.named_data.buffers if file.named_data else [])


def _orders(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every order of a tensor's dimensions that leads to different bytes, its own included."""
    long = [axis for axis, size in enumerate(shape) if size > 1]
    short = [axis for axis, size in enumerate(shape) if size == 1]
    return [(*order, *short) for order in itertools.permutations(long)]


def _bytes(tensor: Tensor, axes: tuple[int, ...]) -> bytes:
    return tensor.detach().permute(axes).contiguous().numpy().tobytes()
