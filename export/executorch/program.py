"""A network as an ExecuTorch program in fp32: lowered once for XNNPACK, then filled with any weights of its shapes.

Lowering takes most of the time, and sees nothing of the weights: it lays each down in an order of its dimensions that
XNNPACK wants, under the SHA-256 of those bytes (`backends/xnnpack/operators/node_visitor.py` in ExecuTorch).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

from dwindle.errors import UsageError
from dwindle.export.architecture import once
from dwindle.export.fold import distinct, reason, tensors, trace
from dwindle.export.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

_KEY = re.compile(rb"[0-9a-f]{64}")
_NUMBER = 8
"""Bytes of a constant that may be a number of the program's own."""


class Place(NamedTuple):
    """Where a tensor of the network lies in a file."""

    name: str
    axes: tuple[int, ...]
    """The order that the file has its dimensions in."""
    start: int
    keys: tuple[int, ...]
    """Where the SHA-256 of its bytes stands, in hexadecimal digits."""


@dataclass(frozen=True)
class Program:
    """A lowered network."""

    content: bytes
    places: tuple[Place, ...]
    complete: bool
    """Whether all constants are the network's tensors, so that others can take their places."""

    def filled(self, network: nn.Module) -> bytes:
        """The file with the tensors of another network of the same architecture."""
        content, held = bytearray(self.content), tensors(network)
        for name, axes, start, keys in self.places:
            data = _laid(held[name], axes)
            content[start : start + len(data)] = data
            key = sha256(data).hexdigest().encode()
            for place in keys:
                content[place : place + len(key)] = key
        return bytes(content)


@once
def lower(network: nn.Module, inputs: tuple[Tensor, ...]) -> Program:
    """The program of an architecture. Raises UsageError where it cannot be traced, or lowered."""
    network = distinct(network)
    content = lowered(trace(network, inputs), type(network).__name__)
    return Program(content, *_found(content, {name: own for name, own in tensors(network).items() if own.numel()}))


def lowered(program: ExportedProgram, name: str) -> bytes:
    """The file of a traced network. Raises UsageError, with the network's name, where ExecuTorch doesn't take it."""
    try:
        with quiet(), _without_idle_patterns(program):
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            return bytes(edge.to_executorch().buffer)
    except Exception as error:
        raise UsageError(f"{name} cannot be written as ExecuTorch: {reason(error)}") from error


@contextmanager
def _without_idle_patterns(program: ExportedProgram) -> Iterator[None]:
    """Lowering looks for two subgraphs, having exported examples of them first, which takes a third of its time.

    Here it doesn't, where a network has nothing that either consists of.
    """
    from executorch.backends.xnnpack.partition.graphs import bilinear_2d, sdpa

    called = " ".join(str(node.target) for node in program.graph.nodes)
    with ExitStack() as patches:
        if not re.search("softmax|scaled_dot_product", called):
            patches.enter_context(patch.object(sdpa, "get_graphs", tuple))
        if not re.search("index|upsample", called):
            patches.enter_context(patch.object(bilinear_2d, "get_graphs_dict", dict))
        yield


def _found(content: bytes, held: dict[str, Tensor]) -> tuple[tuple[Place, ...], bool]:
    """Where the tensors lie, of which no two are alike, and whether no constant is left that could come from one."""
    by_digest = {
        sha256(_laid(tensor, axes)).hexdigest(): (name, axes)
        for name, tensor in held.items()
        for axes in _orders(tensor.shape)
    }
    keys: dict[str, list[int]] = {}
    for match in _KEY.finditer(content):
        keys.setdefault(match.group().decode(), []).append(match.start())
    numbers = any(tensor.is_floating_point() and tensor.numel() == 1 for tensor in held.values())
    places, start, complete = [], 0, True
    for constant in _constants(content):
        key = sha256(constant).hexdigest()
        if key in by_digest and (at := content.find(constant, start)) >= 0:
            places.append(Place(*by_digest[key], at, tuple(keys.get(key, []))))
            start = at
        else:
            complete &= len(constant) <= _NUMBER and not numbers
    return tuple(places), complete


def _constants(content: bytes) -> Iterator[bytes]:
    """In the order that they lie in."""
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

        file = deserialize_pte_binary(content)
    yield from (held for buffer in file.program.constant_buffer if (held := bytes(buffer.storage)))
    yield from map(bytes, file.named_data.buffers if file.named_data else [])


def _orders(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The orders of a tensor's dimensions that differ in their bytes, its own among them."""
    long = [axis for axis, size in enumerate(shape) if size > 1]
    short = [axis for axis, size in enumerate(shape) if size == 1]
    return [(*order, *short) for order in itertools.permutations(long)]


def _laid(tensor: Tensor, axes: tuple[int, ...]) -> bytes:
    return tensor.detach().permute(axes).contiguous().numpy().tobytes()
