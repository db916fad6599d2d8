"""What a step of training costs through the rounding, beside a plain one of the same network.

    python -m studies.precision.cost                              # minutes on one core
    python -m studies.precision.cost --only zoo:resnet8 --steps 5

A plain step and one through the rounding in turn, each on its own copy of the network and on the same images
(Fashion-MNIST at 14x14, batches of 128, SGD with momentum): forward, backward, the optimizer, and with rounding what
`compress.training` does between two steps. Batch norm is free, as over all of these steps but the last of a training:
standing still it takes less time than in a plain step. Each is the CPU time of one thread, so that other processes
don't count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dwindle.compress.qat import Rounding
from dwindle.export.targets import load
from dwindle.models.build import ModelSpec, build
from studies import journal
from studies.calibrate.networks import task
from studies.precision.run import NETWORKS

HERE = Path(__file__).parent
RESULTS = HERE / "cost.jsonl"
PRECISIONS = ("int8", "int4", "palette4", "palette2", "w8a8")
STEPS, WARM, BATCH = 30, 3, 128
INTRODUCTION = """# What a step through the rounding costs

CPU time of a step of training through the rounding, batch norm free, over that of a plain step, both in turn on the
same images: the median of the ratios, and between which nine in ten of them lie. Printed by
`python -m studies.precision.cost`.

| network | precision | plain step, ms | ratio | nine in ten |
|---|---|---:|---:|---:|
"""


def stepper(network: nn.Module, precision: str | None, example: tuple[torch.Tensor, ...]) -> Callable[..., float]:
    """A function that makes a step on images and labels, and returns the seconds of CPU that it took."""
    optimizer = torch.optim.SGD(network.train().parameters(), lr=0.01, momentum=0.9)
    rounding = Rounding(network, example, load("onnx", precision)) if precision else None

    def step(images: torch.Tensor, labels: torch.Tensor) -> float:
        began = time.thread_time()
        if rounding:
            rounding.round(frozen=False)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        if rounding:
            rounding.absorb()
        return time.thread_time() - began

    return step


def row(name: str, precision: str, steps: int) -> dict[str, Any]:
    its = task(0)
    images, (mean, std) = its.splits.train.images, its.normalization
    example = its.example_inputs()

    def made() -> nn.Module:
        torch.manual_seed(0)
        return build(ModelSpec(name, its.classes, its.splits.shape))

    plain, rounded = stepper(made(), None, example), stepper(made(), precision, example)
    found = []
    for index in range(WARM + steps):
        part = slice(index * BATCH, (index + 1) * BATCH)
        batch = (images[part].float() - mean[:, None, None]) / std[:, None, None], its.splits.train.labels[part].long()
        found.append((plain(*batch), rounded(*batch)))
    ratios = sorted(slow / fast for fast, slow in found[WARM:])
    tenth = statistics.quantiles(ratios, n=20)
    return {
        "network": name,
        "precision": precision,
        "milliseconds": 1000 * statistics.median(fast for fast, _ in found[WARM:]),
        "ratio": statistics.median(ratios),
        "least": tenth[0],
        "most": tenth[-1],
        "steps": steps,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line per network and precision, the last that was measured of each."""
    last = {(one["network"], one["precision"]): one for one in rows}
    lines = [
        f"| {name.removeprefix('zoo:')} | {precision} | {one['milliseconds']:.0f} | {one['ratio']:.2f} "
        f"| {one['least']:.2f} to {one['most']:.2f} |"
        for (name, precision), one in last.items()
    ]
    return INTRODUCTION + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NETWORK", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        for precision in PRECISIONS:
            found = row(name, precision, options.steps)
            journal.add(RESULTS, found)
            print(name, precision, f"{found['ratio']:.2f}", flush=True)
    (HERE / "cost.md").write_text(table(journal.read(RESULTS)))


if __name__ == "__main__":
    main()
