"""For how much of a training should samples be augmented?

    python -m studies.rewinding.explore_augmentation            # three quarters of an hour on one core; resumes
    python -m studies.rewinding.explore_augmentation --table    # only prints what there is

Cosine from twice the rate, recalibrated, by the product's loop, judged on validation, with seeds that the grid doesn't
use: where trainings are short, and where they are so long, of so few images, that a network may learn them by heart.
Each run is a line in explored_augmentation.jsonl, and isn't run again; most of those there were run by a draft of this
file.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dwindle.compress import Request, compress
from studies import journal
from studies.rewinding.grid import DATA, DOUBLE, SMALLEST

HERE = Path(__file__).parent
RESULTS = HERE / "explored_augmentation.jsonl"
SHARES = (1.0, 0.5, 0.25, 0.0)
FEW = "few-of-fashion-mnist-14"
SOURCES = {**DATA, FEW: {"data": "studies.rewinding.data:few_of_fashion_mnist_14", "crop": 1}}


class Setting(NamedTuple):
    """What is trained how long; how fast it shrinks; from which seeds."""

    network: str
    data: str
    epochs: int
    per_round: float
    seeds: tuple[int, ...]


SETTINGS = (
    Setting("zoo:resnet8", "fashion-mnist-14", 3, 0.36, (30,)),
    Setting("zoo:resnet8", FEW, 27, 0.5, (30,)),
    Setting("zoo:resnet8", "digits", 4, 0.36, (30, 31)),
    Setting("zoo:resnet20", "digits", 4, 0.36, (30, 31)),
    Setting("zoo:resnet8", "digits", 60, 0.36, (30, 31)),
)


def run(setting: Setting, seed: int, share: float) -> dict[str, Any]:
    """A row: density and validation accuracy after every round."""
    task = {**SOURCES[setting.data], "epochs": setting.epochs, **DOUBLE, "augment": share}
    request = Request(
        setting.network,
        task,
        density=SMALLEST,
        granularity="unstructured",
        prune_per_round=setting.per_round,
        recalibrate=True,
        seed=seed,
        rehearsal=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        done = compress(request, Path(folder) / "net.dwindle")
    history = [(record.density, record.validation) for record in done.history]
    return {**_key(setting, seed, share), "history": history}


def table(setting: Setting, rows: list[dict[str, Any]]) -> str:
    """Validation accuracy under each share, mean over seeds."""

    def mine(share: float) -> list[dict[str, Any]]:
        return [row for row in rows if _key(setting, row["seed"], share).items() <= row.items()]

    own = {share: found for share in SHARES if (found := mine(share))}
    ratios = [f"{1 / density:.1f}×" for density, _ in own[SHARES[0]][0]["history"]]
    lines = [
        f"## {setting.network} on {setting.data}, {setting.epochs} epochs, {setting.per_round:.0%} a round",
        "",
        f"| augmented for | seeds | {' | '.join(ratios)} |",
        "|---|---:|" + "---:|" * len(ratios),
    ]
    for share, found in own.items():
        means = [statistics.mean(row["history"][index][1] for row in found) for index in range(len(ratios))]
        lines.append(f"| {share:.0%} | {len(found)} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    return "\n".join([*lines, ""])


def _key(setting: Setting, seed: int, share: float) -> dict[str, Any]:
    return {"network": setting.network, "data": setting.data, "epochs": setting.epochs, "seed": seed, "augment": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = journal.read(RESULTS)
    for setting, share in product(SETTINGS, SHARES):
        for seed in setting.seeds:
            if options.table or any(_key(setting, seed, share).items() <= row.items() for row in rows):
                continue
            rows.append(run(setting, seed, share))
            journal.add(RESULTS, rows[-1])
            print(_key(setting, seed, share), flush=True)
    text = "\n".join(table(setting, rows) for setting in SETTINGS)
    (HERE / "explored_augmentation.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
