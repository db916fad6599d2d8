"""What it saves to cut between rounds: CPU time of iterative training down to 30% of the MACs.

    python -m studies.channels.cost

Two epochs a round, 20% of the MACs removed per round. The same number of rounds at fixed size would each take what the
dense round takes; the ratio is over those. zoo:resnet20 (16 to 64 channels) on 4,000 images of Fashion-MNIST, and
torchvision's ResNet-18 (64 to 512) on 1,000 of them at twice the size. CPU time of the training's one thread, since a
neighbour on the machine does not change it much; steps of the first tenth of a round, which also compile kernels for
the new shapes, are in it.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from dwindle.compress import Request, compress
from dwindle.compress.watcher import Watcher
from dwindle.models.data import Splits, Subset
from dwindle.models.datasets import load
from dwindle.record import Round

RESULTS = Path(__file__).parent / "cost.json"
RUNS = (("zoo:resnet20", "small", 8), ("torchvision:resnet18", "large", 8), ("torchvision:resnet18", "large", 32))


def small() -> Splits:
    """Fashion-MNIST with 4,000 training and 500 validation images."""
    whole = load("fashion-mnist")
    few = torch.arange(500)
    return replace(
        whole, train=whole.train[torch.arange(4_000)], validation=whole.validation[few], test=whole.test[few]
    )


def large() -> Splits:
    """1,000 of them and 100, in three channels of 56 by 56 pixels."""
    whole = small()

    def enlarged(subset: Subset, count: int) -> Subset:
        images = subset.images[:count].expand(-1, 3, -1, -1).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return Subset(images.contiguous(), subset.labels[:count])

    return replace(
        whole,
        train=enlarged(whole.train, 1_000),
        validation=enlarged(whole.validation, 100),
        test=enlarged(whole.test, 100),
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


def run(network: str, images: str, align: int) -> dict[str, object]:
    task = {"data": f"studies.channels.cost:{images}", "epochs": 2, "schedule": "cosine", "warmup": 0.1, "crop": 2}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        compress(Request(network, task, macs=0.3, align=align, rehearsal=False), Path(folder) / "net.dwindle", clock)
    dense, *rounds = clock.rounds
    ratio = sum(r["cpu_seconds"] for r in rounds) / (len(rounds) * dense["cpu_seconds"])
    macs = sum(r["macs"] for r in rounds) / (len(rounds) * dense["macs"])
    share = f"{ratio:.2f} of as many at fixed size, {macs:.2f} of their MACs"
    print(f"{network}, widths in {align}: {len(rounds)} rounds cost {share}", flush=True)
    return {"network": network, "align": align, "ratio": ratio, "macs": macs, "rounds": clock.rounds}


def main() -> None:
    torch.set_num_threads(1)
    results = [run(*entry) for entry in RUNS]
    RESULTS.write_text(json.dumps({"command": "python -m studies.channels.cost", "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
