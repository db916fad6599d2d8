"""Writes that happen whole or not at all, and hashes of what was written."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import tomllib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from dwindle.errors import DwindleError, UsageError

_SCRATCH = ".dwindle-"
"""What the name of a scratch folder begins with; eight random characters follow."""
_FOR, _NEW, _OLD = "for", "new", "old"
"""What a scratch folder holds: a file with the name of what is being written, a folder in which it is built, and the
folder that it replaces, while that is out of the way."""


class _Unwritable(DwindleError):
    """A path cannot be written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason}", code="unwritable", path=path)
        self.unwritable, self.reason = path, reason


def everything(name: str) -> bool:
    """The `ours` of `staged` for a folder that dwindle wrote all of, whatever the name."""
    return True


@contextmanager
def staged(path: Path, ours: Callable[[str], bool] = everything) -> Iterator[Path]:
    """Yields a scratch path beside `path`; what is built there (a file or a folder) takes `path`'s place
    when the block ends well, and is removed when it doesn't.

    A folder that replaces a folder keeps those of its entries whose name is not `ours`. The two are exchanged in one
    step where the file system can do that; elsewhere an interruption between the two steps is repaired, at the latest
    by `sweep`.

    Raises DwindleError where the folder cannot be written; for a link, since what it leads to would be replaced; for a
    device or a pipe, such as /dev/stdout, whose place would be taken by a file; and where a file of the user's has
    the name of one that was built.
    """
    with _scratch(path) as scratch:
        try:
            built = scratch / _NEW / path.name
            built.parent.mkdir()
            yield built
            if path.is_dir() and built.is_dir():
                _carry_over(path, built, ours)
                _sync(built)
                _exchange(path, built, scratch / _OLD)
                _carry_over(built if built.exists() else scratch / _OLD, path, ours)  # what came meanwhile
            else:
                _sync(built)
                built.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise _Unwritable(path, error.strerror or str(error)) from error
        except _Unwritable as error:
            if not error.unwritable.is_relative_to(scratch):
                raise
            raise _Unwritable(path, error.reason) from error  # nobody has heard of the scratch path


def require_writable(path: Path) -> None:
    """Raises DwindleError where `staged` would: call it before long work whose result could not be saved."""
    with _scratch(path):
        pass


def refuse_link(path: Path) -> None:
    """Raises UsageError where `path` is a symbolic link, since what it leads to would be overwritten or removed."""
    if path.is_symlink():
        raise UsageError(
            f"{path} is a link, and what it leads to would be replaced: give that path itself, or remove the link",
            code="link",
            path=path,
        )


def sweep(folder: Path, name: str | None = None) -> None:
    """Removes what killed writes (of `name`, or of anything) left in `folder`, and nothing of a write in progress."""
    import fcntl

    for scratch in folder.glob(f"{_SCRATCH}????????"):
        with suppress(OSError):  # no folder, another user's, or at work
            lock = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not (scratch / _FOR).exists():
                    scratch.rmdir()  # killed as it was made; anything inside is somebody else's, and stays
                elif name in (None, target := (scratch / _FOR).read_text(encoding="utf-8")):
                    _discard(scratch, folder / Path(target).name)
            finally:
                os.close(lock)


def remove(folder: Path, names: tuple[str, ...]) -> None:
    """Removes the entries `names` of a folder in this order, and the folder if nothing else is in it.

    A folder that is a link, or isn't there, stays as it is.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    with suppress(OSError):
        for name in names:
            entry = folder / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Makes a scratch folder beside `path` for the block, and removes it afterwards."""
    try:
        refuse_link(path)
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise _Unwritable(path, "it is neither a file nor a folder; choose another place")
        path.name.encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name)
        scratch, lock = _locked(path)
    except OSError as error:
        raise _Unwritable(path, f"{error.strerror}; choose another place") from error
    except ValueError as error:  # half of a surrogate pair, or a NUL
        raise _Unwritable(Path(repr(str(path))), "its name is not UTF-8; choose another") from error
    try:
        yield scratch
    finally:
        with suppress(OSError):
            _discard(scratch, path)
        os.close(lock)


