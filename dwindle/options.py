"""Options, each declared once as a dataclass field.

    @dataclass(frozen=True)
    class ExportOptions:
        precision: str | None = option(None, help="What the file stores weights in, such as int8.", unset="fp32")

From such fields follow the flags of the command line and their help (`add_options`), the values that were given
(`given`), and the words that give them again (`words`): `given(parse(words(values))) == values`. What a checkpoint
records of a request follows from them too (`Option.recorded`). Nothing heavy is imported here, so that `--help` is
quick; a module that declares options must import nothing heavy either.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from typing import Any

from dwindle.errors import UsageError
from dwindle.quantities import (
    format_macs,
    format_milliseconds,
    format_share,
    parse_bytes,
    parse_macs,
    parse_milliseconds,
    parse_share,
)

_KEY = "option"


@dataclass(frozen=True)
class Kind:
    """How the text of an option becomes its value, and a value text: `read(write(value)) == value`."""

    read: Callable[[str], Any]
    """Makes the value of a text; raises UsageError or ValueError for text that is no value of this kind."""
    write: Callable[[Any], str] = str
    metavar: str | None = None
    holds: type | tuple[type, ...] = str
    """What a value is once it is read, and so what a checkpoint records: a float may be recorded as an integer."""


_NUMBERS = (int, float)
TEXT = Kind(str)
INTEGER = Kind(int, metavar="N", holds=int)
NUMBER = Kind(float, lambda value: repr(value).removesuffix(".0"), "X", _NUMBERS)
SIZE = Kind(parse_bytes, metavar="SIZE", holds=int)
SHARE = Kind(parse_share, format_share, "SHARE", _NUMBERS)
SHARE_OR_ZERO = Kind(partial(parse_share, zero=True), format_share, "SHARE", _NUMBERS)
MACS = Kind(parse_macs, format_macs, "MACS", _NUMBERS)
MILLISECONDS = Kind(parse_milliseconds, format_milliseconds, "TIME", _NUMBERS)
NAMES = Kind(lambda text: tuple(dict.fromkeys(filter(None, text.split(",")))), ",".join, "A,B", tuple)
"""Names with commas between them; the value is a tuple. The flag may be given several times."""
SWITCH = Kind(bool, holds=bool)
"""A switch, which has no text: `--name` turns it on and `--no-name` off."""
PATTERNS = Kind(str, metavar="PATTERN")
"""One or more texts; the value is a tuple."""


@dataclass(frozen=True)
class Option:
    """What is known of one option."""

    name: str
    """The name of the dataclass field, which is the option's name in Python."""
    default: Any
    """The default value; None where the option is required, or where the default depends on other options."""
    help: str
    """A sentence that can be understood alone. It names other options as their fields, in backticks."""
    kind: Kind
    flag: str
    """The flag, such as `--prune-per-round`; the name itself where it is positional."""
    metavar: str | None
    group: str | None
    """The title of the group that help lists it in."""
    unset: str | None
    """What holds where it isn't given, in words for its help; None: its default, as it would be written."""
    recorded: bool
    """Whether a checkpoint records it, so that a resumed run must have the same value."""
    bare: str | float | None
    """The value of a flag that is given without one; None where that is an error."""
    positional: bool

    @property
    def described(self) -> str:
        """The help sentence and the default."""
        if self.positional:
            return self.help
        if self.unset is not None:
            return f"{self.help} Default: {self.unset}."
        if self.kind is SWITCH:
            return f"{self.help} Default: {'on' if self.default else 'off'}."
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        return f"{self.help} Default: {' '.join(map(self.kind.write, values)) or 'none'}."


def option(
    default: Any = MISSING,
    *,
    help: str,  # noqa: A002  # as argparse calls it
    kind: Kind = TEXT,
    flag: str | None = None,
    metavar: str | None = None,
    group: str | None = None,
    unset: str | None = None,
    recorded: bool = True,
    bare: str | float | None = None,
    positional: bool = False,
) -> Any:
    """Declares a dataclass field that is an option; the arguments are the members of `Option`.

    flag: the flag without its dashes, where it isn't the field's name.
    """
    metadata = {
        "help": help,
        "kind": kind,
        "flag": flag,
        "metavar": metavar or kind.metavar,
        "group": group,
        "unset": unset,
        "recorded": recorded,
        "bare": bare,
        "positional": positional,
    }
    return field(default=default, metadata={_KEY: metadata})


