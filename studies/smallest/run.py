"""The smallest file that stays within a point of the dense network: dwindle beside what else there is.

    python -m studies.smallest.run             # resumes; some hours a seed on one core
    python -m studies.smallest.run --seeds 0 --only "dwindle, 3 bits"
    python -m studies.smallest.run --table     # only prints the table of what there is

One network is trained once, and every way starts from it. What retrains does so in trainings of one length, and may
take as many as dwindle took on that target. Each way has its settings swept, and of the files within a point of the
dense network on validation, judged through the file, the smallest counts; its test accuracy is only reported. What is
trained is kept in `build/studies`, which git ignores: a run that is killed goes on there.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress
from dwindle.errors import BudgetMissed
from dwindle.export.exporter import export
from dwindle.export.targets import load
from dwindle.files import deflated_bytes, raw_bytes
from dwindle.models.build import ModelSpec, build
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task
from studies import journal
from studies.smallest.others import OTHERS, Found, Start, judged
from studies.smallest.table import table

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
KEPT = HERE.parents[1] / "build" / "studies" / "smallest"
NETWORK, POINTS = "zoo:resnet8", 1.0
TASK = {"data": "studies.rewinding.data:fashion_mnist_14", "crop": 1}
COSINE = {"schedule": "cosine", "warmup": 0.1}
DENSE_EPOCHS, EPOCHS = 12, 3
TARGETS = ("onnx", "coreml", "executorch")
SEEDS = (0, 1, 2)
_QAT = {"qat": 0.3, "recalibrate": True, "update": "least-squares"}
_THROUGH = {"max_drop": POINTS, **_QAT}
_FEWER = {"granularity": "channel+unstructured", "align": 1, "prune_per_round": 0.3}
_BOTH = {**_FEWER, **_THROUGH}
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "int8": {"target": "onnx", "precision": "int8", "max_drop": POINTS},
    "3 bits": {"target": "onnx", "precision": "palette3", **_THROUGH},
    "2 bits": {"target": "onnx", "precision": "palette2", **_THROUGH},
    "mixed bits": {"target": "onnx", "precision": "mixed", "size": "9KB", "qat": 0.3, "recalibrate": True},
    "fewer channels": {"target": "onnx", "precision": "int8", "max_drop": POINTS, "recalibrate": True, **_FEWER},
    "fewer channels, 4 bits": {"target": "onnx", "precision": "palette4", **_BOTH},
    "fewer channels, 3 bits": {"target": "onnx", "precision": "palette3", **_BOTH},
    "fewer channels, 2 bits": {"target": "onnx", "precision": "palette2", **_BOTH},
    "thinner, 3 bits": {"target": "onnx", "precision": "palette3", "macs": 0.4, "size": "7.5KB", **_FEWER, **_QAT},
    "channels": {"target": "executorch", "precision": "int8", "max_drop": POINTS},
    "channels trained through": {"target": "executorch", "precision": "int8", "align": 4, **_THROUGH},
}
"""What our networks are compressed by, beside the task. Core ML packs zeros as ONNX does, so that one serves both."""
_FEW = (
    "3 bits",
    "2 bits",
    "fewer channels",
    "fewer channels, 4 bits",
    "fewer channels, 3 bits",
    "fewer channels, 2 bits",
    "thinner, 3 bits",
)
OURS: Mapping[str, Mapping[str, str]] = {
    "onnx": {"dwindle": "int8", **{f"dwindle, {name}": name for name in (*_FEW, "mixed bits")}},
    "coreml": {"dwindle": "int8", **{f"dwindle, {name}": name for name in _FEW}},
    "executorch": {"dwindle": "channels", "dwindle, channels trained through": "channels trained through"},
}
"""Our ways by target, and which of NETWORKS each writes."""


def dense(seed: int, folder: Path) -> Start:
    task = make_task({**TASK, **COSINE, "epochs": DENSE_EPOCHS, "seed": seed}).given
    assert isinstance(task, ImageClassification)
    torch.manual_seed(seed)
    network = build(ModelSpec(NETWORK, task.classes, task.splits.shape))
    weights = folder / "dense.safetensors"
    if weights.exists():
        network.load_state_dict(load_file(weights))
    else:
        task.fit(network, start=0.0, on_step=lambda _: None)
        save_file(network.state_dict(), weights)
    return Start(task, network.eval(), weights, seed, EPOCHS)


def request(start: Start, name: str) -> Request:
    """`dwindle compress --schedule cosine --warmup 0.1 --lr 0.2` with the options of NETWORKS: augmented as the others
    are, where `--recipe best` now does otherwise."""
    task = {**TASK, **COSINE, "lr": 0.2, "epochs": start.epochs}
    return Request(NETWORK, task, seed=start.seed, weights=str(start.weights), **NETWORKS[name])


@cache
def compressed(start: Start, name: str) -> Checkpoint:
    return compress(request(start, name), start.weights.parent / f"{name}.dwindle")


def ours(start: Start, target: str, name: str) -> Found | None:
    """`dwindle export` of it, at the precision that it was compressed for; None where it misses its budget."""
    try:
        done = compressed(start, name)
    except BudgetMissed as missed:
        print(f"  {missed}", flush=True)
        return None
    precision = str(NETWORKS[name]["precision"])
    export(done, [target], precision=precision)
    held = load(target, precision)
    path = done.exports / target / f"net{held.suffix}"
    rounds = len(done.history) - 1
    return Found(raw_bytes(path), deflated_bytes(path), *judged(held, path, start.task), f"{rounds} rounds", rounds)


def run(seed: int, known: dict[tuple[str, str, int], dict[str, Any]], only: list[str]) -> None:
    """All ways of a seed that are not known yet; only: these, where it names any."""
    folder = KEPT / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    start = dense(seed, folder)
    reference = {split: start.task.evaluate(start.network, split) for split in ("validation", "test")}
    floor = reference["validation"] - POINTS
    for target in TARGETS:
        rounds = (known.get((target, "dwindle", seed)) or {"found": {"rounds": 16}})["found"]["rounds"]
        for way in (*OURS[target], *OTHERS[target]):
            if (target, way, seed) in known or (only and way not in only):
                continue
            place = folder / f"{target} {way}"
            place.mkdir(exist_ok=True)
            if way in OURS[target]:
                found = ours(start, target, OURS[target][way])
                found = found if found and found.validation >= floor else None
                rounds = found.rounds if found and way == "dwindle" else rounds
            else:
                found = OTHERS[target][way](start, place, floor=floor, rounds=rounds)
            row = {"target": target, "way": way, "seed": seed, "network": NETWORK, "dense": reference}
            row |= {"found": asdict(found) if found else None}
            print(row, flush=True)
            journal.add(RESULTS, row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--only", metavar="WAY", nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = journal.read(RESULTS)
    known = {(row["target"], row["way"], row["seed"]): row for row in rows}
    for seed in options.seeds if not options.table else ():
        run(seed, known, options.only)
    if RESULTS.exists():
        text = table(journal.read(RESULTS))
        (HERE / "results.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
