"""What zeros in blocks cost in accuracy: 4x1 and 8x1 along output channels against scattered ones, by LR rewinding.

    python -m studies.sparse.blocks             # resumes by the run; minutes each on one core
    python -m studies.sparse.blocks --table     # only prints the table of what there is

Fashion-MNIST at 14x14, of which 6,000 images are trained on. A run trains the dense network and prunes to 20% of the
weights in three rounds and on to 10% in two more, with a full retraining after each. The table has validation accuracy
at both, and test accuracy at the end. What blocks bring in instructions is in `mnn.md`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from dwindle.compress import Request, compress
from studies import journal
from studies.paired import gain

RESULTS = Path(__file__).parent / "blocks.jsonl"
SCATTERED = "unstructured"
GRANULARITIES = (SCATTERED, "4x1", "8x1")
NETWORKS = {"zoo:resnet8": {"epochs": 6, "lr": 0.1}, "zoo:resnet20": {"epochs": 6, "lr": 0.1}}
HALFWAY, DENSITY, ROUNDS, SEEDS = 0.2, 0.1, 3, (0, 1, 2)
"""ROUNDS: to the density halfway."""
KEYS = ("network", "granularity", "seed")
COLUMNS = {
    "halfway": f"validation at {HALFWAY:.0%}",
    "validation": f"at {DENSITY:.0%}",
    "test": f"test at {DENSITY:.0%}",
}


def run(network: str, granularity: str, seed: int) -> dict[str, Any]:
    data = "studies.rewinding.data:few_of_fashion_mnist_14"
    task = {"data": data, "crop": 1, "schedule": "cosine", "warmup": 0.1, **NETWORKS[network]}
    rate = 1 - HALFWAY ** (1 / ROUNDS)
    request = Request(
        network, task, density=DENSITY, prune_per_round=rate, granularity=granularity, seed=seed, rehearsal=False
    )
    with tempfile.TemporaryDirectory() as folder:
        done = compress(request, Path(folder) / "net.dwindle")
    return {
        "network": network,
        "granularity": granularity,
        "seed": seed,
        "densities": [record.density for record in done.history],
        "halfway": done.history[ROUNDS].validation,
        "validation": done.history[-1].validation,
        "test": done.metrics["test"],
        "dense_test": done.metrics["dense_test"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# What blocks of zeros cost\n",
        "    python -m studies.sparse.blocks\n",
        "Accuracy, means over seeds; in brackets the difference from scattered zeros, paired by seed, with its 95%",
        "interval. See `blocks.py`.\n",
        f"| network | granularity | {' | '.join(COLUMNS.values())} | dense test | seeds |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for network in NETWORKS:
        own = {(row["granularity"], row["seed"]): row for row in rows if row["network"] == network}
        for granularity in GRANULARITIES:
            seeds = [seed for seed in SEEDS if (granularity, seed) in own]
            if not seeds:
                continue
            cells = [_cell(own, granularity, seeds, column) for column in COLUMNS]
            dense = statistics.mean(own[granularity, seed]["dense_test"] for seed in seeds)
            lines.append(f"| {network} | {granularity} | {' | '.join(cells)} | {dense:.2f} | {len(seeds)} |")
    return "\n".join(lines)


def _cell(own: dict[tuple[str, int], dict[str, Any]], granularity: str, seeds: list[int], column: str) -> str:
    text = f"{statistics.mean(own[granularity, seed][column] for seed in seeds):.2f}"
    gains = [own[granularity, s][column] - own[SCATTERED, s][column] for s in seeds if (SCATTERED, s) in own]
    if granularity == SCATTERED or not gains:
        return text
    return f"{text} ({gain(gains)})"


def main() -> None:
    torch.set_num_threads(1)
    done = {tuple(row[key] for key in KEYS) for row in journal.read(RESULTS)}
    for network in NETWORKS if "--table" not in sys.argv else ():
        for seed in SEEDS:
            for granularity in GRANULARITIES:
                if (network, granularity, seed) not in done:
                    journal.add(RESULTS, run(network, granularity, seed))
    print(table(journal.read(RESULTS)))


if __name__ == "__main__":
    main()
