"""Writes that either happen whole or not at all, and the hashes that tell them apart later."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dwindle.errors import DwindleError, UsageError

_REPLACED = "replaced"
"""What a folder is called while another takes its place."""


class _Unwritable(DwindleError):
    """What was to be written, and why it can't be."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason}", code="unwritable", path=path)
        self.unwritable, self.reason = path, reason


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yields a scratch path beside `path`; what is built there (a file or a folder) takes `path`'s place
    when the block ends well, and is removed when it doesn't. A link stays: what it leads to is replaced.

    Raises DwindleError where the folder cannot be written, and for a device or a pipe, such as /dev/stdout: whatever
    took its place would be a file.
    """
    if path.is_symlink():
        path = path.resolve()
    with _scratch(path) as scratch:
        try:
            built = scratch / path.name
            yield built
            _sync(built)
            if path.is_dir() and built.is_dir():  # rename cannot replace a folder that is not empty
                path.rename(scratch / _REPLACED)
            built.replace(path)
        except OSError as error:
            raise _Unwritable(path, error.strerror or str(error)) from error
        except _Unwritable as error:
            if not error.unwritable.is_relative_to(scratch):
                raise
            raise _Unwritable(path, error.reason) from error  # nobody has heard of the scratch path


def require_writable(path: Path) -> None:
    """Raises DwindleError where `staged` would: to ask before work whose result has nowhere else to go."""
    with _scratch(path):
        pass


def sweep(folder: Path, name: str | None = None) -> None:
    """Removes what writes that were killed left in `folder`, of `name` or of anything; never that of one at work."""
    import fcntl

    for scratch in folder.glob(f".{glob.escape(name) if name else '*'}.????????"):
        with suppress(OSError):  # no folder, another user's, or at work
            lock = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path = folder / scratch.name[1:-9]
                if not {entry.name for entry in scratch.iterdir()} <= {path.name, _REPLACED}:
                    continue  # somebody else's, by whatever chance
                if (scratch / _REPLACED).exists() and not path.exists():
                    (scratch / path.name).replace(path)  # it was killed midway through the last step
                shutil.rmtree(scratch, ignore_errors=True)
            finally:
                os.close(lock)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder beside `path` that is gone in the end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise _Unwritable(path, "it is neither a file nor a folder; choose another place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name)
        scratch, lock = _locked(path)
    except OSError as error:
        raise _Unwritable(path, f"{error.strerror}; choose another place") from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)


def _locked(path: Path) -> tuple[Path, int]:
    """A new scratch folder, and the lock on it, which the system lets go of when this process ends, however it does."""
    import fcntl

    while True:
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        with suppress(FileNotFoundError):  # swept by another process, before it was locked
            lock = os.open(scratch, os.O_RDONLY)
            with suppress(OSError):  # not every network's file system has locks: nothing is swept there either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if scratch.exists():
                return scratch, lock
            os.close(lock)


def _sync(path: Path) -> None:
    for file in walk(path):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes `document` atomically, in a form that diffs well."""
    with staged(path) as scratch:
        scratch.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file that a user wrote; raises UsageError where it can't be read as that."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # of TOML and of UTF-8
        raise UsageError(f"{path} is not TOML: {error}") from error


def user_cache() -> Path:
    """Where what can be had again at some cost is kept between runs: `$XDG_CACHE_HOME/dwindle`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dwindle"


def walk(path: Path) -> list[Path]:
    """The files at or below `path`, in a stable order."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def sha256(path: Path) -> str:
    """Content hash of a file, or of a folder (such as an .mlpackage): names and bytes, in order."""
    digest = hashlib.sha256()
    for file in walk(path):
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def raw_bytes(path: Path) -> int:
    """Installed size: the bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in walk(path))


def deflated_bytes(path: Path) -> int:
    """Download size: what the app's zip makes of it, each file deflated at level 9."""
    return sum(len(zlib.compress(file.read_bytes(), 9)) for file in walk(path))
