"""Compress: train, prune and retrain with LR rewinding until a budget in shipped bytes holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dwindle.compress.stage import compress

__all__ = ["compress"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: the command line's watcher needs this package without it.
    if name != "compress":
        raise AttributeError(name)
    from dwindle.compress.stage import compress

    return compress
