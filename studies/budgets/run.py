"""Random byte budgets, solved and then written: is each met, and how much of it is left unused?

    python studies/budgets/run.py [BUDGETS]     # 20

Networks with random weights, pruned in one step to a random share of the bytes that their dense file takes: the budget
solver is the same at any moment of a training. The file is then written by the target, and its real bytes are counted.
`--granularity auto` chooses: single weights where the target packs zeros, channels for ExecuTorch, of any width
(`align` 1) in one half of the draws and in multiples of 8 in the other. Results go to results.jsonl, the table to
standard output.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from dwindle.compress import Request
from dwindle.compress.prepared import prepare
from dwindle.export import targets
from dwindle.export.fold import deployable
from dwindle.files import raw_bytes

HERE = Path(__file__).parent
MODELS = ("zoo:resnet20", "zoo:mobilenetv2", "zoo:resnet56")
TARGETS = ("onnx", "coreml", "executorch")


def solve(model: str, target: str, share: float, align: int) -> dict[str, object]:
    """One budget: what it asked for, and what the file written for it takes."""
    ready = prepare(Request(model, {"data": "digits"}, density=0.5, target=target))
    dense = ready.solvers[0].packed_bytes(ready.network.model)
    budget = round(share * dense)
    ready = prepare(Request(model, {"data": "digits"}, size=budget, target=target, align=align))
    solver, network = ready.solvers[0], ready.network
    with torch.no_grad():
        for parameter in network.model.parameters():  # training leaves no two alike, and a .pte stores equal ones once
            parameter.add_(1e-3 * torch.randn_like(parameter))
    solver.granularity.shrink(network, solver.largest_share(network))
    inputs, format_ = ready.task.example_inputs(), targets.load(target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"net{format_.suffix}"
        format_.write(deployable(network.model.eval(), inputs), inputs, path, pack=True)
        size = raw_bytes(path)
    return {
        "model": model,
        "target": target,
        "granularity": solver.granularity.kind,
        "align": align if solver.granularity.kind == "channel" else None,
        "dense": dense,
        "budget": budget,
        "bytes": size,
        "met": size <= budget,
        "slack": 1 - size / budget,
    }


def main() -> None:
    count = int(sys.argv[1]) if sys.argv[1:] else 20
    torch.set_num_threads(1)
    random.seed(0)
    rows: list[dict[str, Any]] = []
    for index in range(count):
        pair = MODELS[index % 3], TARGETS[(index // 3) % 3]
        rows.append(solve(*pair, random.uniform(0.1, 0.8), align=(1, 8)[index // 9 % 2]))
        print(json.dumps(rows[-1]), flush=True)
    summary: dict[str, Any] = {
        "command": f"python studies/budgets/run.py {count}",
        "met": sum(bool(row["met"]) for row in rows),
        "of": len(rows),
        "mean_slack": statistics.mean(row["slack"] for row in rows),
    }
    for name, chosen in {
        "single weights": [row for row in rows if row["granularity"] != "channel"],
        "channels of any width": [row for row in rows if row["align"] == 1],
        "channels in multiples of 8": [row for row in rows if row["align"] == 8],
    }.items():
        summary[f"mean_slack, {name}"] = statistics.mean(row["slack"] for row in chosen) if chosen else None
    print(json.dumps(summary, indent=1))
    (HERE / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [summary, *rows]))


if __name__ == "__main__":
    main()
