"""What an export is doing at the moment, kept in a file that outlives a crash of native code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_record: ContextVar[Path | None] = ContextVar("file of the last step", default=None)


@contextmanager
def recorded(path: Path) -> Iterator[None]:
    """Within the block, `path` holds what `begin` was last called with. Elsewhere `begin` does nothing."""
    token = _record.set(path)
    try:
        yield
    finally:
        _record.reset(token)


def begin(step: str) -> None:
    """Says that what may crash begins. step: what is done, as it follows `while`: `running net.pte`."""
    if (path := _record.get()) is not None:
        path.write_text(step, encoding="utf-8")
