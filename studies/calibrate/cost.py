"""What calibration costs, and how that grows with samples: ResNet-50 at 224 by 224, half of its weights.

    python -m studies.calibrate.cost      # CPU seconds on one core, peak memory; a process for each number of samples

Untrained weights and noise take as long as trained ones and photographs. With many samples, the first layers have no
room for all in memory, so some join late. `--one 8 --most 60000000` shows that with few samples; it keeps nothing.
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
from dwindle.models.layerwise import collect
from studies import journal

HERE = Path(__file__).parent
RESULTS = HERE / "cost.jsonl"


def measured(samples: int) -> dict[str, Any]:
    """What calibration with so many samples takes."""
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
        "process took, the samples among it, for ResNet-50 at 224x224 and half of its weights, which is one step. The",
        "first layers, whose maps are large, see as many samples as have room in memory, the last ones all. Printed by",
        "`python -m studies.calibrate.cost`.\n",
        "| samples | CPU seconds | moments and solutions | samples alone | peak memory |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['samples']:,} | {row['cpu_seconds']:.0f} | {row['solving_seconds']:.0f} | "
        f"{row['samples'] * 4 * 3 * 224**2 / 1e9:.2f} GB | {row['megabytes'] / 1000:.2f} GB |"
        for row in sorted(rows, key=lambda row: row["samples"])
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", nargs="*", type=int, default=[32, 128, 1024])
    parser.add_argument("--one", type=int, help="measure in this process, and print")
    parser.add_argument("--most", type=int, help="with --one: bytes that samples may take between two layers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        collect.MOST = options.most or collect.MOST
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
