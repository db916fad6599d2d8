"""Which recipes deserve trials of the product's own loop: many of them, fast, judged on validation alone.

    python -m studies.rewinding.explore            # minutes, on a machine with an NVIDIA GPU
    python -m studies.rewinding.explore --table    # only prints what there is

Option: `--processes N` (1; 15 under MPS on an H100). The grid's networks, data, rounds and epochs, with seeds that the
grid doesn't use. The loop is this file's own, all of it on the GPU, so that a recipe can be tried before the product
has it. Each run is a line in explored.jsonl, and isn't run again; those there were run by a draft of this file, on an
H100.
"""

from __future__ import annotations

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dwindle.compress.masks import prunable
from dwindle.compress.scores import lamp
from dwindle.models.augment import crop_and_flip
from dwindle.models.build import ModelSpec, build
from dwindle.models.recorded import Recorded
from dwindle.models.schedule import factor
from studies import journal
from studies.rewinding.data import fashion_mnist_14

HERE = Path(__file__).parent
RESULTS = HERE / "explored.jsonl"
BATCH, EPOCHS, PER_ROUND, SMALLEST = 128, 3, 0.36, 0.033
PRUNE_EVERY = 32
"""Steps between prunings of a gradual recipe."""


@dataclass(frozen=True)
class Tried:
    """A recipe; the defaults are the paper's."""

    lr: float = 0.1
    schedule: str = "step"
    warmup: float = 0.0
    nesterov: bool = False
    weight_decay: float = 2e-4
    label_smoothing: float = 0.0
    ema: float | None = None
    score: str = "magnitude"
    gradual: float = 0.0
    """The share of a retraining over which its weights go."""
    feedback: bool = False
    """While they go: pruned weights are trained on unseen, and may come back (Lin et al. 2020)."""


COSINE = Tried(lr=0.2, schedule="cosine", warmup=0.1)
MIXED = replace(COSINE, score="lamp", ema=0.99)
RAMPED = replace(MIXED, gradual=0.5)
FIRST = {
    "paper": Tried(),
    "cosine": COSINE,
    "lamp, averaged": MIXED,
    "gradual": RAMPED,
    "gradual over .8": replace(RAMPED, gradual=0.8),
    "gradual, feedback": replace(RAMPED, feedback=True),
    "gradual over .8, feedback": replace(RAMPED, gradual=0.8, feedback=True),
    "gradual, ema .95": replace(RAMPED, ema=0.95),
    "gradual, lr .4": replace(RAMPED, lr=0.4),
    "gradual, magnitude": replace(RAMPED, score="magnitude"),
    "gradual, fisher": replace(RAMPED, score="fisher"),
    "gradual, fisher, feedback": replace(RAMPED, score="fisher", feedback=True),
    "gradual, decay 5e-4": replace(RAMPED, weight_decay=5e-4),
    "gradual, smoothing .05": replace(RAMPED, label_smoothing=0.05),
    "gradual, nesterov": replace(RAMPED, nesterov=True),
}
FISHER = replace(COSINE, score="fisher")
SECOND = {
    "cosine": COSINE,
    "cosine, nesterov": replace(COSINE, nesterov=True),
    "fisher": FISHER,
    "fisher, nesterov": replace(FISHER, nesterov=True),
    "fisher, ema .95": replace(FISHER, ema=0.95),
    "fisher, lr .3": replace(FISHER, lr=0.3),
    "fisher, decay 1e-4": replace(FISHER, weight_decay=1e-4),
}
"""After the first had shown what not to go on with."""
PHASES = ((FIRST, (10, 11)), (SECOND, (12, 13)))
NETWORKS = ("zoo:resnet20", "zoo:resnet8")


