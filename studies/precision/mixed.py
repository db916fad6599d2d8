"""What choosing each layer's bits and density together keeps, against one precision for all, in the same bytes.

    python -m studies.precision.mixed                                     # resumes; all that is not there yet
    python -m studies.precision.mixed --only zoo:resnet8 --seeds 0 --shares 0.3
    python -m studies.precision.mixed --table                             # only writes the table of what there is

The dense networks are those of `studies.calibrate` (Fashion-MNIST at 14x14, five epochs). Each is pruned as `method`
calibrate does, by least squares on 1,024 inputs without labels and in four steps, until its ONNX file has at most a
share of the bytes that the dense one has in int8; test accuracy is that of the rounded network. No choice was made on
it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from pathlib import Path
from typing import Any

import torch

from dwindle.compress import mixed
from dwindle.compress.blocks import Blocks
from dwindle.compress.budget import Budget, Solver
from dwindle.compress.calibrate.prune import prune
from dwindle.compress.network import Network
from dwindle.compress.size import Sizer
from dwindle.export.shipping import as_file
from dwindle.export.targets import load
from studies import journal
from studies.calibrate.networks import dense, task
from studies.calibrate.run import samples

HERE = Path(__file__).parent
RESULTS = HERE / "mixed.jsonl"
NETWORKS = ("zoo:resnet8", "zoo:resnet20", "zoo:mobilenetv2")
PRECISIONS = ("int8", "palette4", "palette3", "palette2", "mixed")
SHARES = (0.5, 0.3, 0.2)
KEYS = ("network", "seed", "share", "precision")
INTRODUCTION = """# Bits of each layer's own

Test accuracy of ONNX files of the same size, calibrated without training, and points against the dense network; means
over the seeds, with their extremes. Sizes are shares of the dense int8 file. Fashion-MNIST at 14x14. Printed by
`python -m studies.precision.mixed`.

"""


def row(name: str, seed: int, share: float, precision: str) -> dict[str, Any]:
    its = task(seed)
    whole, example, inputs = dense(name, seed, its), its.example_inputs(), samples(its, seed)
    size = round(share * load("onnx", "int8").packer(whole, example)(whole))
    network = Network(copy.deepcopy(whole), example)
    target = load("onnx", precision).mixing(network.widths)
    solver = Solver(Budget(size=size), Blocks(), Sizer(target, example), "onnx")
    if precision == "mixed":
        solver = mixed.along(solver, network, mixed.chosen(network, solver, inputs))
    if solver.excess(network) > 1:
        share_left = solver.largest_share(network)
        prune(network, whole, solver.granularity, share_left, inputs, final=solver.largest_share)
    return {
        **dict(zip(KEYS, (name, seed, share, precision), strict=True)),
        "dense": its.evaluate(whole, "test"),
        "test": its.evaluate(as_file(target, network.model.eval(), example), "test"),
        "bytes": solver.packed_bytes(network.model),
        "limit": size,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line per network and size, a column per precision."""
    lines = [f"| network | KB | {' | '.join(PRECISIONS)} | seeds |", f"|---|---:|{'---:|' * len(PRECISIONS)}---:|"]
    for name, share in dict.fromkeys((one["network"], one["share"]) for one in rows):
        mine = [one for one in rows if (one["network"], one["share"]) == (name, share)]
        limit = statistics.mean(one["limit"] for one in mine) / 1000
        cells = [_cell([one for one in mine if one["precision"] == precision]) for precision in PRECISIONS]
        seeds = len({one["seed"] for one in mine})
        lines.append(f"| {name.removeprefix('zoo:')} | {limit:.1f} ({share:.0%}) | {' | '.join(cells)} | {seeds} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    points = [one["test"] - one["dense"] for one in rows]
    spread = f", {min(points):+.2f} to {max(points):+.2f}" if len(points) > 1 else ""
    over = " (over the size)" if any(one["bytes"] > one["limit"] for one in rows) else ""
    return f"{statistics.mean(one['test'] for one in rows):.2f} ({statistics.mean(points):+.2f}{spread}){over}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", metavar="NETWORK", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {tuple(found[key] for key in KEYS) for found in journal.read(RESULTS)}
    every = [
        (name, seed, share, precision)
        for name in options.only
        for seed in options.seeds
        for share in options.shares
        for precision in PRECISIONS
    ]
    for each in () if options.table else [one for one in every if one not in done]:
        found = row(*each)
        journal.add(RESULTS, found)
        print(*each, f"{found['test'] - found['dense']:+.2f} {found['bytes']:,} of {found['limit']:,}", flush=True)
    (HERE / "mixed.md").write_text(table(journal.read(RESULTS)))


if __name__ == "__main__":
    main()
