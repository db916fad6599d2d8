"""The numbers people type and read: `500KB`, `20%`, `1.2 MB`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from decimal import Decimal
from itertools import islice

from dwindle.errors import UsageError

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> int:
    """`500KB` → 500_000, `1MiB` → 1_048_576, `4096` → 4096.

    Raises UsageError for anything that is not a positive size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = match[2].upper() if match else ""
    if not match or unit not in _BYTES or (size := round(float(match[1]) * _BYTES[unit])) < 1:
        raise UsageError(f"{text!r} is not a size: write for example 500KB, 1.5MB or 256KiB", code="invalid-value")
    return size


def parse_share(text: str, *, zero: bool = False) -> float:
    """`20%` → 0.2, `0.2` → 0.2; raises UsageError outside (0, 1], or outside [0, 1] where `zero` is a share too."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(%?)\s*", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not (0 < share <= 1 or (zero and share == 0)):
        raise UsageError(f"{text!r} is not a share: write for example 20% or 0.2", code="invalid-value")
    return share


def format_share(share: float) -> str:
    """0.2 → `20%`, so that `parse_share` gives exactly the same number again."""
    percent = f"{_decimal(round(share * 100, 10))}%"
    return percent if 0 <= share <= 1 and parse_share(percent, zero=True) == share else _decimal(share)


def parse_macs(text: str) -> float:
    """`50%` or `0.5` → 0.5, a share of the dense network's; `150M` → 150e6 multiply-accumulates.

    Raises UsageError for anything else.
    """
    if text.strip().endswith("%"):
        return parse_share(text)
    macs = parse_count(text) or 0.0
    if macs <= 0:
        raise UsageError(f"{text!r} is not a number of MACs: write for example 50% or 150M", code="invalid-value")
    return macs


def format_macs(macs: float) -> str:
    """0.5 → `50%`, 150e6 → `150000000`, so that `parse_macs` gives exactly the same number again."""
    return format_share(macs) if macs <= 1 else _decimal(macs)


def parse_milliseconds(text: str) -> float:
    """`8ms` or `8` → 8.0; raises UsageError for anything that isn't a number of milliseconds above 0."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(?:ms)?\s*", text)
    if not match or not float(match[1]):
        raise UsageError(f"{text!r} is not a time: write for example 8ms", code="invalid-value")
    return float(match[1])


def format_milliseconds(milliseconds: float) -> str:
    """8.0 → `8ms`, so that `parse_milliseconds` gives exactly the same number again."""
    return f"{_decimal(milliseconds)}ms"


def _decimal(number: float) -> str:
    """Formats a number without an exponent, and without a fraction if it is whole."""
    text = f"{Decimal(repr(float(number))):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_count(text: str) -> float | None:
    """`150M` → 150e6, `4096` → 4096.0; None for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)\s*", text, re.IGNORECASE)
    return float(match[1]) * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}[match[2].upper()] if match else None


def within(value: float, limit: float) -> bool:
    """Whether a value is at most its limit, up to the rounding error of a subtraction: 97.3 - 96.3 is not 1.0."""
    return value <= limit + 1e-9


def format_ms(milliseconds: float) -> str:
    """Three significant digits: `181 µs`, `4.53 ms`, `1.20 s`."""
    if milliseconds < 0.9995:
        scaled, unit = milliseconds * 1000, "µs"
    elif milliseconds < 999.5:
        scaled, unit = milliseconds, "ms"
    else:
        scaled, unit = milliseconds / 1000, "s"
    digits = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
    return f"{scaled:.{digits}f} {unit}"


def format_bytes(size: float) -> str:
    """Three significant digits, decimal units: 13962898 → `14.0 MB`."""
    units = iter(("B", "KB", "MB", "GB"))
    unit = next(units)
    while size >= 999.5 and unit != "GB":
        size, unit = size / 1000, next(units)
    digits = 0 if unit == "B" or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:.{digits}f} {unit}"


def format_seconds(seconds: float) -> str:
    """Formats a time: `47 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_left(spent: float, done: int, total: int) -> str:
    """Formats the seconds that are left at the pace so far: `; about 3 min 05 s left`. Empty where nothing is done."""
    return f"; about {format_seconds(spent / done * (total - done))} left" if done else ""


def format_names(names: Collection[str], most: int = 4) -> str:
    """Joins the first few names, in their order: `conv1, conv2 and 7 more`."""
    listed = ", ".join(islice(names, most))
    return f"{listed} and {len(names) - most} more" if len(names) > most else listed
