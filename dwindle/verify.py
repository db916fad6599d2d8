"""Verifies a checkpoint, or a model file: every byte is read and compared with its hash, without a network.

If all is whole, nothing was damaged since it was written. That says nothing about who wrote it, as whoever changes a
checkpoint can seal it again, but where an attestation is signed and the signer's public key is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.attest import place
from dwindle.bench.files.contents import is_model_file
from dwindle.checkpoint import CHOICES, DOCUMENT, Checkpoint, read_document
from dwindle.documents import read
from dwindle.errors import CheckpointError, DwindleError
from dwindle.files import walk
from dwindle.manifest import NAME, Manifest, altered
from dwindle.quantities import format_bytes
from dwindle.saved_rounds import ROUND, ROUNDS
from dwindle.sealed import check_file, members, read_sealed_json, read_tensors
from dwindle.verify_file import Part, Verified, attestation_parts, size, verify_file, worst

if TYPE_CHECKING:
    from rich.table import Table


def verify(
    path: Path | str, *, attested_by: Path | str | None = None, public_key: Path | str | None = None
) -> Verified:
    """Reads every byte that the checkpoint at `path` vouches for, and goes on where something is damaged.

    Tensors are read as tensors and masks fitted to their weights. Of a model file, its attestation and the manifest
    beside it say what its bytes have to be. Nothing is imported, evaluated or run, and no network is used.

    attested_by: the attestation of a model file; by default FILE.intoto.json beside it, or in its checkpoint.
    public_key: the key in PEM with which attestations have to be signed.

    Raises CheckpointError where there is no checkpoint at all, and UsageError where there is no such file, or a key
    can't be used.
    """
    path, key = Path(path), Path(public_key) if public_key is not None else None
    if not (path / DOCUMENT).exists() and (is_model_file(path) or path.is_file()):
        return verify_file(path, Path(attested_by) if attested_by is not None else None, key)
    if not (path / DOCUMENT).exists():
        read_document(path)  # says so
    parts = [*_sealed(path, DOCUMENT, path), *_network(path)]
    for document in sorted((path / ROUNDS).glob(f"*/{ROUND}")):
        parts += _sealed(document.parent, ROUND, path)
    notes: list[str] = []
    for folder in sorted(folder for folder in (path / "exports").glob("*") if folder.is_dir()):
        if (folder / NAME).exists():
            exported, unchecked = _export(folder, path, key)
            parts += exported
            notes += unchecked
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
    return Verified(path, worst(parts), tuple(others), tuple(notes))


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
            yield Part(_name(error.path, path), size(error.path), str(error))
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
    if (path / CHOICES).exists():
        yield _part(path / CHOICES, path, lambda: opened.choices)


def _export(folder: Path, root: Path, key: Path | None) -> tuple[list[Part], list[str]]:
    """The parts of an export and of its attestation, if it has one, and what of them was not checked."""
    try:
        manifest = Manifest.parsed(folder)
    except CheckpointError as error:
        return [Part(_name(folder / NAME, root), size(folder / NAME), str(error))], []
    copied = None if folder.name == manifest.target else f"it is a copy of an export for {manifest.target}"
    parts = [Part(_name(folder / NAME, root), size(folder / NAME), copied)]
    for file in manifest.files:
        parts.append(Part(_name(folder / file.name, root), size(folder / file.name), altered(folder, file)))
    model = folder / manifest.file.name
    if (attested := place(model)) is None:
        lacking = Part(_name(model, root), size(model), "it has no attestation: `dwindle attest` makes one")
        return [*parts, *([lacking] if key else [])], []
    checked, notes = attestation_parts(model, attested, key, root)
    return [*parts, *checked], notes


def _measured(path: Path) -> None:
    from dwindle.bench.result import Bench

    Bench.load(path)


def _part(file: Path, root: Path, check: Callable[[], object]) -> Part:
    try:
        check()
    except DwindleError as error:
        return Part(_name(file, root), size(file), str(error))
    except OSError as error:
        return Part(_name(file, root), size(file), f"{file} can't be read: {error.strerror}")
    return Part(_name(file, root), size(file), None)


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()
