"""What it saves to cut between rounds: CPU time of iterative training down to 30% of the MACs.

    python -m studies.channels.cost

zoo:resnet20 on 4,000 images of Fashion-MNIST, two epochs a round, 20% of the MACs removed per round. The same number of
rounds at fixed size would each take what the dense round takes; the ratio is over those. CPU time of the training's one
thread, since a neighbour on the machine does not change it; steps of the first tenth of a round, which also compile
kernels for the new shapes, are in it.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from dwindle.checkpoint import Round
from dwindle.compress import Request, compress
from dwindle.compress.watcher import Watcher
from dwindle.models.data import Splits
from dwindle.models.datasets import load

RESULTS = Path(__file__).parent / "cost.json"


def data() -> Splits:
    """Fashion-MNIST with 4,000 training and 500 validation images."""
    whole = load("fashion-mnist")
    few = torch.arange(500)
    return replace(
        whole, train=whole.train[torch.arange(4_000)], validation=whole.validation[few], test=whole.test[few]
    )


class Clock(Watcher):
    """CPU seconds between the first and the last step of every round."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, float]] = []
        self.began = self.now = 0.0

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        self.now = time.thread_time()
        if done == 1:
            self.began = self.now

    def finished(self, record: Round, rounds: int) -> None:
        self.rounds.append({"macs": float(record.macs or 0), "cpu_seconds": self.now - self.began})
        print(f"round {record.index}: {record.macs:,} MACs, {self.now - self.began:.1f} s", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    task = {"data": "studies.channels.cost:data", "epochs": 2, "schedule": "cosine", "warmup": 0.1, "crop": 2}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        compress(Request("zoo:resnet20", task, macs=0.3), Path(folder) / "net.dwindle", clock)
    dense, *rounds = clock.rounds
    ratio = sum(r["cpu_seconds"] for r in rounds) / (len(rounds) * dense["cpu_seconds"])
    macs = sum(r["macs"] for r in rounds) / (len(rounds) * dense["macs"])
    print(f"{len(rounds)} rounds cost {ratio:.2f} of as many at fixed size ({macs:.2f} of their MACs)")
    command = "python -m studies.channels.cost"
    RESULTS.write_text(json.dumps({"command": command, "ratio": ratio, "macs": macs, "rounds": clock.rounds}, indent=1))


if __name__ == "__main__":
    main()
