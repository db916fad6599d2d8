"""Whether solving the survivors of each round by least squares allows fewer and larger rounds of LR rewinding.

    python -m studies.calibrate.update          # resumes by the round; a CPU minute or two a run
    python -m studies.calibrate.update --epochs 5   # a dense network that is trained to its end; half an hour a seed
    python -m studies.calibrate.update --table

ResNet-8 on Fashion-MNIST at 14x14, trained with a cosine, pruned by magnitude to the same density by 20%, 40% or 60% a
round, so that the same accuracy by fewer and larger rounds would be the same in fewer epochs; to 30 times fewer weights
and, by channels, to 13% of the MACs by the smallest and the largest rounds. Rows hold validation and test; compare on
validation, and report test.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import torch

from dwindle.compress import Request, compress
from dwindle.compress.calibrate.update import LEAST_SQUARES
from studies import journal

HERE = Path(__file__).parent
RESULTS = HERE / "update.jsonl"
RUNS = Path(__file__).parents[2] / "build" / "studies" / "update"
RATES = (0.6, 0.4, 0.2)
UPDATES = (None, LEAST_SQUARES)
GOALS: dict[str, dict[str, Any]] = {
    "10% of the weights": {"density": 0.1},
    "3.3% of the weights": {"density": 0.033},
    "13% of the MACs": {"macs": 0.13, "granularity": "channel"},
}
"""What is pruned to, by what the table calls it; rows that name none are of the first."""
FIRST = next(iter(GOALS))


def row(goal: str, epochs: int, rate: float, update: str | None, seed: int) -> dict[str, Any]:
    data = "studies.rewinding.data:fashion_mnist_14"
    task = {"data": data, "crop": 1, "epochs": epochs, "schedule": "cosine", "warmup": 0.1}
    request = Request(
        "zoo:resnet8", task, prune_per_round=rate, update=update, seed=seed, rehearsal=False, **GOALS[goal]
    )
    name = f"epochs{epochs}-rate{rate}-{update}-seed{seed}"
    done = compress(request, RUNS / f"{name if goal == FIRST else f'{goal} {name}'}.dwindle")
    return {
        "goal": goal,
        "epochs": epochs,
        "rate": rate,
        "update": update,
        "seed": seed,
        "rounds": len(done.history) - 1,
        "validation": done.history[-1].validation - done.history[0].validation,
        "test": done.metrics["test"] - done.metrics["dense_test"],
    }


def goal_of(row: dict[str, Any]) -> str:
    return str(row.get("goal", FIRST))


def table(rows: list[dict[str, Any]]) -> str:
    """A line per length of training and rate, a column with and one without the update, means over seeds."""
    lines = [
        "Points of test accuracy against the dense network, in brackets those of validation, means over seeds.",
        "ResNet-8, Fashion-MNIST at 14x14. After one epoch the dense network is not at its end, so that retraining",
        "alone makes it better. Printed by `python -m studies.calibrate.update`. 0.3 points between two single seeds",
        "say nothing.\n",
        "| left | epochs each | pruned a round | rounds | epochs of all | retrained only | solved first | seeds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for place, epochs, rate in sorted({(list(GOALS).index(goal_of(row)), row["epochs"], row["rate"]) for row in rows}):
        goal = list(GOALS)[place]
        mine = [row for row in rows if (goal_of(row), row["epochs"], row["rate"]) == (goal, epochs, rate)]
        rounds = mine[0]["rounds"]
        cells = [goal, str(epochs), f"{rate:.0%}", str(rounds), str(rounds * epochs)]
        for update in UPDATES:
            found = [row for row in mine if row["update"] == update]
            means = [f"{statistics.mean(row[key] for row in found):+.2f}" for key in ("test", "validation") if found]
            cells.append(f"{means[0]} ({means[1]})" if found else "")
        cells.append(str(len({row["seed"] for row in mine})))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--epochs", type=int, default=1, help="of each training, of the dense network too")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {
        (goal_of(found), found["epochs"], found["rate"], found["update"], found["seed"])
        for found in journal.read(RESULTS)
    }
    for goal, seed in () if options.table else product(GOALS, options.seeds):
        for rate, update in product(RATES if goal == FIRST else (max(RATES), min(RATES)), UPDATES):
            if (goal, options.epochs, rate, update, seed) not in done:
                found = row(goal, options.epochs, rate, update, seed)
                journal.add(RESULTS, found)
                print(found, flush=True)
    (HERE / "update.md").write_text(table(journal.read(RESULTS)))


if __name__ == "__main__":
    main()
