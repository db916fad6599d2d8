"""Reading a JSON document that may be damaged or hostile into typed values, in one place.

`read` makes plain values of a file, `parse` makes a dataclass of those by its annotations. Neither runs anything that
the document names. Whatever is wrong raises a CheckpointError that carries the file (`path`) and the field (`name`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from dwindle.errors import CheckpointError

T = TypeVar("T")
REMEDY = "restore it from a copy or make it anew"
_DEEPEST = 64
"""Levels of nesting that a document may have; dwindle's own have fewer than ten."""
_NAME_BYTES = 255
"""The longest file name that Linux and macOS take."""


@dataclass(frozen=True)
class Range:
    """An annotation: the smallest and the largest value that a number may have, both inclusive.

    >>> parse(Annotated[int, Range(1)], 3, Path("a.json"))
    3
    """

    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True)
class PlainName:
    """An annotation of `str`: the name of something in the document's own folder, not a path that leads elsewhere."""


@dataclass(frozen=True)
class Reads:
    """An annotation of `str`: a text that this function reads. It raises ValueError, with what was wanted, for others.

    >>> parse(Annotated[str, Reads(Shape.parse)], "3>16 32x32 k3x3", Path("a.json"))
    '3>16 32x32 k3x3'
    """

    read: Callable[[str], object]


Share = Annotated[float, Range(0, 1)]
"""A part of a whole, from 0 to 1."""
Count = Annotated[int, Range(0, 2**63 - 1)]
"""A number of things, 0 or more."""
Size = Annotated[int, Range(1, 2**63 - 1)]
"""A number of bytes of something that isn't empty."""
FileName = Annotated[str, PlainName()]
"""The name of a file or folder beside the document."""


def read(path: Path, remedy: str = REMEDY) -> Any:
    """Reads a JSON file into dicts, lists and plain values.

    `remedy` ends the message. Raises CheckpointError with the code `unreadable` where the file is missing or may not
    be read, and `damaged` where it isn't JSON in UTF-8, or holds NaN, an infinity, a number too long to be read,
    text that no file can hold or more than 64 levels.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        _check_plain(value)
    except (OSError, ValueError, RecursionError) as error:
        unreadable = isinstance(error, OSError)
        what = f"is missing or can't be read ({error.strerror})" if isinstance(error, OSError) else "is damaged"
        detail = "" if unreadable else f": it is not JSON that dwindle writes ({_first_line(error)})"
        raise CheckpointError(
            f"{path} {what}{detail}; {remedy}", code="unreadable" if unreadable else "damaged", path=path
        ) from error
    return value


def parse(kind: type[T] | Any, value: Any, path: Path, remedy: str = REMEDY, within: str = "") -> Any:
    """Makes the annotated type `kind` of `value`, which `read` returned.

    `kind` is a dataclass of such types, a union, a tuple, a list, a mapping with names as keys, a Literal, bool, int,
    float, str, None, Any, or one of those with a Range, PlainName or Reads in an Annotated. JSON has one kind of
    number, so a float may be written as `1`. A dataclass must be given every field that has no default, and no others.
    `within` is put before the name of a field, and `remedy` ends the message.

    Raises CheckpointError with the code `field`, the document's `path`, and the field as `name`, for example
    `rows.0.latency.min`.

        >>> parse(dict[str, tuple[int, ...]], {"widths": [8, 16]}, Path("structure.json"))
        {'widths': (8, 16)}
    """
    try:
        return _parse(kind, value, within)
    except _Misfit as error:
        field = error.where or "the document"
        raise CheckpointError(
            f"{path} has a field that can't be used, {field}: {error.reason}; {remedy}",
            code="field",
            path=path,
            name=error.where,
        ) from error


class _Misfit(ValueError):
    """A value that isn't of its annotated type."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(reason)
        self.where, self.reason = where, reason


