"""How a model file came about, from what the checkpoint and the manifest around it hold: weights → rounds → file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dwindle
from dwindle.bench.files.contents import Contents, contents, is_model_file
from dwindle.bench.result import COMPRESSED, Bench, Row
from dwindle.checkpoint import DENSE, DOCUMENT, Checkpoint, read_document
from dwindle.errors import UsageError
from dwindle.files import raw_bytes, sha256
from dwindle.manifest import NAME, Manifest, manifests

_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Lineage:
    """A model file and all that is known of how it came about."""

    path: Path
    contents: Contents | None
    """What is in it; None for a kind of file that isn't read."""
    manifest: Manifest | None = None
    """What export knows of it; None for a file that no export wrote."""
    checkpoint: Checkpoint | None = None
    """What it was exported from."""
    rows: tuple[Row, ...] = ()
    """What bench measured of it."""

    @property
    def bytes(self) -> int:
        """Installed size, with what lies beside the file."""
        return self.contents.bytes if self.contents else raw_bytes(self.path)

    @property
    def hashes(self) -> Mapping[str, str]:
        """The SHA-256 of each file of the checkpoint; empty without one."""
        return read_document(self.checkpoint.path).files if self.checkpoint else {}

    @property
    def data(self) -> dict[str, str]:
        """The name of the data and its fingerprint, as far as the checkpoint records them."""
        task = self.checkpoint.origin.get("task") if self.checkpoint else None
        if not isinstance(task, dict):
            return {"name": str(task)} if task else {}
        found = {"name": task.get("data") or task.get("task"), "fingerprint": task.get("fingerprint")}
        return {name: str(value) for name, value in found.items() if value}

    @property
    def model(self) -> str | None:
        """The network's name, such as `zoo:resnet8`."""
        model = self.checkpoint.origin.get("model") if self.checkpoint else None
        spec = model.get("spec") if isinstance(model, dict) else model
        return str(spec) if spec else None

    @property
    def versions(self) -> dict[str, str]:
        """What it was made with, by package."""
        made = dict(self.checkpoint.versions) if self.checkpoint else {}
        made |= self.manifest.versions if self.manifest else {}
        return {**made, "dwindle": made.get("dwindle", dwindle.__version__)}

    def predicate(self, licence: str | None) -> dict[str, Any]:
        """The same as a JSON document. Members of what isn't known are left out."""
        document: dict[str, Any] = {"bytes": self.bytes, "versions": self.versions}
        if licence:
            document["licence"] = licence
        if self.contents:
            document["file"] = {
                "format": self.contents.format,
                "weights": dict(self.contents.weights),
                "inputs": [str(one) for one in self.contents.inputs],
                "outputs": [str(one) for one in self.contents.outputs],
            }
        if self.manifest:
            document["export"] = {
                **{name: getattr(self.manifest, name) for name in ("target", "precision", "encoding")},
                "parity": asdict(self.manifest.parity),
                "manifest": sha256(self.path.parent / NAME),
            }
        if self.checkpoint:
            document |= {
                "model": self.model,
                "data": self.data,
                "weights": {
                    "given": self.checkpoint.origin.get("weights"),
                    "dense": self.hashes.get(DENSE),
                    "compressed": self.hashes.get(_WEIGHTS),
                    "checkpoint": sha256(self.checkpoint.path / DOCUMENT),
                },
                "rounds": [asdict(one) for one in self.checkpoint.history],
                "metric": self.checkpoint.metric,
                "metrics": self.checkpoint.metrics,
            }
        if self.rows:
            document["measured"] = [
                {"runtime": row.runtime.place, "version": row.runtime.version, "accuracy": asdict(row.accuracy)}
                for row in self.rows
                if row.accuracy
            ]
        return document


def lineages(path: Path) -> list[Lineage]:
    """The lineage of a model file, or of each export of a checkpoint.

    Raises UsageError where there is no such file or checkpoint, or nothing is exported; CheckpointError where the
    checkpoint, the manifest or a file of them is damaged.
    """
    if path.is_dir() and (path / DOCUMENT).exists():
        opened = Checkpoint.load(path).require_done()
        found = [_exported(opened, folder, manifest) for folder, manifest in manifests(opened.exports)]
        if not found:
            raise UsageError(f"{path} has no exports: run `dwindle export` first", code="no-exports", path=path)
        return found
    if not path.exists():
        raise UsageError(f"there is no {path}", code="missing", path=path)
    folder = path.parent
    if (folder / NAME).exists() and (folder.parent.parent / DOCUMENT).exists():
        manifest = Manifest.read(folder)
        if manifest.file.name == path.name:
            return [_exported(Checkpoint.load(folder.parent.parent), folder, manifest)]
    return [Lineage(path, contents(path))]


def _exported(opened: Checkpoint, folder: Path, manifest: Manifest) -> Lineage:
    path = folder / manifest.file.name
    measured = Bench.load(opened.bench_path) if opened.bench_path.exists() else None
    rows = measured.find(manifest.target, COMPRESSED) if measured and measured.describes(manifest) else ()
    return Lineage(path, contents(path) if is_model_file(path) else None, manifest, opened, tuple(rows))
