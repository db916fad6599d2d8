"""One run at a time in a checkpoint's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.errors import DwindleError, UsageError

if TYPE_CHECKING:
    pass


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks a checkpoint's folder, which is made if it isn't there, against every other run.

    The system releases the lock when this process ends, even if it is killed. A folder that is still empty at the end
    is removed.

    Raises UsageError where another run holds it, or a file is there, and DwindleError where it cannot be written.
    """
    handle = _lock(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.rmdir()  # the system refuses unless it is empty
        os.close(handle)


def _lock(path: Path) -> int:
    import fcntl

    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except (FileExistsError, NotADirectoryError) as error:
            if path.exists():
                raise not_a_checkpoint(path) from error
            raise _unwritable(path, error) from error
        except FileNotFoundError:  # another run that came to nothing has just removed it
            if path.is_symlink():
                raise not_a_checkpoint(path) from None
            continue
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise UsageError(
                f"another run is at work in {path}: wait for its end, or choose another -o",
                code="locked",
                option="out",
                path=path,
            ) from error
        except OSError:  # not every network's file system has locks
            return handle
        with suppress(OSError):  # what was locked may have been removed between the two calls
            if os.path.samestat(path.stat(), os.fstat(handle)):
                return handle
        os.close(handle)


def _unwritable(path: Path, error: OSError) -> DwindleError:
    return DwindleError(
        f"cannot write {path}: {error.strerror}; choose another place", code="unwritable", option="out", path=path
    )


def not_a_checkpoint(path: Path) -> UsageError:
    return UsageError(
        f"{path} exists and is not a checkpoint: choose another -o", code="not-a-checkpoint", option="out", path=path
    )
