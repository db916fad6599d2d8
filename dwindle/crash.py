"""The last handler of the command line: an unexpected exception becomes one sentence and a file with its traceback."""

from __future__ import annotations

import os
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

DEBUG = "DWINDLE_DEBUG"
"""If this environment variable is `1`, the traceback is printed too."""


def sentence(error: BaseException) -> str:
    """One sentence about an exception that is no DwindleError, for standard error.

    An error of the operating system (a path, a permission, memory) is reported as it is. Anything else is a fault of
    dwindle or of a package that it calls: the traceback is written to a file in the temporary folder, which the
    sentence names. With `DWINDLE_DEBUG=1` the traceback is printed before the sentence.
    """
    trace = "".join(traceback.format_exception(error))
    shown = trace if os.environ.get(DEBUG) == "1" else ""
    if isinstance(error, OSError) and error.strerror:
        place = f"{_printable(error.filename)}: " if error.filename is not None else ""
        return f"{shown}{place}{error.strerror}"
    if isinstance(error, MemoryError):
        return f"{shown}there is not enough memory for this: close other programs, or use a machine with more"
    if isinstance(error, UnicodeError) and "surrogates not allowed" in str(error):
        return f"{shown}a file's name is not UTF-8, and can't be written into a document: rename it"
    said = (str(error).strip().splitlines() or [""])[0][:200]
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if shown:
        return f"{shown}dwindle failed unexpectedly ({what})"
    with suppress(OSError):
        handle, name = tempfile.mkstemp(prefix="dwindle-failed-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(trace)
        return f"dwindle failed unexpectedly ({what}): the details for a bug report are in {Path(name)}"
    return f"dwindle failed unexpectedly ({what}): set {DEBUG}=1 to see the details for a bug report"


def _printable(name: object) -> str:
    return (
        os.fsdecode(name).encode("utf-8", "backslashreplace").decode() if isinstance(name, str | bytes) else str(name)
    )
