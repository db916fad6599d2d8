"""Bench: what the exported files weigh, how well and how fast they run; the report and the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if __name__ != "dwindle.bench":  # found from the repository's root, where this folder lies
    raise ImportError("this folder is the package `dwindle.bench`: write `import dwindle.bench`")

from dwindle.lazy import lazy_attributes

if TYPE_CHECKING:
    from dwindle.bench.benchmark import bench
    from dwindle.bench.comparison import Diff, diff
    from dwindle.bench.gating import gate
    from dwindle.bench.prices.making import profile_device
    from dwindle.bench.prices.profile import Profile
    from dwindle.bench.result import Bench
    from dwindle.bench.verdict import Verdict
    from dwindle.bench.views.frontier import frontier_report
    from dwindle.bench.views.notebook import frame, plot
    from dwindle.bench.views.page import report

__all__ = [
    "Bench",
    "Diff",
    "Profile",
    "Verdict",
    "bench",
    "diff",
    "frame",
    "frontier_report",
    "gate",
    "plot",
    "profile_device",
    "report",
]
__getattr__ = lazy_attributes(
    __name__,
    {
        "Bench": "dwindle.bench.result",
        "Diff": "dwindle.bench.comparison",
        "Profile": "dwindle.bench.prices.profile",
        "Verdict": "dwindle.bench.verdict",
        "bench": "dwindle.bench.benchmark",
        "diff": "dwindle.bench.comparison",
        "frame": "dwindle.bench.views.notebook",
        "frontier_report": "dwindle.bench.views.frontier",
        "gate": "dwindle.bench.gating",
        "plot": "dwindle.bench.views.notebook",
        "profile_device": "dwindle.bench.prices.making",
        "report": "dwindle.bench.views.page",
    },
)
