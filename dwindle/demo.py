"""`dwindle demo`: compress, export, bench, gate and report on real data that needs no download, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.bench import bench, gate, report
from dwindle.bench.views.summary import bench_summary
from dwindle.bench.views.table import gate_table
from dwindle.compress import Request, compress
from dwindle.compress.progress import drawing
from dwindle.export import export
from dwindle.origin import goal

if TYPE_CHECKING:
    from rich.console import Console

SIZE = 25_000
"""The budget, in bytes."""
TARGETS = ("onnx", "coreml", "executorch")


def demo(out: Path, console: Console) -> int:
    """Trains a ResNet-8 on scikit-learn's digits, compresses it to SIZE bytes of ONNX, exports, measures, reports.

    out: the folder to write the checkpoint to. Returns the gate's exit code, which is 0 if it passes.
    """
    console.rule(f"compress zoo:resnet8 on handwritten digits, to {SIZE:,} bytes of ONNX")
    with drawing(console, "onnx") as watching:
        net = compress(Request("zoo:resnet8", task="digits", size=SIZE), out, watching)
    console.rule("export: packed, and proven equal to the checkpoint")
    export(net, TARGETS, progress=lambda line: console.print(line, highlight=False))
    console.rule("bench: the files themselves, side by side with the dense network's")
    measured = bench(net, progress=lambda line: console.print(line, highlight=False))
    console.print(bench_summary(measured.rows, goal(net.origin), str(net.path)))
    console.rule("gate")
    verdict = gate(net, max_size=SIZE, max_drop=1.0)
    console.print(gate_table(verdict))
    page = report(net)
    console.print(f"\nThe same as a page: {page.resolve().as_uri()}", highlight=False, soft_wrap=True)
    return verdict.exit_code
