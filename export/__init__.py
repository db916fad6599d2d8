"""The second stage: files that phone runtimes load, their sparsity packed, each proven equal to the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwindle.checkpoint import Checkpoint
    from dwindle.manifest import Manifest


def export(
    checkpoint: Checkpoint | Path | str,
    targets: Sequence[str],
    *,
    precision: str | None = None,
    max_drop: float | None = None,
    min_os: str | None = None,
    calib_samples: int | None = None,
    packing: str = "auto",
    image_input: bool = False,
    classes: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Manifest]:
    """Writes `exports/TARGET/` in a finished checkpoint for each target: see `dwindle.export.stage.export`."""
    from dwindle.export import stage

    return stage.export(
        checkpoint,
        targets,
        precision=precision,
        max_drop=max_drop,
        min_os=min_os,
        calib_samples=calib_samples,
        packing=packing,
        image_input=image_input,
        classes=classes,
        progress=progress,
    )


__all__ = ["export"]
