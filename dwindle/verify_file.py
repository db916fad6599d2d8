"""Verifies a model file: whether its bytes are those that were attested and exported, and who signed that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dwindle import attestation
from dwindle.attest import place
from dwindle.errors import CheckpointError, DwindleError, UsageError
from dwindle.files import raw_bytes
from dwindle.manifest import NAME, Manifest, altered


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
    """What `verify` found in a checkpoint, or of a model file."""

    path: Path
    parts: tuple[Part, ...]
    others: tuple[str, ...]
    """Files in the checkpoint's folder that dwindle keeps no hash of, such as a report."""
    notes: tuple[str, ...] = ()
    """What was not checked, in sentences."""

    @property
    def whole(self) -> bool:
        """Whether every part is whole."""
        return all(part.damage is None for part in self.parts)


def verify_file(path: Path, attested: Path | None, key: Path | None) -> Verified:
    """What vouches for a model file: its attestation, and the manifest beside it.

    attested: the attestation; None for the one where `dwindle attest` writes it. key: the public key with which it has
    to be signed. Raises UsageError where there is no such file, or the key can't be used.
    """
    if not path.exists():
        raise UsageError(f"there is no {path}", code="missing", path=path)
    attested = attested or place(path)
    parts: list[Part] = []
    notes: list[str] = []
    if attested is not None:
        parts, notes = attestation_parts(path, attested, key, path.parent)
    elif key is not None:
        parts.append(Part(path.name, size(path), "it has no attestation: `dwindle attest` makes one"))
    parts += _manifest_parts(path)
    if not parts:
        parts.append(Part(path.name, size(path), "nothing vouches for it: there is no attestation and no manifest"))
    return Verified(path, worst(parts), (), tuple(notes))


def attestation_parts(path: Path, attested: Path, key: Path | None, root: Path) -> tuple[list[Part], list[str]]:
    """Whether the model at `path` is what was attested, and by whom; and what was not checked, in sentences."""
    try:
        found = attestation.read_attestation(attested)
    except DwindleError as error:
        return [Part(_title(attested, root), size(attested), str(error))], []
    parts = [Part(_title(path, root), size(path), attestation.altered(found, path))]
    for name, sentence in attestation.beside(found, path).items():
        parts.append(Part(_title(path.parent / name, root), size(path.parent / name), sentence))
    parts.append(Part(_title(attested, root), size(attested), attestation.unsigned(found, key) if key else None))
    if key:
        return parts, []
    unchecked = "is signed, and the signature was not checked: give --public-key" if found.signers else "is not signed"
    return parts, [f"{attested} {unchecked}"]


def worst(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Each part once, with its damage if any was found."""
    by_name: dict[str, Part] = {}
    for part in parts:
        if part.name not in by_name or part.damage:
            by_name[part.name] = part
    return tuple(by_name.values())


def size(file: Path) -> int:
    return raw_bytes(file) if file.exists() else 0


def _manifest_parts(path: Path) -> list[Part]:
    """What the manifest beside a file says of it; nothing where there is none that lists the file."""
    folder = path.parent
    if not (folder / NAME).exists():
        return []
    try:
        listed = {file.name: file for file in Manifest.parsed(folder).files}
    except CheckpointError as error:
        return [Part(NAME, size(folder / NAME), str(error))]
    if path.name not in listed:
        return []
    return [Part(path.name, size(path), altered(folder, listed[path.name])), Part(NAME, size(folder / NAME), None)]


def _title(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
