"""Compress: train, prune and retrain with LR rewinding until a budget in shipped bytes holds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dwindle.compress.forecast import plan
    from dwindle.compress.request import Request
    from dwindle.compress.stage import compress

__all__ = ["Request", "compress", "plan"]
_HOMES = {"Request": "request", "compress": "stage", "plan": "forecast"}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: the command line's watcher needs this package without it.
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"dwindle.compress.{_HOMES[name]}"), name)
