"""Importing a library without the optional packages that it would import too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Makes `import` of these packages raise ImportError within the block, unless they were imported before it.

    Some libraries import others only where those are installed, which can take seconds:

        with hidden("executorch", "sklearn"):
            import coremltools
    """
    absent = [name for name in packages if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it then raises ImportError
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
