"""Standard streams that may be closed, full, or read by somebody who stops reading."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from dwindle.errors import DwindleError

if TYPE_CHECKING:
    from typing_extensions import Buffer

STDERR = 2


class _Lasting(io.FileIO):
    """The standard error's file. Once it can't be written, what is said there is lost, and nothing else."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError:  # a pipe without a reader, a full disk
            _discard(self.fileno())
            return memoryview(data).nbytes


def protect() -> None:
    """Makes sure that a command's work doesn't end because of who listens to it: to be called before it begins.

    What can't be written to stderr is lost without an error. Standard streams that were closed from the start lead
    nowhere, so that no file which is opened later takes their place and gets what others print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(_buffered(), encoding="utf-8", errors="backslashreplace", line_buffering=True)
    elif isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        encoding = sys.stderr.encoding
        sys.stderr = io.TextIOWrapper(_buffered(), encoding=encoding, errors="backslashreplace", line_buffering=True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: help has signs that a Latin-1 terminal hasn't


def print_document(text: str) -> None:
    """Prints a document to stdout, for another program to read.

    Whoever reads it may stop early, which is no failure. Raises DwindleError where it can't be written: stdout is
    closed, or its disk is full.
    """
    if sys.stdout is None:
        raise DwindleError("cannot write to standard output: it is closed", code="unwritable")
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has read enough
        _discard(sys.stdout.fileno())
    except OSError as error:
        _discard(sys.stdout.fileno())
        raise DwindleError(f"cannot write to standard output: {error.strerror}", code="unwritable") from error


def _buffered() -> io.BufferedWriter:
    return io.BufferedWriter(_Lasting(STDERR, "w", closefd=False))


def _discard(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
