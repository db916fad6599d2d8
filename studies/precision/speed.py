"""Files that compute in int8 as latency on this machine: over the float file of the same runtime, side by side.

    python -m studies.precision.speed                       # half an hour on one core of a quiet machine
    python -m studies.precision.speed --only zoo:resnet20   # adds to speed.jsonl, and writes speed.md
    python -m studies.precision.speed --table               # only writes the table of what there is

All files of one target are timed by `dwindle.bench` in turns: fresh processes, random order, one thread, a batch of
one. The figure is the ratio of the medians of thread-CPU time, with its 95% interval by a paired bootstrap.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dwindle.bench.machine import this_machine
from dwindle.bench.measure import measure
from dwindle.bench.process import Worker, WorkerFailed
from dwindle.bench.runtimes import runtime as runtimes
from dwindle.bench.stats import noise, paired_ratio
from studies import journal
from studies.precision.int8_files import FILES, written

HERE = Path(__file__).parent
RESULTS = HERE / "speed.jsonl"
NETWORKS = {
    "zoo:resnet20": (3, 32, 32),
    "torchvision:resnet18": (3, 224, 224),
    "torchvision:mobilenet_v2": (3, 224, 224),
    "torchvision:mobilenet_v3_small": (3, 224, 224),
}
RUNTIMES = {"onnx": "onnxruntime", "executorch": "executorch", "litert": "litert"}
GOAL = 1.8
INTRODUCTION = f"""# The speed of files in int8

How many times as fast as the float file of the same runtime, which is timed beside it, with the 95% interval; the goal
is {GOAL} for onnxruntime where the CPU multiplies int8 (VNNI). ExecuTorch's int8 has int8 weights and rounds what
layers read when they run. One thread, a batch of one, dense files. Printed by `python -m studies.precision.speed`.

| network | runtime | file | float, ms | times as fast | machine |
|---|---|---|---:|---:|---|
"""


def rows(name: str, target: str) -> list[dict[str, Any]]:
    """What each file of a network in one target that computes in int8 takes beside the float file."""
    runtime, shape = runtimes.load(RUNTIMES[target]), NETWORKS[name]
    dense, *others = FILES[target]
    with tempfile.TemporaryDirectory() as folder:
        made = {one: written(name, shape, target, one, Path(folder)) for one in (dense, *others)}
        start = {one: partial(Worker, RUNTIMES[target], path) for one, (_, path, _) in made.items()}
        try:
            samples, around = measure(start, [made[dense][2].numpy()], seed=0)
        except WorkerFailed as error:
            return [{"network": name, "target": target, "precision": "", "shape": shape, "failed": str(error)}]
    found = []
    for one in others:
        ratio, (low, high) = paired_ratio(samples[one], samples[dense], seed=0)
        found.append(
            {
                "network": name,
                "target": target,
                "precision": one,
                "shape": shape,
                "runtime": f"{RUNTIMES[target]} {runtime.version()}",
                "cpu": this_machine().cpu,
                "milliseconds": float(np.median(samples[dense].own)) / 1e6,
                "speed_up": 1 / ratio,
                "ci95": [1 / high, 1 / low],
                "quiet": noise(samples[one], around).quiet,
            }
        )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """A line per file, the last that was measured of each."""
    last = {(one["network"], one["target"], one["precision"]): one for one in found}
    lines = []
    for one in last.values():
        if "failed" in one:
            continue
        low, high = one["ci95"]
        lines.append(
            f"| {one['network']} {'×'.join(map(str, one['shape']))} | {one['runtime']} | {one['precision']} "
            f"| {one['milliseconds']:.2f} | {one['speed_up']:.2f} ({low:.2f}–{high:.2f}) "
            f"| {('noisy', 'quiet')[one['quiet']]} |"
        )
    cpus = ", ".join(dict.fromkeys(one["cpu"] for one in last.values() if "cpu" in one))
    failed = [f"- {one['network']}: {one['failed']}" for one in last.values() if "failed" in one]
    ends = [f"\nMeasured on {cpus}." if cpus else "", *(["\nWhat does not run:\n", *failed] if failed else [])]
    return INTRODUCTION + "\n".join([*lines, *ends]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", metavar="NETWORK", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in () if options.table else options.only:
        for target in FILES:
            for found in rows(name, target):
                journal.add(RESULTS, found)
                print(name, target, found["precision"], found.get("failed") or f"{found['speed_up']:.2f}", flush=True)
    text = table(journal.read(RESULTS))
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