def options(declared: type) -> Iterator[Option]:
    """The options of a dataclass, in the order of its fields; fields that `option` did not make are left out."""
    for each in fields(declared):
        if _KEY in each.metadata:
            yield _option(each)


def _option(each: Field[Any]) -> Option:
    known = dict(each.metadata[_KEY])
    name = (known.pop("flag") or each.name).replace("_", "-")
    flag = each.name if known["positional"] else f"--{name}"
    return Option(each.name, None if each.default is MISSING else each.default, flag=flag, **known)


def flags(*declared: type) -> dict[str, str]:
    """The flags of the options of some dataclasses, by their fields' names."""
    return {each.name: each.flag for kind in declared for each in options(kind) if not each.positional}


def add_options(to: argparse.ArgumentParser, *declared: type) -> None:
    """Adds a flag for every option of some dataclasses; what isn't given is None after parsing."""
    listed = [each for kind in declared for each in options(kind)]
    named = flags(*declared)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for each in listed:
        where: argparse._ActionsContainer = to
        if each.group:
            where = groups[each.group] = groups.get(each.group) or to.add_argument_group(each.group)
        how: dict[str, Any] = {"help": as_flags(each.described, named).replace("%", "%%")}
        if each.positional:
            where.add_argument(each.name, metavar=each.metavar, type=_reader(each.kind), **how)
            continue
        if each.kind is SWITCH:
            how["action"] = argparse.BooleanOptionalAction
        else:
            how |= {"metavar": each.metavar, "type": _reader(each.kind)}
        if each.kind is PATTERNS:
            how["nargs"] = "+"
        if each.kind is NAMES:
            how["action"] = "extend"
        if each.bare is not None:
            how |= {"nargs": "?", "const": each.bare}
        where.add_argument(each.flag, dest=each.name, default=None, **how)


def given(arguments: argparse.Namespace, declared: type) -> dict[str, Any]:
    """The options of a dataclass that were given on the command line, by their fields' names."""
    values = {each.name: getattr(arguments, each.name) for each in options(declared)}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if value is not None
    }


def changed(instance: Any) -> dict[str, Any]:
    """The options of a dataclass that aren't at their defaults, by their fields' names."""
    values = {each.name: (getattr(instance, each.name), each.default) for each in options(type(instance))}
    return {name: value for name, (value, default) in values.items() if value != default}


def words(values: Mapping[str, Any], declared: type) -> list[list[str]]:
    """What to write on the command line to give these options of a dataclass: a flag and its values per entry.

    Positional options come first, without a flag. Values that are None are left out.
    """
    listed = sorted(options(declared), key=lambda each: not each.positional)
    return [_words(each, values[each.name]) for each in listed if values.get(each.name) is not None]


def _words(each: Option, value: Any) -> list[str]:
    if each.kind is SWITCH:
        return [each.flag if value else each.flag.replace("--", "--no-", 1)]
    if each.bare is not None and value == each.bare:
        return [each.flag]
    texts = [each.kind.write(one) for one in value] if each.kind is PATTERNS else [_text(each, value)]
    if each.positional:
        return texts
    if len(texts) == 1 and texts[0].startswith("-"):  # it would be taken for a flag
        return [f"{each.flag}={texts[0]}"]
    return [each.flag, *texts]


def _text(each: Option, value: Any) -> str:
    """A value as text. Where a quantity may be given as text too, such as "500KB", it is written as it is."""
    return value if isinstance(value, str) else each.kind.write(value)


def as_flags(sentence: str, flags: Mapping[str, str]) -> str:
    """Replaces options that a sentence names as fields in backticks by their flags: `` `size` `` as `--size`."""
    return re.sub(r"`(\w+)`", lambda found: flags.get(found[1], found[0]), sentence)


def _reader(kind: Kind) -> Callable[[str], Any]:
    """The kind's `read`, in a form of which argparse prints the message of a UsageError."""

    def read(text: str) -> Any:
        try:
            return kind.read(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    read.__name__ = getattr(kind.read, "__name__", "value")  # argparse says "invalid int value"
    return read
