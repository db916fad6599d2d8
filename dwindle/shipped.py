"""What lies in a checkpoint's `exports/`: its files, what they weigh, and whether they are still what was exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.errors import CheckpointError
from dwindle.manifest import NAME, Consumer, Manifest, altered
from dwindle.quantities import format_bytes

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Shipped:
    """One export of a checkpoint, and whether its files are still what was exported."""

    path: Path
    precision: str
    encoding: str
    bytes: int
    """Installed bytes of the compressed file when it was exported."""
    download: int
    """Bytes to download: the file deflated, or compressed as a whole where that is smaller."""
    download_name: str | None
    """The name of the file compressed as a whole, where that is what is downloaded; else None."""
    dense_bytes: int
    """Installed bytes of the dense file beside it."""
    unproven: str | None
    """Why its outputs were never compared with the network's, where they weren't."""
    doubts: tuple[str, ...]
    """Sentences on why the comparison of its outputs proves less than it seems to."""
    compute: str | None
    """What it was asked to compute in; None: the target's own choice."""
    fp32: tuple[str, ...]
    """The operations and layers that compute in fp32 in a file that computes in less."""
    consumers: tuple[Consumer, ...]
    """The programs that load it, and those that don't."""
    zeros: tuple[str, ...]
    """What its pruning brings there, in sentences."""
    altered: tuple[str, ...]
    """A sentence for each file of this export that is no longer what was exported."""


def shipped(exports: Path) -> tuple[list[Shipped], list[str]]:
    """Every export by target name, and a sentence for each that can't be read."""
    found, damaged = [], []
    for path in sorted(exports.glob(f"*/{NAME}")):
        try:
            manifest = Manifest.parsed(path.parent)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        download, name = manifest.fetched
        found.append(
            Shipped(
                path=path.parent / manifest.file.name,
                precision=manifest.precision,
                encoding=manifest.encoding,
                bytes=manifest.file.bytes,
                download=download,
                download_name=name,
                dense_bytes=manifest.dense.bytes,
                unproven=manifest.parity.not_run,
                doubts=manifest.parity.doubts,
                compute=manifest.compute,
                fp32=manifest.fp32,
                consumers=manifest.consumers,
                zeros=manifest.zeros,
                altered=tuple(filter(None, (altered(path.parent, file) for file in manifest.files))),
            )
        )
    return found, damaged


def shipped_table(found: Sequence[Shipped]) -> Table:
    """A table with a row per export, and how many times smaller it is than the dense file beside it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("export", "weights", "installed", "download", "smaller"):
        table.add_column(
            title, justify="left" if title in ("export", "weights") else "right", no_wrap=title == "export"
        )
    for export in found:
        download = format_bytes(export.download) + (f" as {export.download_name}" if export.download_name else "")
        smaller = f"{export.dense_bytes / export.bytes:.1f}×"
        name = f"{export.path.parent.name}/{export.path.name}"
        table.add_row(Text(name), Text(export.encoding), format_bytes(export.bytes), Text(download), smaller)
    return table
