"""What made a checkpoint, as a list to be shown or compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flattened(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """A nested document as dotted names and values."""
    flat: list[tuple[str, Any]] = []
    for key, value in document.items():
        flat += flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return flat
