"""Distillation, batch norm recalibrated, adjacent rounds averaged: is any ahead of the cosine that `best` is?

    python -m studies.rewinding.explore_further            # half an hour a seed on one core; resumes
    python -m studies.rewinding.explore_further --table    # only prints what there is

resnet8 on the grid's data, four rounds to 3.3% of the weights, judged on validation, with seeds that the grid doesn't
use. Every way starts from the same dense network, trained for the grid's 3 epochs or for 12. *Recalibrated*: the
round's network with its batch norms' statistics taken anew (2,000 images of training; what is in the file took them in
batches of 64, before all went through at once). *Averaged*: the mean of it and of the round before it under its masks,
recalibrated. Neither of the two changes what is trained on.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.compress.masks import prunable
from dwindle.compress.recalibrate import recalibrate
from studies import journal
from studies.rewinding import explore
from studies.rewinding.explore import COSINE, Run

HERE = Path(__file__).parent
RESULTS = HERE / "explored_further.jsonl"
NETWORK, SEEDS = "zoo:resnet8", (20, 21, 22)
DENSITIES = (0.4, 0.16, 0.064, 0.033)
DENSE_EPOCHS = (12, 3)
IMAGES = 2000
FIGURES = ("validation", "recalibrated", "averaged")


@dataclass(frozen=True)
class Distilled:
    """How much of the loss is the teacher's (Hinton et al. 2015, eq. 2), and who teaches."""

    share: float = 0.0
    temperature: float = 4.0
    teacher: str = "dense"
    """`dense`, or `last`: the network of the round before, before it was pruned."""


WAYS = {
    "cosine": Distilled(),
    "dense teaches half": Distilled(0.5),
    "last round teaches half": Distilled(0.5, teacher="last"),
}


class Taught(Run):
    """A run whose retrainings may have a teacher. In float32, on whatever device it is given."""

    way, teacher = Distilled(), nn.Module()

    def _step(self, batch: Tensor, labels: Tensor, rate: float | Tensor) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images = self._images(batch)
        logits = self.model(images)
        loss = functional.cross_entropy(logits, labels)
        if self.way.share:
            with torch.no_grad():
                softened = functional.log_softmax(self.teacher(images) / self.way.temperature, 1)
            own = functional.log_softmax(logits / self.way.temperature, 1)
            distance = functional.kl_div(own, softened, log_target=True, reduction="batchmean")
            loss = (1 - self.way.share) * loss + self.way.share * self.way.temperature**2 * distance
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            self.optimizer.step()
            torch._foreach_mul_(self.weights, self.masks)
        return loss.detach()

    def rounds(self) -> list[dict[str, float]]:
        """Prunes and retrains down DENSITIES; each round's figures."""
        found, density = [], 1.0
        for after in DENSITIES:
            if self.way.teacher == "last":
                self.teacher = copy.deepcopy(self.model).eval().requires_grad_(False)
            before = copy.deepcopy(self.model.state_dict())
            figures = {"density": after, "validation": self._round(density, after)}
            figures["recalibrated"] = self._recalibrated(self.model)
            figures["averaged"] = self._recalibrated(self._averaged(before))
            found.append(figures)
            density = after
        return found

    @torch.no_grad()
    def _averaged(self, before: dict[str, Tensor]) -> nn.Module:
        model: nn.Module = copy.deepcopy(self.model)
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(before[name], 0.5)
        for weight, mask in zip(prunable(model).values(), self.masks, strict=True):
            weight.mul_(mask)
        return model

    def _recalibrated(self, model: nn.Module) -> float:
        model = copy.deepcopy(model)
        recalibrate(model, ((self.train[0][:IMAGES].float() - self.mean) / self.std,))
        own, self.model = self.model, model
        try:
            return self._judge()
        finally:
            self.model = own


def run(seed: int, epochs: int, known: set[tuple[int, int, str]]) -> Any:
    """The rows of one dense network that aren't known yet, one by one."""
    taught = Taught(NETWORK, seed, COSINE, torch.device("cpu"))
    explore.EPOCHS = epochs
    dense = taught._round(1.0, 1.0)
    explore.EPOCHS = 3
    start, momentum = copy.deepcopy(taught.model.state_dict()), copy.deepcopy(taught.optimizer.state_dict())
    teacher = copy.deepcopy(taught.model).eval().requires_grad_(False)
    for name, way in WAYS.items():
        if (seed, epochs, name) in known:
            continue
        taught.model.load_state_dict(start)
        taught.optimizer.load_state_dict(copy.deepcopy(momentum))
        for mask in taught.masks:
            mask.fill_(1)
        taught.way, taught.teacher = way, teacher
        torch.manual_seed(seed)  # so that every way sees the same batches
        yield {"seed": seed, "dense_epochs": epochs, "way": name, "dense": dense, "rounds": taught.rounds()}


def table(rows: list[dict[str, Any]]) -> str:
    """Points of validation accuracy: the cosine's, and how far each other is ahead of it, paired by seed."""
    found = {(row["dense_epochs"], row["way"], row["seed"]): row["rounds"] for row in rows}
    head = " | ".join(f"{1 / density:.1f}×" for density in DENSITIES)
    lines = [
        "Validation accuracy of resnet8, and how far ahead of the cosine's: mean over seeds (least to most).",
        "`python -m studies.rewinding.explore_further`; what each is: `explore_further.py`. Run on a CPU.",
        "",
        f"| dense epochs | seeds | way | {head} |",
        "|---:|---:|---|" + "---:|" * len(DENSITIES),
    ]

    def line(epochs: int, way: str, figure: str, title: str) -> None:
        seeds = [seed for seed in SEEDS if (epochs, way, seed) in found and (epochs, "cosine", seed) in found]
        if not seeds:
            return
        cells = []
        for index in range(len(DENSITIES)):
            base = [found[epochs, "cosine", seed][index]["validation"] for seed in seeds]
            own = [found[epochs, way, seed][index][figure] for seed in seeds]
            ahead = [mine - before for mine, before in zip(own, base, strict=True)]
            plain = (way, figure) == ("cosine", "validation")
            spread = f" ({min(ahead):+.2f} to {max(ahead):+.2f})" if len(seeds) > 1 else ""
            cells.append(f"{statistics.mean(base):.2f}" if plain else f"{statistics.mean(ahead):+.2f}{spread}")
        lines.append(f"| {epochs} | {len(seeds)} | {title} | {' | '.join(cells)} |")

    for epochs in DENSE_EPOCHS:
        line(epochs, "cosine", FIGURES[0], "cosine")
        for way in list(WAYS)[1:]:
            line(epochs, way, FIGURES[0], f"{way}, ahead")
        for figure in FIGURES[1:]:
            line(epochs, "cosine", figure, f"cosine {figure}, ahead")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = journal.read(RESULTS)
    known = {(row["seed"], row["dense_epochs"], row["way"]) for row in rows}
    for epochs, seed in product(DENSE_EPOCHS, SEEDS):
        if options.table or all((seed, epochs, way) in known for way in WAYS):
            continue
        for row in run(seed, epochs, known):
            rows.append(row)
            journal.add(RESULTS, row)
            print(f"{row['seed']} {row['dense_epochs']} {row['way']}: {row['dense']:.2f}", row["rounds"], flush=True)
    (HERE / "explored_further.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
