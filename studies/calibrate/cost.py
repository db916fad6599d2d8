"""What calibration costs, and how that grows with samples: ResNet-50 at 224 by 224, half of its weights.

    python -m studies.calibrate.cost --samples 8 16 32      # seconds of CPU and peak memory, a process for each

Untrained weights and noise take as long as trained ones and photographs.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from dwindle.compress.blocks import Blocks
from dwindle.compress.calibrate.prune import prune
from dwindle.compress.network import Network
from dwindle.models.build import ModelSpec, build
from studies import journal

HERE = Path(__file__).parent
RESULTS = HERE / "cost.jsonl"


def measured(samples: int) -> dict[str, Any]:
    torch.manual_seed(0)
    dense = build(ModelSpec("torchvision:resnet50", 1000, (3, 224, 224))).eval()
    inputs = (torch.randn(samples, 3, 224, 224),)
    network = Network(copy.deepcopy(dense), (inputs[0][:1],))
    before, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = prune(network, dense, Blocks(), 0.5, inputs)
    return {
        "samples": found.samples,
        "layers": len(found.layers),
        "cpu_seconds": time.process_time() - cpu,
        "solving_seconds": sum(layer.seconds for layer in found.layers),
        "megabytes_before": before / 1024,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "CPU seconds on one core, those of them that moments and least squares took, and the most memory that the",
        "process took, for ResNet-50 at 224x224 and half of its weights, which is one step. Printed by",
        "`python -m studies.calibrate.cost`.\n",
        "| samples | CPU seconds | moments and solutions | peak memory |",
        "|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['samples']:,} | {row['cpu_seconds']:.0f} | {row['solving_seconds']:.0f} | "
        f"{row['megabytes'] / 1000:.2f} GB |"
        for row in sorted(rows, key=lambda row: row["samples"])
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", nargs="*", type=int, default=[8, 16, 32])
    parser.add_argument("--one", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(measured(options.one)))
        return
    done = {row["samples"] for row in journal.read(RESULTS)}
    for samples in options.samples:
        if samples not in done:
            command = [sys.executable, "-m", "studies.calibrate.cost", "--one", str(samples)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            journal.add(RESULTS, json.loads(printed.splitlines()[-1]))
            print(printed, flush=True)
    (HERE / "cost.md").write_text(table(journal.read(RESULTS)))


if __name__ == "__main__":
    main()
