"""Writes each of PyTorch's operators to each target and says what became of it.

    python -m studies.operators.run [TARGET …]      # about an hour on one core
    python -m studies.operators.run --table         # the table of what there is

TARGET: onnx, coreml, executorch, executorch-int8, executorch-w8a8 or litert; without any, all. A file is `right` where
parity passes and the file also answers an input that parity never saw; `wrong` where only parity passes; `unproven`
where nothing here can say what it computes; `refused` where a sentence names the operator, and `unnamed` where one
names none; `crashed` where native code ended the process. Each runs in a process of its own. Results go to
results.jsonl, from which the command goes on where it was stopped; delete a line to have it made again. The table goes
to results.md.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dwindle.difference import furthest
from dwindle.errors import DwindleError
from dwindle.export import targets
from dwindle.export.answers import outputs_of
from dwindle.export.first_off import named
from dwindle.export.fold import deployable
from dwindle.export.parity import UNPROVEN, compare
from dwindle.export.target import Target
from studies import journal
from studies.operators.cases import CASES

RESULTS = Path(__file__).with_name("results.jsonl")
TARGETS: dict[str, Callable[[], Target]] = {
    "onnx": lambda: targets.load("onnx"),
    "coreml": lambda: targets.load("coreml"),
    "executorch": lambda: targets.load("executorch"),
    "executorch-int8": lambda: targets.load("executorch", "int8"),
    "executorch-w8a8": lambda: targets.load("executorch", "w8a8"),
    "litert": lambda: targets.load("litert"),
}
OUTCOMES = ("right", "refused", "unproven", "wrong", "unnamed", "crashed")
_FAR = 10
"""An input that parity never saw may be off by this many tolerances: its outputs may be smaller."""


def outcome(name: str, case: str, folder: Path) -> dict[str, Any]:
    """What becomes of one operator in one target."""
    torch.manual_seed(0)
    made, x = CASES[case]
    module = made().eval().requires_grad_(False)
    given, unseen = (torch.cat([x, *_mixed(x, 3)]),), tuple(_mixed(x, 1, seed=1))
    example = (x,)
    shipped = deployable(module, example)
    target = TARGETS[name]().calibrated(given)
    path = folder / f"net{target.suffix}"
    try:
        target = target.holding(shipped, example, given)
        target.write(shipped, example, path, pack=True)
        parity = compare(target, path, module, shipped, given).parity
    except DwindleError as error:
        return _refused(named(error, target, shipped, example, given, pack=True), type(module).__name__)
    if parity.relative is None or parity.tolerance is None:
        return {"outcome": "unproven", "said": parity.not_run}
    try:
        found = target.run(path, unseen)
        expected = outputs_of(target.as_stored(shipped, activations=True), unseen)
        beyond = furthest(found, expected)
    except DwindleError as error:
        return _refused(error, type(module).__name__)
    kind = "right" if beyond <= _FAR * parity.tolerance else "wrong"
    return {"outcome": kind, "relative": float(f"{parity.relative:.2g}"), "unseen": float(f"{beyond:.2g}")}


def _refused(error: DwindleError, network: str) -> dict[str, Any]:
    tells = error.name not in (None, network) or " at " in str(error) or " in the operator" in str(error)
    kind = UNPROVEN if error.code == UNPROVEN else "refused" if tells else "unnamed"
    return {"outcome": kind, "code": error.code, "said": _said(error)}


def _said(error: BaseException) -> str:
    """Its message, cut short; paths into this machine's packages begin at the package."""
    return re.sub(r"/\S*?/site-packages/", "", str(error))[:400]


def _mixed(x: Tensor, count: int, seed: int = 0) -> list[Tensor]:
    """The same values in other places."""
    generator = torch.Generator().manual_seed(seed)
    return [x.flatten()[torch.randperm(x.numel(), generator=generator)].reshape(x.shape) for _ in range(count)]


def apart(name: str, case: str) -> dict[str, Any]:
    """`outcome`, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        if not (child := os.fork()):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            try:
                made = outcome(name, case, Path(folder))
            except BaseException as error:
                made = {"outcome": "unnamed", "code": type(error).__name__, "said": _said(error)}
            answer.write_text(json.dumps(made))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not answer.exists():
            return {"outcome": "crashed", "said": f"ended with {os.waitstatus_to_exitcode(status)}"}
        found: dict[str, Any] = json.loads(answer.read_text())
        return found


def _warm(name: str) -> None:
    """Imports what a target needs, once for all processes, by writing a network; nothing is run."""
    made, x = CASES["Linear"]
    target = TARGETS[name]().calibrated((x,))
    with tempfile.TemporaryDirectory() as folder:
        target.write(deployable(made().eval(), (x,)), (x,), Path(folder, f"net{target.suffix}"), pack=True)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: how many of each outcome, then every operator that is not right everywhere."""
    by = {(row["case"], row["target"]): row for row in rows}
    names = [name for name in TARGETS if any(row["target"] == name for row in rows)]
    counts = {name: Counter(row["outcome"] for row in rows if row["target"] == name) for name in names}
    lines = [
        "# What becomes of an operator of PyTorch in each target",
        "",
        "Printed by `python -m studies.operators.run`.",
    ]
    lines += ["", f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {kind} | {' | '.join(str(counts[name][kind]) for name in names)} |" for kind in OUTCOMES]
    lines += ["", f"| not right in all | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for case in CASES:
        cells = [by.get((case, name), {}).get("outcome", "–") for name in names]
        if set(cells) - {"right", "–"}:
            lines.append(f"| {case} | {' | '.join(cells)} |")
    if missing := len(CASES) * len(TARGETS) - len(by):
        lines.insert(3, f"{missing} of {len(CASES) * len(TARGETS)} were not made yet (–).")
    lines.append("\nWhat is said of those:\n")
    lines += [f"- {row['target']}, {row['case']}: {row['said']}" for row in rows if row["outcome"] != "right"]
    return "\n".join(lines) + "\n"


def main(wanted: Sequence[str]) -> None:
    torch.set_num_threads(1)
    done = {(row["case"], row["target"]) for row in journal.read(RESULTS)}
    for name in () if list(wanted) == ["--table"] else wanted or TARGETS:
        missing = [case for case in CASES if (case, name) not in done]
        if missing:
            _warm(name)
        for case in missing:
            journal.add(RESULTS, {"target": name, "case": case, **apart(name, case)})
    rows = [row for row in journal.read(RESULTS) if row["case"] in CASES]
    RESULTS.with_suffix(".md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
