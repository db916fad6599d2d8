"""Every byte of a file is counted once, whatever ranges are claimed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.bench.files.contents import CONSTANT, GRAPH, MASK, VALUES
from dwindle.bench.files.ledger import Ledger

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.sampled_from("abc")), max_size=8)


def ledger_of(content: bytes) -> Ledger:
    with TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(content)
        return Ledger(path)


@given(st.integers(0, 60), RANGES)
def test_parts_add_up_to_the_file(size: int, ranges: list[tuple[int, int, str]]) -> None:
    ledger = ledger_of(bytes(size))
    for start, length, name in ranges:
        if start + length <= size:
            ledger.claim(start, length, CONSTANT, name)
    assert sum(part.bytes for part in ledger.parts("rest")) == size


@given(RANGES)
def test_of_nested_ranges_the_innermost_has_the_byte(ranges: list[tuple[int, int, str]]) -> None:
    """Against a painting, byte by byte, of ranges of which no two overlap in part."""
    ledger, painted = ledger_of(bytes(60)), ["rest"] * 60
    kept: dict[tuple[int, int], str] = {}
    for start, length, name in ranges:
        end = min(start + length, 60)
        apart_or_nested = all(
            end <= begin or stop <= start or (begin <= start and end <= stop) or (start <= begin and stop <= end)
            for begin, stop in kept
        )
        if length and end > start and (start, end) not in kept and apart_or_nested:
            kept[start, end] = name
            ledger.claim(start, end - start, CONSTANT, name)
    for (start, end), name in sorted(kept.items(), key=lambda item: item[0][0] - item[0][1]):
        painted[start:end] = [name] * (end - start)
    found: Counter[str] = Counter()
    for part in ledger.parts("rest"):
        found[part.name] += part.bytes
    assert found == Counter(painted)


def test_zeros_are_counted_in_weights_alone() -> None:
    numbers = np.array([0.0, -0.0, 1.5, 0.0], np.float16).tobytes()
    ledger = ledger_of(numbers * 2 + b"rest")
    ledger.claim(0, 8, VALUES, "weight", "float16")
    ledger.claim(8, 8, CONSTANT, "bias", "float16")
    weight, bias, rest = ledger.parts("names")
    assert (weight.kind, weight.name, weight.bytes, weight.numbers, weight.zeros) == (VALUES, "weight", 8, 4, 3)
    assert (bias.kind, bias.zeros, bias.packable) == (CONSTANT, 0, 0)
    assert (rest.kind, rest.name, rest.bytes) == (GRAPH, "names", 4)
    assert weight.packable == 3 * 2 - 1  # a byte of mask in place of three numbers


@pytest.mark.parametrize(("start", "size"), [(-1, 2), (3, 2), (0, 5), (2, -1)])
def test_a_range_beyond_the_file_is_refused(start: int, size: int) -> None:
    with pytest.raises(ValueError, match="reach beyond"):
        ledger_of(bytes(4)).claim(start, size, MASK)
