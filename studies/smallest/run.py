"""The smallest file that stays within a point of the dense network: dwindle beside what else there is.

    python -m studies.smallest.run             # resumes; an hour or so a seed on one core
    python -m studies.smallest.run --table     # only prints the table of what there is

One network is trained once, and every way starts from it. What retrains does so in trainings of one length, and may
take as many as dwindle took on that target. Each way has its settings swept, and of the files within a point of the
dense network on validation, judged through the file, the smallest counts; its test accuracy is only reported.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress
from dwindle.export.exporter import export
from dwindle.export.target import load
from dwindle.files import deflated_bytes, raw_bytes
from dwindle.models.build import ModelSpec, build
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task
from studies import journal
from studies.smallest.others import OTHERS, Found, Start, judged
from studies.smallest.table import table

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
NETWORK, POINTS = "zoo:resnet8", 1.0
TASK = {"data": "studies.rewinding.data:fashion_mnist_14", "crop": 1}
COSINE = {"schedule": "cosine", "warmup": 0.1}
DENSE_EPOCHS, EPOCHS = 12, 3
TARGETS = ("onnx", "coreml", "executorch")
SEEDS = (0, 1, 2)


def dense(seed: int, folder: Path) -> Start:
    task = make_task({**TASK, **COSINE, "epochs": DENSE_EPOCHS, "seed": seed}).given
    assert isinstance(task, ImageClassification)
    torch.manual_seed(seed)
    network = build(ModelSpec(NETWORK, task.classes, task.splits.shape))
    task.fit(network, start=0.0, on_step=lambda _: None)
    save_file(network.state_dict(), folder / "dense.safetensors")
    return Start(task, network.eval(), folder / "dense.safetensors", seed, EPOCHS)


@cache
def compressed(start: Start, counted: str) -> Checkpoint:
    """`dwindle compress --schedule cosine --warmup 0.1 --lr 0.2 --max-drop 1 --precision int8`: augmented as the others
    are, and not recalibrated, where `--recipe best` now does otherwise.

    Core ML packs zeros as ONNX does, so that one network serves both.
    """
    task = {**TASK, **COSINE, "lr": 0.2, "epochs": start.epochs}
    request = Request(
        NETWORK,
        task,
        seed=start.seed,
        weights=str(start.weights),
        max_drop=POINTS,
        target=counted,
        precision="int8",
    )
    return compress(request, start.weights.parent / f"{counted}.dwindle")


def ours(start: Start, target: str) -> Found:
    """`dwindle export --precision int8` of it."""
    done = compressed(start, "executorch" if target == "executorch" else "onnx")
    export(done, [target], precision="int8")
    held = load(target, "int8")
    path = done.exports / target / f"net{held.suffix}"
    rounds = len(done.history) - 1
    return Found(raw_bytes(path), deflated_bytes(path), *judged(held, path, start.task), f"{rounds} rounds", rounds)


def run(seed: int, known: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = dense(seed, folder)
        reference = {split: start.task.evaluate(start.network, split) for split in ("validation", "test")}
        floor = reference["validation"] - POINTS
        for target in TARGETS:
            rounds = (known.get((target, "dwindle", seed)) or {"found": {"rounds": 16}})["found"]["rounds"]
            for way in ("dwindle", *OTHERS[target]):
                if (target, way, seed) in known:
                    continue
                place = folder / f"{target} {way}"
                place.mkdir()
                if way == "dwindle":
                    found: Found | None = ours(start, target)
                    rounds = found.rounds if found else rounds
                else:
                    found = OTHERS[target][way](start, place, floor=floor, rounds=rounds)
                row = {"target": target, "way": way, "seed": seed, "network": NETWORK, "dense": reference}
                row |= {"found": asdict(found) if found else None}
                print(row, flush=True)
                journal.add(RESULTS, row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = journal.read(RESULTS)
    known = {(row["target"], row["way"], row["seed"]): row for row in rows}
    for seed in SEEDS if not options.table else ():
        run(seed, known)
    if RESULTS.exists():
        text = table(journal.read(RESULTS))
        (HERE / "results.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
