"""What replaying a recorded step is worth on a GPU, by network.

    python -m studies.trainer.gpu        # a minute, on a machine with an NVIDIA GPU

Training steps per second of the built-in task on Fashion-MNIST, batches of 128 and their augmentation included:
launched kernel by kernel and replayed, in turn, each several times; median and range.
"""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from pathlib import Path

import torch

from dwindle.models.build import ModelSpec, build
from dwindle.models.tasks import make_task

NETWORKS = ("zoo:resnet8", "zoo:resnet20", "zoo:resnet56", "zoo:mobilenetv2")
TURNS, STEPS, WARMUP = 3, 60, 20


class Enough(Exception):
    """The steps are done."""


def main() -> None:
    rates: dict[str, tuple[list[float], list[float]]] = {network: ([], []) for network in NETWORKS}
    for network in NETWORKS:
        for _ in range(TURNS):
            for record in (False, True):
                rates[network][record].append(_rate(network, record))
    lines = [
        "# A recorded step against one launched kernel by kernel",
        "",
        f"`python -m studies.trainer.gpu` · {torch.cuda.get_device_name()} · torch {torch.__version__} · one process",
        "",
        "| network | launched, steps/s | replayed, steps/s | × |",
        "|---|---:|---:|---:|",
    ]
    for network, (launched, replayed) in rates.items():
        ratios = [fast / slow for slow, fast in zip(launched, replayed, strict=True)]
        lines.append(f"| {network} | {_spread(launched, 0)} | {_spread(replayed, 0)} | {_spread(ratios, 2)} |")
    text = "\n".join(lines) + "\n"
    (Path(__file__).parent / "gpu.md").write_text(text)
    print(text)


def _rate(network: str, record: bool) -> float:
    """Steps per second."""
    task = make_task({"data": "fashion-mnist", "epochs": 1, "record": record, "seed": 0})
    model = build(ModelSpec(network, 10, (1, 28, 28)))
    stamps: list[float] = []

    def on_step(loss: float) -> None:
        stamps.append(time.perf_counter())
        if len(stamps) == WARMUP + STEPS:
            raise Enough

    with suppress(Enough):
        task.fit(model, start=0.0, on_step=on_step)
    return STEPS / (stamps[-1] - stamps[WARMUP - 1])


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
