"""Messages between bench and its workers: a length, a JSON header of that length, raw array bytes.

    uint32 little-endian | header, UTF-8 JSON | array 0 | array 1 | …

The header's `arrays` gives dtype and shape of each array that follows, C order.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

_LENGTH = struct.Struct("<I")


def send(stream: IO[bytes], header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Writes one message and flushes it."""
    layout = [[array.dtype.str, list(array.shape)] for array in arrays]
    text = json.dumps({**header, "arrays": layout}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    for array in arrays:
        stream.write(array.tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Reads one message; raises EOFError if the stream ends before or within it."""
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    header = json.loads(_exactly(stream, length))
    arrays = []
    for code, shape in header.pop("arrays"):
        dtype = np.dtype(code)
        block = _exactly(stream, math.prod(shape) * dtype.itemsize)
        arrays.append(np.frombuffer(block, dtype).reshape(shape).copy())  # frombuffer's is read-only
    return header, arrays


def _exactly(stream: IO[bytes], count: int) -> bytes:
    block = stream.read(count)
    if len(block) < count:
        raise EOFError
    return block
