"""Learning-rate rewinding against what it is compared with, by the product's own loop.

    python -m studies.rewinding.run --quick      # minutes, on digits
    python -m studies.rewinding.run              # hours, on Fashion-MNIST; resumes trial by trial
    python -m studies.rewinding.run --table      # only prints the tables of what there is

Options: `--processes N` (1). Every finished trial is a line in results.jsonl, with what made it; a trial whose line is
there is not run again. The network is judged on validation and on test after every round. Nothing is chosen by either,
so that both are honest; the tables are of the test split.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dwindle.compress import Request, compress
from dwindle.models.build import ModelSpec, build
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task
from dwindle.task import Split
from studies.rewinding.grid import CONTROL, Trial, quick, whole
from studies.rewinding.table import tables

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
MODEL, TASK = "studies.rewinding.run:network", "studies.rewinding.run:task"


class Judged(ImageClassification):
    """Looks at the test split whenever the loop looks at validation."""

    tests: list[float]

    def evaluate(self, model: nn.Module, split: Split) -> float:
        if split == "validation":
            self.tests.append(super().evaluate(model, "test"))
        return super().evaluate(model, split)


MADE: list[Judged] = []
"""The task of the trial that this process runs: the loop makes it by name."""


def task(
    data: str, epochs: int, schedule: str, crop: int, seed: int, flip: bool = True, batch_size: int = 128
) -> Judged:
    plain = make_task(
        {
            "data": data,
            "epochs": epochs,
            "schedule": schedule,
            "crop": crop,
            "flip": flip,
            "batch_size": batch_size,
            "seed": seed,
        }
    )
    assert isinstance(plain, ImageClassification)
    made = Judged(plain.spec, plain.splits)
    made.tests = []
    MADE[:] = [made]
    return made


def run(trial: Trial) -> dict[str, Any]:
    """A trial's row: after every round, its density, and validation and test accuracy."""
    torch.set_num_threads(1)
    rounds = list(_control(trial) if trial.method == CONTROL else _compressed(trial))
    return {"key": trial.key, **asdict(trial), "kind": trial.kind, "history": rounds, "torch": torch.__version__}


def _compressed(trial: Trial) -> Iterator[dict[str, float]]:
    request = Request(
        trial.network,
        {"task": TASK, **trial.task},
        density=trial.density,
        granularity="unstructured",
        method=trial.method,
        prune_per_round=trial.prune_per_round,
        rounds=trial.rounds,
        seed=trial.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        done = compress(request, Path(folder) / "net.dwindle")
    for record, test in zip(done.history, MADE[0].tests, strict=True):
        yield {"density": record.density, "validation": record.validation, "test": test}


def _control(trial: Trial) -> Iterator[dict[str, float]]:
    own = task(**trial.task, seed=trial.seed)
    torch.manual_seed(trial.seed)
    model = build(ModelSpec(trial.network, own.classes, own.splits.shape))
    density = 1.0
    while density > trial.density:
        own.fit(model, start=0.0, on_step=lambda _: None)
        yield {"density": density, "validation": own.evaluate(model, "validation"), "test": own.tests[-1]}
        density *= 1 - trial.prune_per_round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    known = {row["key"] for row in rows}
    trials = [trial for trial in (quick() if options.quick else whole()) if trial.key not in known]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(run, trial) for trial in trials if not options.table]
        for done in as_completed(running):
            rows.append(done.result())
            with RESULTS.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(f"{len(rows) - len(known)} of {len(trials)}: {rows[-1]['key']}", flush=True)
    text = tables(rows)
    (HERE / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