class Run:
    """One network under one recipe."""

    def __init__(self, network: str, seed: int, recipe: Tried, device: torch.device) -> None:
        torch.manual_seed(seed)
        data = fashion_mnist_14()
        self.recipe, self.device = recipe, device
        self.train, self.validation = (
            (subset.images.to(device), subset.labels.to(device)) for subset in (data.train, data.validation)
        )
        self.mean, self.std = (moment.to(device)[:, None, None] for moment in (data.mean, data.std))
        self.model = build(ModelSpec(network, 10, (1, 14, 14))).to(device).to(memory_format=torch.channels_last)
        self.weights: list[Tensor] = list(prunable(self.model).values())
        self.masks = [torch.ones_like(weight) for weight in self.weights]
        self.unpruned = [weight.detach().clone() for weight in self.weights]
        """With feedback, the weights without their masks."""
        self.squares = [torch.zeros_like(weight) for weight in self.weights]
        """A running mean of squared gradients."""
        self.live = [tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point()]
        self.average = [tensor.clone() for tensor in self.live]
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.lr,
            momentum=0.9,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.step = Recorded(self._step, device, self.model) if device.type == "cuda" else self._step

    def __call__(self) -> list[tuple[float, float]]:
        """(density, validation accuracy) after every round, the dense one first."""
        density = 1.0
        history = [(density, self._round(density, density))]
        while density > SMALLEST:
            after = max(density * (1 - PER_ROUND), SMALLEST)
            history.append((after, self._round(density, after)))
            density = after
        return history

    def _round(self, before: float, after: float) -> float:
        per_epoch = len(self.train[0]) // BATCH
        total = EPOCHS * per_epoch
        ramp = round(self.recipe.gradual * total) if after < before else 0
        if after < before and not ramp:
            self._prune(after)
        with torch.no_grad():
            torch._foreach_copy_(self.unpruned, self.weights)
            torch._foreach_copy_(self.average, self.live)
        for step in range(total):
            if step % per_epoch == 0:
                order = torch.randperm(len(self.train[0]), device=self.device)
            batch = order[step % per_epoch * BATCH :][:BATCH]
            rate = self.recipe.lr * factor(self.recipe.schedule, (step + 0.5) / total, self.recipe.warmup)  # type: ignore[arg-type]
            self.step(batch, self.train[1][batch], rate)
            done = step + 1
            if done <= ramp and (done % PRUNE_EVERY == 0 or done == ramp):
                self._prune(after + (before - after) * (1 - done / ramp) ** 3, feedback=self.recipe.feedback)
            if self.recipe.ema:
                torch._foreach_lerp_(self.average, self.live, 1 - min(self.recipe.ema, (1 + done) / (10 + done)))
        if self.recipe.ema:
            with torch.no_grad():
                torch._foreach_copy_(self.live, self.average)
                torch._foreach_mul_(self.weights, self.masks)
        return self._judge()

    def _step(self, batch: Tensor, labels: Tensor, rate: float | Tensor) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images = self._images(batch)
        # A recorded step can't have casts of weights that were made before it.
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            logits = self.model(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            gradients = [weight.grad for weight in self.weights if weight.grad is not None]
            torch._foreach_lerp_(self.squares, torch._foreach_mul(gradients, gradients), 0.01)
            before = torch._foreach_mul(self.unpruned, self.masks)
            self.optimizer.step()
            if self.recipe.feedback:
                torch._foreach_add_(self.unpruned, torch._foreach_sub(self.weights, before))
                torch._foreach_copy_(self.weights, torch._foreach_mul(self.unpruned, self.masks))
            else:
                torch._foreach_mul_(self.weights, self.masks)
        return loss.detach()

    def _images(self, batch: Tensor) -> Tensor:
        """Images of training by their numbers, as a network sees them."""
        images = (crop_and_flip(self.train[0][batch], pad=1, flip=True).float() - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def _prune(self, density: float, *, feedback: bool = False) -> None:
        weights = self.unpruned if feedback else [weight.detach() for weight in self.weights]
        named = {str(i): weight for i, weight in enumerate(weights)}
        scores = {
            "magnitude": lambda: [weight.abs() for weight in weights],
            "lamp": lambda: list(lamp(named).values()),
            "fisher": lambda: [w.square() * square for w, square in zip(weights, self.squares, strict=True)],
        }[self.recipe.score]()
        if not feedback:  # what is gone stays gone
            scores = [score * mask + (mask - 1) for score, mask in zip(scores, self.masks, strict=True)]
        flat = torch.cat([score.double().reshape(-1) for score in scores])
        least = flat.topk(max(1, round(density * flat.numel()))).values[-1]
        for score, mask, weight, own in zip(scores, self.masks, self.weights, weights, strict=True):
            mask.copy_(score >= least)
            weight.copy_(own * mask)

    @torch.no_grad()
    def _judge(self) -> float:
        self.model.eval()
        correct = 0
        for images, labels in zip(*(part.split(3000) for part in self.validation), strict=True):
            correct += int((self.model((images.float() - self.mean) / self.std).argmax(1) == labels).sum())
        self.model.train()
        return 100 * correct / len(self.validation[1])


def run(network: str, seed: int, name: str, recipe: Tried) -> dict[str, Any]:
    """A row of explored.jsonl."""
    torch.set_num_threads(1)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    history = Run(network, seed, recipe, device)()
    return {"network": network, "seed": seed, "name": name, **asdict(recipe), "history": history}


def table(rows: list[dict[str, Any]], recipes: dict[str, Tried], seeds: tuple[int, ...]) -> str:
    """Points of validation accuracy ahead of the phase's first recipe, by network: means over seeds."""
    before, *_ = recipes
    mine = [row for row in rows if row["seed"] in seeds]
    ratios = [f"{1 / density:.1f}×" for density, _ in mine[0]["history"]]
    lines = [
        f"## Ahead of {before}, validation, seeds {' and '.join(map(str, seeds))}",
        "",
        f"| network | recipe | {' | '.join(ratios)} |",
        "|---|---|" + "---:|" * len(ratios),
    ]
    for network, name in product(NETWORKS, list(recipes)[1:]):
        found = {(row["seed"], row["name"]): row["history"] for row in mine if row["network"] == network}
        cells = [
            f"{statistics.mean(found[seed, name][i][1] - found[seed, before][i][1] for seed in seeds):+.2f}"
            for i in range(len(ratios))
        ]
        lines.append(f"| {network} | {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    rows = journal.read(RESULTS)
    known = {(row["network"], row["seed"], row["name"]) for row in rows}
    todo = [
        (network, seed, name, recipe)
        for recipes, seeds in PHASES
        for seed, network, (name, recipe) in product(seeds, NETWORKS, recipes.items())
        if (network, seed, name) not in known and not options.table
    ]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, *arguments) for arguments in todo]):
            rows.append(done.result())
            journal.add(RESULTS, rows[-1])
            print(f"{len(rows)}: {rows[-1]['network']} {rows[-1]['seed']} {rows[-1]['name']}", flush=True)
    text = "\n".join(table(rows, recipes, seeds) for recipes, seeds in PHASES)
    (HERE / "explored.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
