"""Whether channels chosen by what they cost keep more accuracy than channels chosen by MACs, at equal counted cost.

    OMP_NUM_THREADS=1 python -m studies.latency.cost_or_macs           # resumes by the run; some minutes each
    OMP_NUM_THREADS=1 python -m studies.latency.cost_or_macs --table   # only prints the table of what there is

A network is trained, pruned once to a share of its ARM64 instructions, and trained again by the whole schedule (LR
rewinding). `--cost` prunes by the table of layers; `--macs` by multiply-accumulates, to the largest budget of those
whose network, counted whole, executes no more instructions. Both start from the same dense network. Fashion-MNIST at
14x14, of which 6,000 images are trained on; test is whole, and nothing was chosen by it.
"""

from __future__ import annotations

import copy
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from dwindle.compress.budget import Budget, Solver
from dwindle.compress.channels import Channels
from dwindle.compress.meter import Meter
from dwindle.compress.network import Network
from dwindle.compress.surgery.find import find_groups
from dwindle.export.targets import load
from dwindle.models.build import ModelSpec, build
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task
from dwindle.price import load as load_price
from studies import journal
from studies.paired import gain

RESULTS = Path(__file__).parent / "cost_or_macs.jsonl"
TARGET, SHARES, STEPS, SEEDS = "onnx", (0.5, 0.3), 8, (0, 1, 2)
"""STEPS: halvings of the interval in which the MACs are sought."""
NETWORKS = {"zoo:resnet20": {"epochs": 8, "lr": 0.1}, "zoo:mobilenetv2": {"epochs": 8, "lr": 0.05}}


def runs(name: str, seed: int, shares: list[float]) -> None:
    """Writes a line for each share of a network and seed."""
    task = {"data": "studies.rewinding.data:few_of_fashion_mnist_14", "crop": 1, "schedule": "cosine", "warmup": 0.1}
    its = make_task({**task, **NETWORKS[name], "seed": seed}).given
    assert isinstance(its, ImageClassification)
    torch.manual_seed(seed)
    model = build(ModelSpec(name, its.classes, its.splits.shape))
    its.fit(model, start=0.0, on_step=lambda _: None)
    network = Network(model.eval(), its.example_inputs())
    price = load_price("cost", TARGET, load(TARGET).precision)
    price.require(lambda line: None)
    meter = Meter(model, network.inputs, find_groups(model, network.inputs), price, load(TARGET))
    row = {"network": name, "seed": seed, "dense": its.evaluate(model, "test"), "instructions": meter.dense}
    for share in shares:
        small = {"cost": by_cost(network, meter, share)}
        limit = meter.whole(small["cost"].model)
        small["macs"] = by_macs(network, meter, limit)
        for way, pruned in small.items():
            spent = meter.whole(pruned.model) / meter.dense
            its.fit(pruned.model, start=0.0, on_step=lambda _: None)
            test = its.evaluate(pruned.model.eval(), "test")
            row |= {way: {"test": test, "spent": spent, "macs": pruned.macs / network.macs}}
        journal.add(RESULTS, {**row, "share": share})


def by_cost(network: Network, meter: Meter, share: float) -> Network:
    """As `compress --cost` prunes, its table corrected by a count of the first result."""
    corrected = copy.copy(meter)
    for last in (False, True):
        granularity = Channels(counts="price", meter=corrected)
        solver = Solver(Budget(cost=share), granularity, lambda model: 0, TARGET, corrected)
        small = solver.shrunk(network, solver.largest_share(network))
        if not last:
            corrected.correct(small.model)
    return small


def by_macs(network: Network, meter: Meter, limit: float) -> Network:
    """As `compress --macs` prunes, to the most MACs whose network executes at most `limit` instructions."""
    low, high, found = 0.0, 1.0, None
    for _ in range(STEPS):
        share = (low + high) / 2
        solver = Solver(Budget(macs=share), Channels(), lambda model: 0, TARGET)
        small = solver.shrunk(network, solver.largest_share(network))
        if meter.whole(small.model) <= limit * 1.005:
            low, found = share, small
        else:
            high = share
    assert found is not None
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Channels by cost, and by MACs\n",
        "    python -m studies.latency.cost_or_macs\n",
        "Test accuracy at equal counted ARM64 instructions of the ONNX file, means over seeds; the gain is paired by",
        "seed, with its 95% interval. See `cost_or_macs.py`.\n",
        "| network | instructions | dense | by cost | by MACs | gain | seeds | MACs left, by cost and by MACs |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, share in sorted({(row["network"], row["share"]) for row in rows}, key=lambda key: (key[0], -key[1])):
        mine = [row for row in rows if (row["network"], row["share"]) == (name, share)]
        gains = [row["cost"]["test"] - row["macs"]["test"] for row in mine]
        mean = {way: statistics.mean(row[way]["test"] for row in mine) for way in ("cost", "macs")}
        left = [f"{statistics.mean(row[way]['macs'] for row in mine):.0%}" for way in ("cost", "macs")]
        dense = statistics.mean(row["dense"] for row in mine)
        lines.append(
            f"| {name} | {statistics.mean(row['cost']['spent'] for row in mine):.0%} | {dense:.2f} "
            f"| {mean['cost']:.2f} | {mean['macs']:.2f} | {gain(gains)} "
            f"| {len(mine)} | {' and '.join(left)} |"
        )
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    for name in NETWORKS if "--table" not in sys.argv else ():
        for seed in SEEDS:
            done = {row["share"] for row in journal.read(RESULTS) if (row["network"], row["seed"]) == (name, seed)}
            if missing := [share for share in SHARES if share not in done]:
                runs(name, seed, missing)
    print(table(journal.read(RESULTS)))


if __name__ == "__main__":
    main()