def _locked(path: Path) -> tuple[Path, int]:
    """Makes a scratch folder and locks it; the system releases the lock when this process ends, even if killed."""
    import fcntl

    while True:
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=path.parent))
        with suppress(FileNotFoundError):  # swept by another process, before it was locked
            lock = os.open(scratch, os.O_RDONLY)
            with suppress(OSError):  # not every network's file system has locks: nothing is swept there either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if scratch.exists():
                try:
                    (scratch / _FOR).write_text(path.name, encoding="utf-8")
                except BaseException:
                    shutil.rmtree(scratch, ignore_errors=True)
                    os.close(lock)
                    raise
                return scratch, lock
            os.close(lock)


def _discard(scratch: Path, path: Path) -> None:
    """Removes a scratch folder, after finishing a replacement of the folder `path` that was interrupted midway."""
    old, new = scratch / _OLD, scratch / _NEW / path.name
    if old.is_dir() and not path.exists():
        (new if new.is_dir() else old).replace(path)  # the new one is whole by then
    if (scratch / _NEW).exists():
        shutil.rmtree(scratch / _NEW, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):
        (scratch / _FOR).unlink()  # last: without it nobody knows whose the folder is
        scratch.rmdir()


def _carry_over(old: Path, new: Path, ours: Callable[[str], bool]) -> None:
    """Gives `new` those entries of the folder `old` that aren't ours, as second names of the same files."""
    for entry in old.iterdir():
        if ours(entry.name):
            continue
        copy = new / entry.name
        if copy.exists() or copy.is_symlink():
            if _same(entry, copy):
                continue
            raise _Unwritable(new, f"{entry.name} is there already, and dwindle did not write it; move it away")
        if entry.is_symlink():
            copy.symlink_to(entry.readlink())
        elif entry.is_dir():
            shutil.copytree(entry, copy, symlinks=True, copy_function=_link_or_copy)
        else:
            _link_or_copy(str(entry), str(copy))


def _same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink()
    return one.is_dir() == other.is_dir() and (one.is_dir() or one.samefile(other) or sha256(one) == sha256(other))


def _link_or_copy(source: str, copy: str) -> None:
    try:
        os.link(source, copy, follow_symlinks=False)
    except OSError:  # not every file system has hard links
        shutil.copy2(source, copy, follow_symlinks=False)


def _exchange(path: Path, built: Path, aside: Path) -> None:
    """Puts the folder `built` in the place of the folder `path`, which afterwards is `built` or `aside`."""
    if _exchanged(path, built):
        return
    try:
        path.rename(aside)
        built.replace(path)
    except BaseException:
        if aside.is_dir() and not path.exists():
            aside.replace(path)
        raise


_RENAME_EXCHANGE = 2
"""linux/fs.h; the same number is RENAME_SWAP in macOS's sys/stdio.h."""
_AT_FDCWD = -100


def _exchanged(one: Path, other: Path) -> bool:
    """Exchanges two paths in one step; False where this system or file system can't."""
    if (call := _system_exchange()) is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    if (number := ctypes.get_errno()) in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(one))


@cache
def _system_exchange() -> Callable[[bytes, bytes], int] | None:
    try:
        system = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return lambda one, other: int(system.renamex_np(one, other, _RENAME_EXCHANGE))
        renameat2 = system.renameat2
    except (OSError, AttributeError):  # an older C library
        return None
    return lambda one, other: int(renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE))


def _sync(path: Path) -> None:
    """Waits until the files at or below `path`, and the folders' lists of them, are on the disk."""
    for file in walk(path):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if path.is_dir():
        for folder in (path, *(entry for entry in path.rglob("*") if entry.is_dir() and not entry.is_symlink())):
            _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system takes it for folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes `document` atomically, in a form that diffs well."""
    with staged(path) as scratch:
        scratch.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file that a user wrote; raises UsageError where it can't be read as TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", code="unreadable", path=path) from error
    except (ValueError, RecursionError) as error:  # of TOML and of UTF-8; nested beyond Python's depth
        raise UsageError(f"{path} is not TOML: {error}", code="not-toml", path=path) from error


def user_cache() -> Path:
    """The folder for results that are kept between runs and can be computed again: `$XDG_CACHE_HOME/dwindle`.

    Raises DwindleError where neither that variable nor a home folder is known.
    """
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "dwindle"
    try:
        return Path.home() / ".cache" / "dwindle"
    except RuntimeError as error:
        raise DwindleError(
            "there is no home folder to keep downloads and measurements in: set HOME or XDG_CACHE_HOME", code="no-home"
        ) from error


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
    """Download size: the bytes of a file or folder in an app's zip, each file deflated at level 9."""
    return sum(len(zlib.compress(file.read_bytes(), 9)) for file in walk(path))