def _parse(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(inner[1:], _parse(inner[0], value, where), where)
    if origin in (UnionType, Union):
        return _first_that_fits(inner, value, where)
    if origin is Literal:
        if not any(value == one and type(value) is type(one) for one in inner):
            _refuse(value, where, " or ".join(map(repr, inner)))
        return value
    if origin in (tuple, list):
        return _sequence(origin, inner, value, where)
    if kind is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(value, dict):
            _refuse(value, where, "an object")
        of_key, of_value = inner or (str, Any)
        return {
            _parse(of_key, key, _below(where, key)): _parse(of_value, entry, _below(where, key))
            for key, entry in value.items()
        }
    return _plain(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        _refuse(value, where, "an object")
    known = _hints(kind)
    for name in value:
        if name not in known:
            raise _Misfit(_below(where, name), "this version of dwindle does not know it")
    for field in fields(kind):
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise _Misfit(_below(where, field.name), "it is missing")
    return kind(**{name: _parse(known[name], entry, _below(where, name)) for name, entry in value.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _first_that_fits(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not NoneType]
    for kind in others:
        try:
            return _parse(kind, value, where)
        except _Misfit:
            continue
    return _parse(last, value, where)


def _sequence(origin: Any, inner: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, list | tuple):
        _refuse(value, where, "a list")
    repeated = origin is list or inner[-1] is Ellipsis
    if not repeated and len(value) != len(inner):
        _refuse(value, where, f"a list of {len(inner)}")
    kinds = inner[:1] * len(value) if repeated else inner
    found = (_parse(kind, entry, _below(where, i)) for i, (kind, entry) in enumerate(zip(kinds, value, strict=True)))
    return origin(found)


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", NoneType: "null"}


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    kind = NoneType if kind is None else kind
    fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        _refuse(value, where, _WORDS.get(kind, f"a {kind.__name__}"))
    if kind is float:
        try:
            if not math.isfinite(value):
                _refuse(value, where, "a finite number")
        except OverflowError:  # a whole number of more than 308 digits
            _refuse(value, where, "a number below 1e308")
    return value


def _bounded(annotations: tuple[Any, ...], value: Any, where: str) -> Any:
    for rule in annotations:
        if isinstance(rule, Range) and not rule.least <= value <= rule.most:
            most = f" and at most {rule.most:g}" if math.isfinite(rule.most) else ""
            _refuse(value, where, f"a number of at least {rule.least:g}{most}")
        if isinstance(rule, PlainName) and not _is_plain_name(value):
            _refuse(value, where, "the name of a file in the same folder")
        if isinstance(rule, Reads):
            try:
                rule.read(value)
            except ValueError as error:
                _refuse(value, where, str(error))
    return value


def _is_plain_name(name: str) -> bool:
    return (
        name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"} and len(name.encode("utf-8")) <= _NAME_BYTES
    )


def _refuse(value: Any, where: str, wanted: str) -> NoReturn:
    shown = "an object" if isinstance(value, dict) and value else _short(value)
    raise _Misfit(where, f"it is {shown} instead of {wanted}")


def _short(value: Any) -> str:
    try:
        shown = repr(value)
    except ValueError:  # a whole number with more digits than Python prints
        return "a very long number"
    return shown if len(shown) <= 40 else f"{shown[:40]}…"


def _below(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _check_plain(value: Any, level: int = 0) -> None:
    """Raises ValueError for values that JSON's grammar allows and no document of dwindle's holds."""
    if level > _DEEPEST:
        raise ValueError(f"it has more than {_DEEPEST} levels")
    if isinstance(value, float) and not math.isfinite(value):  # 1e999 is read as an infinity
        raise ValueError("a number is too large")
    if isinstance(value, str):
        value.encode("utf-8")  # half of a surrogate pair is no text, and no file or terminal takes it
    if isinstance(value, list):
        for entry in value:
            _check_plain(entry, level + 1)
    if isinstance(value, dict):
        for key, entry in value.items():
            key.encode("utf-8")
            _check_plain(entry, level + 1)


def _first_line(error: BaseException) -> str:
    said = str(error).splitlines() or [type(error).__name__]
    return said[0][:80]
