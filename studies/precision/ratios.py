"""How many times smaller a network gets in few bits and zeros, trained through both, and what it loses.

    python -m studies.precision.ratios                           # resumes; hours, within a case too
    python -m studies.precision.ratios --only resnet20 --seeds 0
    python -m studies.precision.ratios --table                   # only writes the table of what there is

Each network is trained, pruned by 80% a round and retrained with the learning rate rewound, in palettes of four bits
and through their rounding, until its ONNX file has a share of the bytes of the dense one. Beside it stands the dense
network as it was, and trained on for as many trainings as the rounds took, the best of them by validation.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dwindle.compress import Request, compress
from dwindle.compress.prepared import prepare
from dwindle.models.tasks import restore_task
from studies import journal
from studies.real.newcomer import trained_on

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "ratios.jsonl", Path("build/ratios")


@dataclass(frozen=True)
class Case:
    """A network, and how many times smaller it is to become than its dense file at a precision."""

    model: str
    data: str
    epochs: int
    times: float
    precision: str


CASES = {
    "resnet20": Case("zoo:resnet20", "studies.rewinding.data:fashion_mnist_14", 5, 30, "fp32"),
    "mobilenetv2": Case("zoo:mobilenetv2", "fashion-mnist", 2, 8, "fp16"),
}
INTRODUCTION = """Test accuracy on Fashion-MNIST, means over the seeds. *Dense, trained as long* is the dense network
trained on for as many trainings as the rounds took. Printed by `python -m studies.precision.ratios`.

"""


def run(name: str, seed: int) -> dict[str, Any]:
    case = CASES[name]
    options = {"data": case.data, "epochs": case.epochs, "seed": seed}
    ready = prepare(Request(case.model, options, density=0.5, target="onnx", precision=case.precision))
    whole = ready.solvers[-1].packed_bytes(ready.network.model)
    request = Request(
        case.model, options, size=int(whole / case.times), target="onnx", precision="palette4", recipe="best",
        qat=0.3, gradual=0.5, prune_per_round=0.8, seed=seed,
    )  # fmt: skip
    net = compress(request, WORK / f"{name}-{seed}.dwindle")
    longer = trained_on(net, WORK / f"{name}-{seed}-trained-on.pt")
    return {
        "network": name,
        "seed": seed,
        "dense_bytes": whole,
        "bytes": net.history[-1].bytes,
        "density": net.history[-1].density,
        "rounds": len(net.history) - 1,
        "test": net.metrics["test"],
        "dense": net.metrics["dense_test"],
        "dense_trained_on": restore_task(net, trust=True).evaluate(longer, "test"),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each network."""
    lines = [
        "| network | dense file | KB | file | times smaller | density | rounds | test | against dense | against dense, "
        "trained as long | seeds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, case in CASES.items():
        if mine := [row for row in rows if row["network"] == name]:
            large, small = mine[0]["dense_bytes"], max(row["bytes"] for row in mine)
            lines.append(
                f"| {name} | {case.precision} | {large / 1000:.1f} | {small / 1000:.1f} | {large / small:.1f} | "
                f"{max(row['density'] for row in mine):.1%} | {max(row['rounds'] for row in mine)} | "
                f"{statistics.mean(row['test'] for row in mine):.2f} | {_points(mine, 'dense')} | "
                f"{_points(mine, 'dense_trained_on')} | {len(mine)} |"
            )
    return INTRODUCTION + "\n".join(lines) + "\n"


def _points(rows: list[dict[str, Any]], than: str) -> str:
    points = [row["test"] - row[than] for row in rows]
    spread = f", {min(points):+.2f} to {max(points):+.2f}" if len(points) > 1 else ""
    return f"{statistics.mean(points):+.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", metavar="NETWORK", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    WORK.mkdir(parents=True, exist_ok=True)
    known = {(row["network"], row["seed"]) for row in journal.read(RESULTS)}
    for name in () if options.table else options.only:
        for seed in options.seeds:
            if (name, seed) not in known:
                journal.add(RESULTS, run(name, seed))
    text = table(journal.read(RESULTS))
    (HERE / "ratios.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
