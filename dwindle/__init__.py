"""dwindle: shrink a trained network to a budget, ship it packed, prove and measure what ships."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING

# onnxruntime 1.32 reports usage, model names among it, unless told not to before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from dwindle.lazy import lazy_attributes

if TYPE_CHECKING:
    from dwindle.checkpoint import Checkpoint
    from dwindle.errors import (
        BudgetMissed,
        CheckpointError,
        DwindleError,
        ParityFailed,
        RuntimeUnavailable,
        UsageError,
    )
    from dwindle.manifest import Manifest
    from dwindle.record import Round
    from dwindle.task import Task

__version__ = version("dwindle")
__all__ = [
    "BudgetMissed",
    "Checkpoint",
    "CheckpointError",
    "DwindleError",
    "Manifest",
    "ParityFailed",
    "Round",
    "RuntimeUnavailable",
    "Task",
    "UsageError",
    "__version__",
]
_ERRORS = ("BudgetMissed", "CheckpointError", "DwindleError", "ParityFailed", "RuntimeUnavailable", "UsageError")
__getattr__ = lazy_attributes(
    __name__,
    {
        **dict.fromkeys(_ERRORS, "dwindle.errors"),
        "Checkpoint": "dwindle.checkpoint",
        "Manifest": "dwindle.manifest",
        "Round": "dwindle.record",
        "Task": "dwindle.task",
    },
)
