"""LR rewinding against fine-tuning on channels: 2, 4 and 8 times fewer MACs, the same epochs, three seeds.

    python -m studies.channels.retrain             # resumes; about an hour on one core
    python -m studies.channels.retrain --table     # only prints the table of what there is

Fashion-MNIST, of which 6,000 images are trained on, so that the study fits an hour; validation and test are whole. A
run trains the dense network and then halves the MACs three times, each time with a full retraining, from the start of
the schedule (lr-rewind) or at its last learning rate (finetune). The table gives validation accuracy after each, and
test accuracy at the end.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dwindle.compress import Request, compress
from dwindle.compress.watcher import Watcher
from dwindle.models.data import Splits
from dwindle.models.datasets import load
from dwindle.record import Round
from studies import journal

RESULTS = Path(__file__).parent / "retrain.jsonl"
NETWORKS = {"zoo:resnet20": {"epochs": 6, "lr": 0.1}, "zoo:mobilenetv2": {"epochs": 5, "lr": 0.05}}
METHODS = ("lr-rewind", "finetune")
SEEDS = (0, 1, 2)


def data() -> Splits:
    """Fashion-MNIST with 6,000 training images."""
    whole = load("fashion-mnist")
    return replace(whole, train=whole.train[torch.arange(6_000)])


class Judge(Watcher):
    """Notes every round. Nothing is chosen by what it notes."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []

    def finished(self, record: Round, rounds: int) -> None:
        self.rounds.append(record)
        print(f"  round {record.index}: {record.validation:.2f}, {record.macs:,} MACs", flush=True)


def run(network: str, method: str, seed: int) -> dict[str, object]:
    task = {"data": "studies.channels.retrain:data", "schedule": "step", "crop": 2, "flip": True, **NETWORKS[network]}
    request = Request(network, task, macs=0.125, method=method, rounds=3, seed=seed, rehearsal=False)
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge()
        done = compress(request, Path(folder) / "net.dwindle", judge)
    return {
        "network": network,
        "method": method,
        "seed": seed,
        "epochs": NETWORKS[network]["epochs"],
        "rounds": [asdict(record) for record in done.history],
        "test": done.metrics["test"],
        "dense_test": done.metrics["dense_test"],
        "versions": done.versions,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Validation accuracy after each halving, and test accuracy of the last: mean over the seeds, and the difference
    paired by seed with its range."""
    lines = ["| network | MACs | lr-rewind | finetune | difference, by seed |", "|---|---|---|---|---|"]
    for network in NETWORKS:
        runs = {(row["method"], row["seed"]): row for row in rows if row["network"] == network}
        seeds = [seed for seed in SEEDS if all((method, seed) in runs for method in METHODS)]
        if not seeds:
            continue
        for index, what in enumerate(("dense", "2× fewer", "4× fewer", "8× fewer")):
            value = {m: [runs[m, s]["rounds"][index]["validation"] for s in seeds] for m in METHODS}
            lines.append(_line(f"{network}, validation", what, value))
        value = {m: [runs[m, s]["test"] for s in seeds] for m in METHODS}
        lines.append(_line(f"{network}, test", "8× fewer", value))
    return "\n".join(lines)


def _line(network: str, what: str, value: dict[str, list[float]]) -> str:
    gains = [a - b for a, b in zip(*(value[method] for method in METHODS), strict=True)]
    means = " | ".join(f"{statistics.mean(value[method]):.2f}" for method in METHODS)
    return f"| {network} | {what} | {means} | {statistics.mean(gains):+.2f} ({', '.join(f'{g:+.2f}' for g in gains)}) |"


def main() -> None:
    torch.set_num_threads(1)
    rows = journal.read(RESULTS)
    done = {(row["network"], row["method"], row["seed"]) for row in rows}
    for network in NETWORKS if "--table" not in sys.argv else ():
        for seed in SEEDS:
            for method in METHODS:
                if (network, method, seed) not in done:
                    print(network, method, seed, flush=True)
                    rows.append(run(network, method, seed))
                    journal.add(RESULTS, rows[-1])
    print(table(rows))


if __name__ == "__main__":
    main()
