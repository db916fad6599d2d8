"""Verifies a checkpoint: every byte of it, of its rounds, exports and measurements is read and compared with its hash.

If all is whole, nothing was damaged since it was written. That says nothing about who wrote it: whoever changes a
checkpoint can seal it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.checkpoint import DOCUMENT, ROUND, ROUNDS, Checkpoint, read_document
from dwindle.documents import read
from dwindle.errors import CheckpointError, DwindleError
from dwindle.files import raw_bytes, walk
from dwindle.manifest import NAME, Manifest, altered
from dwindle.quantities import format_bytes
from dwindle.sealed import check_file, members, read_sealed_json, read_tensors

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Part:
    """A file (or an exported folder, such as an .mlpackage) and whether it is as it was written."""

    name: str
    """Its path in the checkpoint."""
    bytes: int
    damage: str | None
    """What is wrong with it, in a sentence; None where it is whole."""


@dataclass(frozen=True)
class Verified:
    """What `verify` found in a checkpoint."""

    path: Path
    parts: tuple[Part, ...]
    others: tuple[str, ...]
    """Files in the checkpoint's folder that dwindle keeps no hash of, such as a report."""

    @property
    def whole(self) -> bool:
        """Whether every part is whole."""
        return all(part.damage is None for part in self.parts)


def verify(path: Path | str) -> Verified:
    """Reads every byte that the checkpoint at `path` vouches for, and goes on where something is damaged.

    Tensors are read as tensors and masks fitted to their weights. Nothing is imported, evaluated or run.
    Raises CheckpointError where there is no checkpoint at all.
    """
    path = Path(path)
    if not (path / DOCUMENT).exists():
        read_document(path)  # says so
    parts = [*_sealed(path, DOCUMENT, path), *_network(path)]
    for document in sorted((path / ROUNDS).glob(f"*/{ROUND}")):
        parts += _sealed(document.parent, ROUND, path)
    for folder in sorted(folder for folder in (path / "exports").glob("*") if folder.is_dir()):
        if (folder / NAME).exists():
            parts += _export(folder, path)
    if (path / "bench.json").exists():
        parts.append(_part(path / "bench.json", path, lambda: _measured(path / "bench.json")))
    if (path / "amc/search.json").exists():
        parts += _sealed(path / "amc", "search.json", path)
    seen = [path / part.name for part in parts]
    others = [
        file.relative_to(path).as_posix()
        for file in walk(path)
        if not any(file == part or part in file.parents for part in seen)
    ]
    by_name: dict[str, Part] = {}
    for part in parts:
        if part.name not in by_name or part.damage:
            by_name[part.name] = part
    return Verified(path, tuple(by_name.values()), tuple(others))


def verify_table(found: Verified) -> Table:
    """A table with a row per part, and a row for each file without a hash."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("part", "bytes", "is"):
        table.add_column(title, justify="right" if title == "bytes" else "left")
    for part in found.parts:
        table.add_row(Text(part.name), format_bytes(part.bytes), Text(part.damage or "whole"))
    for name in found.others:
        table.add_row(Text(name), "", "not sealed: dwindle keeps no hash of it")
    return table


def _sealed(folder: Path, name: str, root: Path) -> Iterator[Part]:
    """A sealed document and every file that it vouches for."""

    def document() -> None:
        if folder == root:
            read_document(root)
        read_sealed_json(folder / name, "restore it from a copy")

    yield _part(folder / name, root, document)
    listed = members(folder, name)
    hashes = read(folder / name)["files"] if listed else {}
    for file in listed[:-1]:

        def content(file: str = file) -> None:
            check_file(folder, file, hashes[file])
            if file.endswith(".safetensors"):
                read_tensors(folder, file.removesuffix(".safetensors"))

        yield _part(folder / file, root, content)


def _network(path: Path) -> Iterator[Part]:
    """Checks what takes several files: that the masks fit the weights, and that nothing is missing."""
    try:
        opened = Checkpoint.load(path)
    except CheckpointError as error:
        if error.path is not None and error.code == "unsealed":  # other faults are named with their files
            yield Part(_name(error.path, path), _size(error.path), str(error))
        return
    if not opened.done:
        return
    for name in ("weights", "dense"):
        if not (path / f"{name}.safetensors").exists():
            yield Part(f"{name}.safetensors", 0, f"{path / name}.safetensors is missing")
    if (path / "masks.safetensors").exists() and (path / "weights.safetensors").exists():
        yield _part(path / "masks.safetensors", path, lambda: opened.masks)
    if opened.structure:
        yield _part(path / "structure.json", path, lambda: opened.structure)


def _export(folder: Path, root: Path) -> Iterator[Part]:
    try:
        manifest = Manifest.parsed(folder)
    except CheckpointError as error:
        yield Part(_name(folder / NAME, root), _size(folder / NAME), str(error))
        return
    copied = None if folder.name == manifest.target else f"it is a copy of an export for {manifest.target}"
    yield Part(_name(folder / NAME, root), _size(folder / NAME), copied)
    for file in manifest.files:
        yield Part(_name(folder / file.name, root), _size(folder / file.name), altered(folder, file))


def _measured(path: Path) -> None:
    from dwindle.bench.result import Bench

    Bench.load(path)


def _part(file: Path, root: Path, check: Callable[[], object]) -> Part:
    try:
        check()
    except DwindleError as error:
        return Part(_name(file, root), _size(file), str(error))
    except OSError as error:
        return Part(_name(file, root), _size(file), f"{file} can't be read: {error.strerror}")
    return Part(_name(file, root), _size(file), None)


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _size(file: Path) -> int:
    return raw_bytes(file) if file.exists() else 0
