"""The comparison as data: which network is shrunk how, on what, from which seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from dwindle.compress import recipes
from dwindle.compress.recipes import Recipe

METHODS = ("lr-rewind", "weight-rewind", "finetune", "lottery-ticket", "amc")
CONTROL = "control"
"""The dense network put through as many retrainings, with nothing pruned: what more training alone is worth."""
ONE_SHOT = (2, 4, 9, 18, 30)
"""Compression ratios of the weights."""
SMALLEST = 0.033
"""Density at which iterative pruning ends: 30 times fewer weights."""
DATA: dict[str, dict[str, Any]] = {
    "digits": {"data": "digits", "crop": 1, "flip": False, "batch_size": 64},
    "fashion-mnist-14": {"data": "studies.rewinding.data:fashion_mnist_14", "crop": 1},
}
PAPER = recipes.RECIPES["paper"].task
COSINE = {"schedule": "cosine", "warmup": 0.1}
DOUBLE = {**COSINE, "lr": 0.2}
RECIPES: dict[str, Recipe] = {
    **recipes.RECIPES,
    "cosine": Recipe("magnitude", COSINE),
    "cosine-2x": Recipe("magnitude", DOUBLE),
    "lamp": Recipe("lamp", PAPER),
    "averaged": Recipe("magnitude", {**PAPER, "ema": 0.99}),
    "gradual": Recipe("magnitude", PAPER),
    "recalibrated": Recipe("magnitude", PAPER, recalibrate=True),
    "augment-half": Recipe("magnitude", {**PAPER, "augment": 0.5}),
}
"""The product's, and what else may help, each alone."""
TOGETHER = {
    "cosine-2x-recalibrated": Recipe("magnitude", DOUBLE, recalibrate=True),
    "cosine-2x-recalibrated-lamp": Recipe("lamp", DOUBLE, recalibrate=True),
}
"""Some of it together: without its plain second half, `best` is the first."""
GRADUAL = {"gradual": 0.5}
"""The share of a retraining over which these prune."""


@dataclass(frozen=True)
class Trial:
    """One run of the product's own loop. An iterative one visits every ratio on its way."""

    network: str
    data: str
    method: str
    seed: int
    epochs: int
    density: float | None = SMALLEST
    prune_per_round: float = 0.2
    rounds: int | None = None
    """1: one-shot."""
    macs: float | None = None
    """Channels are pruned, to this share of the dense MACs; None: weights are, to `density`."""
    recipe: str = "paper"
    update: str | None = None
    """`least-squares`: the survivors of each round are solved before they are retrained."""
    gradual: float = 0.0
    """The share of each retraining over which weights are pruned."""
    retraining: int | None = None
    """Epochs of each retraining; None: as many as the dense training has."""

    @property
    def key(self) -> str:
        """What is asked for beyond the defaults: a later field leaves the keys of earlier results as they were."""
        asked = {field.name: getattr(self, field.name) for field in fields(self)}
        return " ".join(
            f"{field.name}={asked[field.name]}" for field in fields(self) if asked[field.name] != field.default
        )

    @property
    def kind(self) -> str:
        if self.macs is not None:
            return "channels"
        return "one-shot" if self.rounds == 1 else "iterative"

    @property
    def task(self) -> dict[str, Any]:
        """The paper's schedule in shape (÷10 at one half and three quarters), momentum and decay; only shorter."""
        return {"epochs": self.epochs, **self.followed.task, **DATA[self.data]}

    @property
    def followed(self) -> Recipe:
        """What its recipe's name stands for."""
        return {**RECIPES, **TOGETHER}[self.recipe]


def quick() -> Iterator[Trial]:
    """Minutes: digits, two steps of the paper's in one round, one-shot at one ratio, and the recipes."""
    for seed, method in product(range(4), (*METHODS[:4], CONTROL)):
        yield Trial("zoo:resnet8", "digits", method, seed, epochs=4, prune_per_round=0.36)
    for seed, method in product(range(4), METHODS[:4]):
        yield Trial("zoo:resnet8", "digits", method, seed, epochs=4, density=1 / 9, rounds=1)
    for network, seed, name in product(("zoo:resnet8", "zoo:resnet20"), range(4), RECIPES):
        yield Trial(network, "digits", METHODS[0], seed, epochs=4, prune_per_round=0.36, recipe=name)


def compact() -> Iterator[Trial]:
    """An hour or two: Fashion-MNIST, two steps of the paper's in one round, resnet8 alone, seed by seed."""
    for seed in range(3):
        for method in (*METHODS[:4], CONTROL):
            yield Trial("zoo:resnet8", "fashion-mnist-14", method, seed, epochs=3, prune_per_round=0.36)


def whole() -> Iterator[Trial]:
    """Hours: Fashion-MNIST, every step of the paper's, one-shot at each ratio, and channels; seed by seed. A small
    MobileNetV2 on digits, two of the paper's steps in one: a training of it on Fashion-MNIST is ten times the ResNets'.
    Every recipe is tried on digits, in `quick`; here are `best` and parts of it.
    """
    for seed, method in product(range(4), (*METHODS[:4], CONTROL)):
        yield Trial("zoo:mobilenetv2", "digits", method, seed, epochs=4, prune_per_round=0.36)
    for seed, name in product(range(4), ("best", "cosine-2x", "lamp", "recalibrated", *TOGETHER)):
        yield Trial("zoo:mobilenetv2", "digits", METHODS[0], seed, epochs=4, prune_per_round=0.36, recipe=name)
    for seed, method in product(range(4), METHODS[1:4]):
        yield Trial("zoo:mobilenetv2", "digits", method, seed, epochs=4, prune_per_round=0.36, recipe="recalibrated")
    # An eighth of its MACs is 24 fewer than resnet8 has with every layer 8 wide.
    for network, seeds, macs in (("zoo:resnet8", 5, 0.13), ("zoo:resnet20", 3, 0.125)):
        for seed in range(seeds):
            for method in (*METHODS, CONTROL):
                yield Trial(network, "fashion-mnist-14", method, seed, epochs=3)
        for seed in range(3):
            for method, ratio in product(METHODS, ONE_SHOT):
                yield Trial(network, "fashion-mnist-14", method, seed, epochs=3, density=1 / ratio, rounds=1)
            for method in METHODS[:3]:
                yield Trial(network, "fashion-mnist-14", method, seed, 3, density=None, macs=macs, rounds=3)
        for seed, name in product(range(seeds), ("best", "cosine-2x")):
            yield Trial(network, "fashion-mnist-14", METHODS[0], seed, epochs=3, recipe=name)
    for network, seed, name in product(("zoo:resnet8", "zoo:resnet20"), range(4), TOGETHER):
        yield Trial(network, "digits", METHODS[0], seed, epochs=4, prune_per_round=0.36, recipe=name)
    for seed, name in product(range(5), ("augment-half", "cosine-2x-recalibrated")):
        yield Trial("zoo:resnet8", "fashion-mnist-14", METHODS[0], seed, epochs=3, recipe=name)
    for seed, ratio in product(range(3), ONE_SHOT[2:]):
        yield Trial("zoo:resnet8", "fashion-mnist-14", METHODS[0], seed, 3, 1 / ratio, rounds=1, recipe="gradual")
