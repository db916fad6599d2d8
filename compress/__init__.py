"""Compress: train, prune and retrain with LR rewinding until a budget in shipped bytes holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if __name__ != "dwindle.compress":  # found from the repository's root, where this folder lies
    raise ImportError("this folder is the package `dwindle.compress`: write `import dwindle.compress`")

from dwindle.lazy import lazy_attributes

if TYPE_CHECKING:
    from dwindle.compress.compression import compress
    from dwindle.compress.forecast import Forecast, curve, plan
    from dwindle.compress.pruner import Pruner
    from dwindle.compress.request import Request
    from dwindle.compress.surgery.own import ChannelFlow, register_rule

__all__ = ["ChannelFlow", "Forecast", "Pruner", "Request", "compress", "curve", "plan", "register_rule"]
__getattr__ = lazy_attributes(
    __name__,
    {
        "ChannelFlow": "dwindle.compress.surgery.own",
        "Forecast": "dwindle.compress.forecast",
        "Pruner": "dwindle.compress.pruner",
        "Request": "dwindle.compress.request",
        "compress": "dwindle.compress.compression",
        "curve": "dwindle.compress.forecast",
        "plan": "dwindle.compress.forecast",
        "register_rule": "dwindle.compress.surgery.own",
    },
)
