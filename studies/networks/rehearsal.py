"""What the rehearsal of an export costs beside the first epoch that it comes before, in CPU time.

    python -m studies.networks.rehearsal

MobileNetV2 at 224x224 pixels, unstructured, to each target, and an epoch of 10,000 images in batches of 64. The epoch
is not trained: STEPS steps are, after one to warm up, and their mean is taken times the steps of the epoch. Images are
noise that lies in memory, so that an epoch of real ones, which have to be read and augmented, costs more.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from dwindle.compress import Request
from dwindle.compress.prepared import prepare
from dwindle.manifest import Manifest
from dwindle.task import Split

IMAGES, BATCH, STEPS = 10_000, 64, 2
TARGETS = ("onnx", "coreml", "executorch")
RESULTS = Path(__file__).with_name("rehearsal.jsonl")


class Noise:
    """A classification of noise."""

    classes = 10

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        optimizer = torch.optim.SGD(model.train().parameters(), 0.01, momentum=0.9)
        for _ in range(1 + STEPS):
            loss = nn.functional.cross_entropy(model(torch.randn(BATCH, 3, 224, 224)), torch.randint(10, (BATCH,)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            on_step(float(loss.detach()))

    def evaluate(self, model: nn.Module, split: Split) -> float:
        return 0.0

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.randn(1, 3, 224, 224),)

    def inputs(self, split: Split) -> tuple[Tensor, ...]:
        return (torch.randn(64, 3, 224, 224),)


def main() -> None:
    torch.set_num_threads(1)
    times: list[float] = []
    ready = prepare(Request(model="torchvision:mobilenet_v2", task=Noise(), target=TARGETS[0], density=0.2))
    ready.task.fit(ready.network.copy().model, start=0.0, on_step=lambda loss: times.append(time.process_time()))
    step = (times[-1] - times[0]) / STEPS
    epoch = step * -(-IMAGES // BATCH)
    RESULTS.write_text("")
    for target in TARGETS:
        ready = prepare(Request(model="torchvision:mobilenet_v2", task=Noise(), target=target, density=0.2))
        began = _spent()
        outcome = ready.rehearse().outcomes[target]
        spent = _spent() - began
        row = {
            "target": target,
            "written": isinstance(outcome, Manifest),
            "rehearsal_cpu_s": round(spent, 1),
            "step_cpu_s": round(step, 2),
            "epoch_cpu_s_extrapolated": round(epoch),
            "share": round(spent / epoch, 4),
        }
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def _spent() -> float:
    """CPU time of this process and of those that it has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
