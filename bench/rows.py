"""Rows before anything is measured: what the manifests say of each exported file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dwindle.bench.result import COMPRESSED, DENSE, Artifact, Row, RuntimeUsed
from dwindle.manifest import Manifest


def blank_rows(root: Path, exported: list[tuple[Path, Manifest]]) -> list[tuple[Row, Row]]:
    """Each target's dense and compressed file as its manifest has it, nothing measured; `root` is the checkpoint."""
    fp32_onnx = (m.dense.bytes for _, m in exported if (m.target, _precision(m, DENSE)) == ("onnx", "fp32"))
    reference = next(fp32_onnx, None)

    def blank(folder: Path, manifest: Manifest, role: str) -> Row:
        file = manifest.dense if role == DENSE else manifest.file
        return Row(
            target=manifest.target,
            role=role,
            precision=_precision(manifest, role),
            encoding=manifest.encoding if role == COMPRESSED else DENSE,
            artifact=Artifact(
                path=(folder / file.name).relative_to(root).as_posix(),
                sha256=file.sha256,
                format=manifest.target,
                bytes=file.bytes,
                deflated_bytes=file.deflated_bytes,
                fetched=manifest.fetched if role == COMPRESSED else None,
            ),
            runtime=RuntimeUsed(None, None, 1),
            compression=reference / file.bytes if reference else None,
            reasons={} if reference else {"compression": "the dense network is not exported as fp32 ONNX"},
        )

    return [(blank(*export, DENSE), blank(*export, COMPRESSED)) for export in exported]


def _precision(manifest: Manifest, role: str) -> str:
    return (role == DENSE and manifest.dense_precision) or manifest.precision


FIGURES = ("latency", "compare", "accuracy", "agreement", "memory_bytes", "noise")
"""The figures that running a file gives, by their names in `Row.reasons`."""


def untried(row: Row, reason: str) -> Row:
    """The row with one reason why nobody tried to run the file in this runtime."""
    return replace(failed(row, reason), untried=FIGURES)


def failed(row: Row, reason: str) -> Row:
    """The row with one reason for every figure that a successful run of the file would have given."""
    return replace(row, reasons={**row.reasons, **dict.fromkeys(FIGURES, reason)})
