"""What the exported files weigh, how well and how fast they run; the report and the gate."""

from dwindle.bench.diff import Diff, diff
from dwindle.bench.gate import Verdict, gate
from dwindle.bench.result import Bench
from dwindle.bench.stage import bench
from dwindle.bench.views.frontier import frontier_report
from dwindle.bench.views.page import report

__all__ = ["Bench", "Diff", "Verdict", "bench", "diff", "frontier_report", "gate", "report"]
