"""What the exported files weigh, how well and how fast they run; the report and the gate."""

from dwindle.bench.gate import Verdict, gate
from dwindle.bench.page import report
from dwindle.bench.result import Bench
from dwindle.bench.stage import bench

__all__ = ["Bench", "Verdict", "bench", "gate", "report"]
