"""Silencing libraries whose logs, warnings and progress bars are nothing that the user can act on."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def quiet() -> Iterator[None]:
    """Drops Python warnings, log records up to ERROR, and what Python code prints to `sys.stderr`.

    An error that matters arrives as an exception too.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def silent(*streams: int) -> Iterator[None]:
    """As `quiet`, and drops what native code writes to these file descriptors; without any, to the process's stderr."""
    sys.stdout.flush()
    sys.stderr.flush()
    originals = {stream: os.dup(stream) for stream in streams or (2,)}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in originals:
            os.dup2(null, stream)
        with quiet():
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, original in originals.items():
            os.dup2(original, stream)
            os.close(original)
        os.close(null)
