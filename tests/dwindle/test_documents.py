"""Documents become typed values in one place, and whatever isn't of its type is named."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwindle.documents import Count, FileName, Range, Share, Size, parse, read
from dwindle.errors import CheckpointError

HERE = Path("doc.json")


@dataclass(frozen=True)
class Inner:
    share: Share
    name: str | None = None


@dataclass(frozen=True)
class Outer:
    inner: Inner
    inners: tuple[Inner, ...]
    pair: tuple[int, str]
    table: dict[str, float]
    how: Literal["a", "b"]
    either: int | tuple[int, ...]
    count: Count = 0
    extra: dict[str, Any] = field(default_factory=dict)


GOOD: dict[str, Any] = {
    "inner": {"share": 1, "name": None},
    "inners": [{"share": 0.5, "name": "x"}],
    "pair": [1, "a"],
    "table": {"a": 1.5},
    "how": "a",
    "either": [1, 2],
}


def test_a_document_comes_back_as_it_was_written() -> None:
    found: Outer = parse(Outer, GOOD, HERE)
    assert found.inner == Inner(1)
    assert found.pair == (1, "a")
    assert found.either == (1, 2)
    assert parse(Outer, json.loads(json.dumps(asdict(found))), HERE) == found


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"inner": None}, "inner"),
        ({"inner": {}}, "inner.share"),
        ({"inner": {"share": 1.5}}, "inner.share"),
        ({"inner": {"share": True}}, "inner.share"),
        ({"inner": {"share": 10**400}}, "inner.share"),
        ({"inner": {"share": 1, "watts": 1}}, "inner.watts"),
        ({"inners": [{"share": 1}, {"share": "x"}]}, "inners.1.share"),
        ({"inners": {}}, "inners"),
        ({"pair": [1]}, "pair"),
        ({"pair": [1, 2]}, "pair.1"),
        ({"table": {"a": "1"}}, "table.a"),
        ({"table": []}, "table"),
        ({"how": "c"}, "how"),
        ({"how": True}, "how"),
        ({"either": "x"}, "either"),
        ({"count": -1}, "count"),
        ({"count": 1.0}, "count"),
        ({"count": 2**63}, "count"),
        ({"other": 1}, "other"),
    ],
)
def test_a_field_of_another_type_is_named(change: dict[str, Any], name: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        parse(Outer, {**GOOD, **change}, HERE, within="")
    assert (refused.value.code, refused.value.name, refused.value.path) == ("field", name, HERE)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0", "a" * 256, "ä" * 128])
def test_a_file_name_leads_nowhere_else(name: str) -> None:
    with pytest.raises(CheckpointError):
        parse(FileName, name, HERE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(CheckpointError):
        parse(float, value, HERE)


def test_bounds_are_inclusive() -> None:
    assert parse(Annotated[int, Range(1, 2)], 1, HERE) == 1
    assert parse(Annotated[int, Range(1, 2)], 2, HERE) == 2
    with pytest.raises(CheckpointError):
        parse(Size, 0, HERE)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff", b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b'{"a": 1e999}', b'"\\ud800"',
        b'{"\\ud800": 1}', b"[" * 70 + b"]" * 70, b"[" * 100_000, b"1" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_json_of_ours_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "doc.json").write_bytes(content)
    with pytest.raises(CheckpointError) as refused:
        read(tmp_path / "doc.json")
    assert (refused.value.code, refused.value.path) == ("damaged", tmp_path / "doc.json")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json", tmp_path / ("a" * 300)):
        with pytest.raises(CheckpointError) as refused:
            read(path)
        assert (refused.value.code, refused.value.path) == ("unreadable", path)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(st.sampled_from(["share", "a"]), PLAIN, max_size=2)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*GOOD, "count", "extra"], VALUES)))
def test_whatever_is_in_a_document_it_is_parsed_or_refused(changes: dict[str, Any]) -> None:
    with suppress(CheckpointError):
        assert isinstance(parse(Outer, {**GOOD, **changes}, HERE), Outer)
