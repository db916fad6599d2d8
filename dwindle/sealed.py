"""A JSON document beside the tensors it vouches for: nothing pickled, every byte hashed.

The document carries the SHA-256 of each tensor file and of itself, and is written last, so that a
folder is either sealed whole or not at all, and a flipped bit anywhere is named before it is used.
A seal shows that the bytes are those that were written. It says nothing about who wrote them: whoever changes a
document can seal it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.documents import REMEDY, FileName, parse, read
from dwindle.errors import CheckpointError
from dwindle.files import sha256, staged, write_json

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]


def seal(
    folder: Path,
    name: str,
    document: dict[str, Any],
    tensors: Mapping[str, Tensors],
    documents: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    """Writes `tensors[stem]` to `folder/stem.safetensors` for each stem, each of the other `documents` under its
    own name, then `folder/name`.

    Raises DwindleError where the folder cannot be written.
    """
    from safetensors.torch import save

    hashes = {}
    for stem, named in tensors.items():
        file = folder / f"{stem}.safetensors"
        with staged(file) as scratch:
            # Tied weights share storage, which the format refuses: each name gets its own copy.
            own = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in named.items()}
            scratch.write_bytes(save(own))
        hashes[file.name] = sha256(file)
    for other, content in (documents or {}).items():
        write_json(folder / other, content)
        hashes[other] = sha256(folder / other)
    write_json(folder / name, sealed_json({**document, "files": hashes}))


def unseal(folder: Path, name: str) -> dict[str, Any]:
    """Reads `folder/name` and checks its own hash and that of every file it vouches for.

    Raises CheckpointError naming the file that is missing, truncated or altered.
    """
    document = read_sealed_json(folder / name, REMEDY)
    for file in _vouched_for(folder / name, document):
        check_file(folder, file, document["files"][file])
    return document


def check_file(folder: Path, file: str, expected: str) -> None:
    """Raises CheckpointError where `folder/file` is missing or has another SHA-256 than `expected`."""
    path = folder / file
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: {REMEDY}", code="missing", path=path)
    if sha256(path) != expected:
        raise CheckpointError(f"{path} is corrupt, its SHA-256 has changed: {REMEDY}", code="altered", path=path)


def members(folder: Path, name: str) -> tuple[str, ...]:
    """The names in `folder` that `seal` wrote, the document last; none where the document can't be read."""
    try:
        return (*_vouched_for(folder / name, read_sealed_json(folder / name, REMEDY)), name)
    except CheckpointError:
        return ()


def sealed_json(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its own SHA-256 added, as `read_sealed_json` asks for it."""
    return {**document, "sha256": _digest(document)}


def read_sealed_json(path: Path, remedy: str) -> dict[str, Any]:
    """A document that `sealed_json` sealed, without its seal. `remedy` ends the message, such as "run `dwindle export`
    again".

    Raises CheckpointError where the file is missing, isn't JSON, has no seal or was altered since it was sealed.
    """
    document = read(path, remedy)
    if not isinstance(document, dict) or not isinstance(document.get("sha256"), str):
        raise CheckpointError(
            f"{path} has no seal (`sha256`), so an older version of dwindle or something else wrote it: {remedy}",
            code="unsealed",
            path=path,
        )
    recorded = document.pop("sha256")
    if recorded != _digest(document):
        raise CheckpointError(
            f"{path} is corrupt, its SHA-256 has changed since it was written: {remedy}", code="altered", path=path
        )
    return document


def read_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """The tensors of `folder/stem.safetensors`, on the CPU; empty where there is no such file.

    Raises CheckpointError where the file is damaged or can't be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / f"{stem}.safetensors"
    try:
        return load_file(file) if file.exists() else {}
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise damaged_tensors(file, error) from error


def damaged_tensors(file: Path, error: Exception) -> CheckpointError:
    """What is raised where a safetensors file can't be read."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"{file} can't be read as safetensors ({said}): {REMEDY}", code="damaged", path=file)


def _vouched_for(path: Path, document: Mapping[str, Any]) -> list[str]:
    if "files" not in document:
        raise CheckpointError(
            f"{path} lacks `files`, the hashes of what it vouches for: {REMEDY}", code="field", path=path, name="files"
        )
    hashes = parse(dict[FileName, str], document["files"], path, within="files")
    return [name for name in hashes if name != path.name]


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()
