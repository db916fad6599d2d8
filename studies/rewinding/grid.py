"""The comparison as data: which network is shrunk how, on what, from which seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

METHODS = ("lr-rewind", "weight-rewind", "finetune", "lottery-ticket")
CONTROL = "control"
"""The dense network put through as many retrainings, with nothing pruned: what more training alone is worth."""
ONE_SHOT = (2, 4, 9, 18, 30)
"""Compression ratios of the weights."""
SMALLEST = 0.033
"""Density at which iterative pruning ends: 30 times fewer weights."""


@dataclass(frozen=True)
class Trial:
    """One run of the product's own loop. An iterative one visits every ratio on its way."""

    network: str
    data: str
    method: str
    seed: int
    epochs: int
    density: float = SMALLEST
    prune_per_round: float = 0.2
    rounds: int | None = None
    """1: one-shot."""

    @property
    def key(self) -> str:
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())

    @property
    def kind(self) -> str:
        return "one-shot" if self.rounds == 1 else "iterative"

    @property
    def task(self) -> dict[str, Any]:
        """The paper's schedule in shape (÷10 at one half and three quarters), momentum and decay; only shorter."""
        plain = {"digits": {"crop": 1, "flip": False, "batch_size": 64}, "fashion-mnist": {"crop": 2}}[self.data]
        return {"data": self.data, "epochs": self.epochs, "schedule": "step", **plain}


def quick() -> Iterator[Trial]:
    """Minutes: digits, two steps of the paper's in one round, and one-shot at one ratio."""
    for seed, method in product(range(4), (*METHODS, CONTROL)):
        yield Trial("zoo:resnet8", "digits", method, seed, epochs=4, prune_per_round=0.36)
    for seed, method in product(range(4), METHODS):
        yield Trial("zoo:resnet8", "digits", method, seed, epochs=4, density=1 / 9, rounds=1)


def whole() -> Iterator[Trial]:
    """Hours: Fashion-MNIST, every step of the paper's, and one-shot at each ratio."""
    for network, seeds in (("zoo:resnet8", 5), ("zoo:resnet20", 3), ("zoo:mobilenetv2", 3)):
        for seed, method in product(range(seeds), (*METHODS, CONTROL)):
            yield Trial(network, "fashion-mnist", method, seed, epochs=4)
        for seed, method, ratio in product(range(seeds), METHODS, ONE_SHOT):
            yield Trial(network, "fashion-mnist", method, seed, epochs=4, density=1 / ratio, rounds=1)
