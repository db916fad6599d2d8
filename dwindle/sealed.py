"""A JSON document beside the tensors it vouches for: nothing pickled, every byte hashed.

The document carries the SHA-256 of each tensor file and of itself, and is written last, so that a
folder is either sealed whole or not at all, and a flipped bit anywhere is named before it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.errors import CheckpointError
from dwindle.files import sha256, staged, write_json

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]

_REMEDY = "restore it from a copy or make it anew"


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
    body = {**document, "files": hashes}
    write_json(folder / name, {**body, "sha256": _digest(body)})


def unseal(folder: Path, name: str) -> dict[str, Any]:
    """Reads `folder/name` and checks its own hash and that of every file it vouches for.

    Raises CheckpointError naming the file that is missing, truncated or altered.
    """
    path = folder / name
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        recorded = document.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is missing or truncated: {_REMEDY}") from error
    if recorded != _digest(document):
        raise CheckpointError(f"{path} is corrupt, its SHA-256 has changed: {_REMEDY}")
    if not isinstance(document.get("files"), dict):
        raise CheckpointError(f"{path} lacks `files`, the hashes of what it vouches for: {_REMEDY}")
    for file, expected in document["files"].items():
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder / file} is missing: {_REMEDY}")
        if sha256(folder / file) != expected:
            raise CheckpointError(f"{folder / file} is corrupt, its SHA-256 has changed: {_REMEDY}")
    return document


def read_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """The tensors of `folder/stem.safetensors`, on the CPU; empty where there is no such file."""
    from safetensors.torch import load_file

    file = folder / f"{stem}.safetensors"
    return load_file(file) if file.exists() else {}


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()
