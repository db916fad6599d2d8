"""Whether `--cost` is met at the first try: ten random budgets, each counted whole.

    OMP_NUM_THREADS=1 python -m studies.latency.budgets > studies/latency/budgets.md

Untrained networks, as neither table nor kernels look at values. For each budget the solver that `compress` uses prunes
to it by the table of layers, first as it was counted, then as one whole count corrects it (as `compress` does), and
both networks are counted whole. A line is written as each is done; what is there is not done again, and `--table` only
prints what is there.
"""

from __future__ import annotations

import os
import random
import sys
import time
from copy import copy
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
from dwindle.price import load as load_price
from studies import journal

NETWORKS = (("zoo:resnet20", 8, "onnx"),)
BUDGETS = 10
"""Of each network."""
RESULTS = Path(__file__).parent / "budgets.jsonl"


def rows(spec: str, pixels: int, target: str, done: list[dict[str, Any]]) -> None:
    """Writes a line for each budget of a network that has none."""
    shares = [round(random.Random(f"{spec} {index}").uniform(0.25, 0.85), 2) for index in range(BUDGETS)]
    missing = [share for share in shares if not any((one["network"], one["share"]) == (spec, share) for one in done)]
    if not missing:
        return
    torch.manual_seed(0)
    shape = (3, pixels, pixels)
    network = Network(build(ModelSpec(spec, 10, shape)).eval(), (torch.randn(1, *shape),))
    began, price = time.monotonic(), load_price("cost", target, load(target).precision)
    price.require(lambda line: None)
    groups = find_groups(network.model, network.inputs)

    plain = Meter(network.model, network.inputs, groups, price, load(target), lambda line: print(line, file=sys.stderr))
    seconds = time.monotonic() - began
    for share in missing:
        limit = share * plain.dense
        small = _pruned(network, plain, share, target)
        corrected, told = copy(plain), plain.of(small.model)
        by_table = told / (1 + corrected.correct(small.model))
        again = corrected.whole(_pruned(network, corrected, share, target).model)
        found = {"network": spec, "pixels": pixels, "target": target, "share": share, "dense": plain.dense}
        found |= {"table": by_table / limit - 1, "corrected": again / limit - 1}
        journal.add(RESULTS, {**found, "table_seconds": seconds})


def _pruned(network: Network, meter: Meter, share: float, target: str) -> Network:
    """The network within a share of its price, as `compress` prunes it."""
    granularity = Channels(align=8, counts="price", meter=meter)
    solver = Solver(Budget(cost=share), granularity, lambda model: 0, target, meter)
    return solver.shrunk(network, solver.largest_share(network))


def main() -> None:
    torch.set_num_threads(1)
    for spec, pixels, target in NETWORKS if "--table" not in sys.argv else ():
        rows(spec, pixels, target, journal.read(RESULTS))
    print("# Budgets in instructions, counted whole\n\n    python -m studies.latency.budgets\n\nSee `budgets.py`.\n")
    print("| network | target | dense, M | budget | off by the table alone | off as corrected |")
    print("|---|---|---:|---:|---:|---:|")
    for one in journal.read(RESULTS):
        print(
            f"| {one['network']}, {one['pixels']}² | {one['target']} | {one['dense'] / 1e6:.2f} | {one['share']:.0%} "
            f"| {one['table']:+.1%} | {one['corrected']:+.1%} |"
        )
    count = len(journal.read(RESULTS))
    worst = {name: max(abs(one[name]) for one in journal.read(RESULTS)) for name in ("table", "corrected")}
    print(f"\nWorst of {count}: {worst['table']:.1%} by the table alone, {worst['corrected']:.1%} as corrected.")


if __name__ == "__main__":
    main()
