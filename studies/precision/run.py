"""What fewer bits cost, rounded once or trained through, each file judged by its own runtime.

    python -m studies.precision.run                      # resumes; all that is not there yet
    python -m studies.precision.run --only zoo:resnet8 --seeds 0 --precisions int8 w8a8
    python -m studies.precision.run --table              # only writes the table of what there is

The dense networks are those of `studies.calibrate` (Fashion-MNIST at 14x14, five epochs), not pruned. *QAT* retrains
for the last fifth of the schedule, all of it through the rounding; *retrained* does the same without, as a comparison.
w8a8 is calibrated on 256 samples of the training split. Palettes are the same values on Core ML. Accuracy is that of
the test split; no choice was made on it. `studies.precision.cost` measures what a step through the rounding costs.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dwindle.compress.qat import Rounding
from dwindle.export.shipping import as_file
from dwindle.export.targets import load
from studies import journal
from studies.calibrate.networks import dense, task
from studies.calibrate.run import samples

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
NETWORKS = ("zoo:resnet8", "zoo:resnet20", "zoo:mobilenetv2")
FILES = (
    ("onnx", "int8"),
    ("onnx", "w8a8"),
    ("litert", "w8a8"),
    ("executorch", "w8a8"),
    ("onnx", "palette4"),
    ("onnx", "palette3"),
    ("onnx", "palette2"),
    ("onnx", "palette1"),
    ("coreml", "w8a8"),
)
TRAININGS = ("none", "retrained", "qat")
CALIBRATED, START = 256, 0.8
KEYS = ("network", "seed", "target", "precision", "training")


@cache
def trained(name: str, seed: int, training: str, precision: str) -> nn.Module:
    """A dense network after the last fifth of the schedule, in one of TRAININGS; precision: what QAT rounds to."""
    its = task(seed)
    network = copy.deepcopy(dense(name, seed, its))
    if training == "none":
        return network
    rounding = Rounding(network, its.example_inputs(), load("onnx", precision)) if training == "qat" else None

    def on_step(_: float) -> None:
        if rounding:
            rounding.absorb()
            rounding.round()

    if rounding:
        rounding.round()
    its.fit(network, start=START, on_step=on_step)
    if rounding:
        rounding.close()
    return network.eval()


def row(name: str, seed: int, target: str, precision: str, training: str) -> dict[str, Any]:
    its = task(seed)
    network = trained(name, seed, training, precision if training == "qat" else "")
    real, example = tuple(tensor[:CALIBRATED] for tensor in samples(its, seed)), its.example_inputs()
    written = load(target, precision).calibrated(real)
    file = as_file(written, network, example)
    return {
        **dict(zip(KEYS, (name, seed, target, precision, training), strict=True)),
        "dense": its.evaluate(dense(name, seed, its), "test"),
        "float": its.evaluate(network, "test"),
        "test": its.evaluate(file, "test"),
        "bytes": written.packer(network, example)(network),
    }


def cases() -> list[tuple[str, str, str]]:
    """Target, precision and training; what all runtimes have in common is trained once, for ONNX."""
    every = [(*file, training) for training in TRAININGS for file in FILES]
    return [case for case in every if case[2] == "none" or case[0] == "onnx"]


INTRODUCTION = """# Fewer bits

Test accuracy of each file, by its own runtime (int8 and palettes, whose weights alone are rounded, in PyTorch), and
points against the dense network; means over the seeds, with their extremes. *QAT* and *retrained* train alike for one
epoch more, with and without the rounding. Fashion-MNIST at 14x14. Printed by `python -m studies.precision.run`.
"""


def table(rows: list[dict[str, Any]]) -> str:
    """A line per network and file, a column per training."""
    lines = [
        INTRODUCTION,
        "| network | file | KB | once | retrained, then once | QAT | seeds |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(found["network"] for found in rows):
        for target, precision in FILES:
            mine = [
                one for one in rows if (one["network"], one["target"], one["precision"]) == (name, target, precision)
            ]
            if mine:
                cells = [_cell([one for one in mine if one["training"] == training]) for training in TRAININGS]
                seeds = len({one["seed"] for one in mine})
                what = f"{name.removeprefix('zoo:')} | {precision}, {target}"
                lines.append(f"| {what} | {_kilobytes(mine)} | {' | '.join(cells)} | {seeds} |")
    known = {(one["network"], one["seed"]): one["dense"] for one in rows}
    names = dict.fromkeys(name for name, _ in known)
    means = {name: statistics.mean(found for (other, _), found in known.items() if other == name) for name in names}
    whole = ", ".join(f"{name.removeprefix('zoo:')} {mean:.2f}" for name, mean in means.items())
    runs = [(one["network"], one["seed"]) for one in rows]
    lacking = [
        f"{name.removeprefix('zoo:')} seed {seed}"
        for name in NETWORKS
        for seed in range(3)
        if runs.count((name, seed)) < len(cases())
    ]
    missing = f" Not run yet, or in part: {', '.join(lacking)}." if lacking else ""
    return "\n".join(lines) + f"\n\nDense: {whole}.{missing}\n"


def _kilobytes(rows: list[dict[str, Any]]) -> str:
    """The largest of the files, where their bytes were counted."""
    counted = [one["bytes"] for one in rows if "bytes" in one]
    return f"{max(counted) / 1000:.1f}" if counted else ""


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    points = [one["test"] - one["dense"] for one in rows]
    spread = f", {min(points):+.2f} to {max(points):+.2f}" if len(points) > 1 else ""
    return f"{statistics.mean(one['test'] for one in rows):.2f} ({statistics.mean(points):+.2f}{spread})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", metavar="NETWORK", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--precisions", nargs="+", choices=list(dict.fromkeys(each for _, each in FILES)))
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {tuple(found[key] for key in KEYS) for found in journal.read(RESULTS)}
    wanted = [case for case in cases() if not options.precisions or case[1] in options.precisions]
    todo = [(name, seed, *case) for seed in options.seeds for name in options.only for case in wanted]
    for each in () if options.table else [one for one in todo if one not in done]:
        found = row(*each)
        journal.add(RESULTS, found)
        print(*each, f"{found['test'] - found['dense']:+.2f}", flush=True)
    (HERE / "results.md").write_text(table(journal.read(RESULTS)))


if __name__ == "__main__":
    main()
