"""Writes what others need to trust a model file: a bill of materials, and a signed statement of how it came about."""

from __future__ import annotations

from pathlib import Path

from dwindle import attestation, bom
from dwindle.checkpoint import DOCUMENT, require_not_sealed
from dwindle.files import staged
from dwindle.lineage import Lineage, lineages

FOLDER = "attestations"
"""Where in a checkpoint the attestations of its exports lie, in a folder per target."""


def attest(
    path: Path | str, out: Path | str | None = None, *, key: Path | str | None = None, spdx_license: str | None = None
) -> list[Path]:
    """Writes FILE.intoto.json and FILE.cdx.json for a model file, or for each export of a checkpoint; their paths.

        >>> attest("net.dwindle", key="key.pem", spdx_license="Apache-2.0")[0].name
        'net.onnx.intoto.json'

    Args:
        path: a model file of any origin, or a checkpoint. Of a file of a checkpoint's `exports/`, and of a checkpoint,
            the lineage is told: dense weights, rounds, parity, what was measured.
        out: the folder to write to, of a checkpoint with a folder per target in it. Default: beside a file; of a
            checkpoint its `attestations/`.
        key: a private key in PEM without a password, with which the statement is signed: Ed25519, ECDSA or RSA. None:
            it isn't signed.
        spdx_license: the model's licence as an SPDX expression; nothing says which it is otherwise.

    Raises UsageError for what isn't there or has no exports, for a key that can't be used and a licence that is none;
    CheckpointError for damaged documents and files.
    """
    written: list[Path] = []
    for lineage in lineages(Path(path)):
        folder = _folder(lineage, Path(path), out)
        name = lineage.path.name
        hashes = attestation.digests(lineage.path, lineage.contents.beside if lineage.contents else ())
        bill = bom.document(lineage, hashes, spdx_license)
        paths = [folder / f"{name}{suffix}" for suffix in (attestation.SUFFIX, bom.SUFFIX)]
        for one in paths:
            require_not_sealed(one)
        folder.mkdir(parents=True, exist_ok=True)
        signing = Path(key) if key is not None else None
        attestation.write(paths[0], name, hashes, lineage.predicate(spdx_license), signing)
        with staged(paths[1]) as scratch:
            scratch.write_text(bill, encoding="utf-8")
        written += paths
    return written


def place(path: Path) -> Path | None:
    """Where the attestation of a model file is: beside it, or in its checkpoint's `attestations/`; None without one."""
    name = f"{path.name}{attestation.SUFFIX}"
    within = path.parent.parent.parent / FOLDER / path.parent.name / name
    return next((found for found in (path.parent / name, within) if found.is_file()), None)


def _folder(lineage: Lineage, path: Path, out: Path | str | None) -> Path:
    """Where the documents about a file go."""
    target = lineage.manifest.target if lineage.manifest else ""
    if (path / DOCUMENT).exists():
        return (Path(out) if out is not None else path / FOLDER) / target
    if out is not None:
        return Path(out)
    return lineage.checkpoint.path / FOLDER / target if lineage.checkpoint else path.parent
