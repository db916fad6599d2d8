"""Loads the ONNX file of each operator in the programs that read such files, old ones too, and compares the answers.

    make everything                           # the programs, each in a folder of its own
    python -m studies.operators.consumers     # minutes

Each network of `cases` is written with its weights packed, and plainly, as the two differ in who reads them. What a
program makes of a file is `right`, `wrong` (beyond 1e-3 of the largest value) or why it was refused. What manifests say
of a file (`dwindle.export.onnx.consumers`) rests on this. The table goes to consumers.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch

from dwindle.bench.devices import web
from dwindle.difference import difference
from dwindle.errors import DwindleError
from dwindle.export.answers import outputs_of
from dwindle.export.fold import deployable
from dwindle.export.onnx.target import Onnx
from studies.operators.cases import CASES

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "export" / "onnx"
CONSUMERS = ROOT / ".consumers"
CLOSE = 1e-3


class Program(NamedTuple):
    """A reader of ONNX files."""

    name: str
    """As the manifest calls it."""
    version: str
    command: Sequence[str | Path]
    """What runs all files of a folder that it is given."""


def programs() -> list[Program]:
    python, node = SCRIPTS / "consumer.py", ("node", SCRIPTS / "consumer.cjs")

    def old(name: str) -> tuple[str | Path, ...]:
        return (CONSUMERS / name / "bin" / "python", "-P", python, name.partition("-")[0])

    return [
        Program("onnxruntime", "1.15", old("onnxruntime-1.15")),
        Program("onnxruntime", "1.17", old("onnxruntime-1.17")),
        Program("onnxruntime", "1.20", old("onnxruntime-1.20")),
        Program("onnxruntime", "1.32", (sys.executable, "-P", python, "onnxruntime")),
        Program(
            "onnxruntime-web", "1.17", (*node, CONSUMERS / "onnxruntime-web-1.17/node_modules/onnxruntime-web/dist")
        ),
        Program("onnxruntime-web", web.PACKAGES[0].version, (*node, web.root() / "onnxruntime-web" / "dist")),
        Program("OpenCV", "4.10", old("opencv")),
        Program("onnx.reference", onnx.__version__, (sys.executable, "-P", python, "reference")),
    ]


def written(folder: Path, *, pack: bool) -> dict[str, np.ndarray]:
    """What each network of `cases` answers whose file is in `folder` now, by the name of the file."""
    expected = {}
    for index, (made, x) in enumerate(CASES.values()):
        torch.manual_seed(0)
        module, name = made().eval().requires_grad_(False), f"{index:03}"
        try:
            shipped = deployable(module, (x,))
            Onnx().write(shipped, (x,), folder / f"{name}.onnx", pack=pack)
        except DwindleError:
            continue  # refused, as results.md has it
        np.save(folder / f"{name}.npy", x.numpy())
        expected[name] = outputs_of(shipped, (x,))[0]
    return expected


def answers(program: Program, folder: Path, expected: Mapping[str, np.ndarray]) -> dict[str, str]:
    """What became of each file."""
    for path in (*folder.glob("*.out.npy"), *folder.glob("*.error")):
        path.unlink()
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([*program.command, folder], check=True, env=environment, stderr=subprocess.DEVNULL)
    found = {}
    for name, right in expected.items():
        if (error := folder / f"{name}.error").exists():
            found[name] = f"refused: {(error.read_text().splitlines() or [''])[0][:160]}"
            continue
        answer = np.load(folder / f"{name}.out.npy")
        same = answer.shape == right.shape and difference(answer.astype(right.dtype), right).relative <= CLOSE
        found[name] = "right" if same else "wrong"
    return found


def main() -> None:
    torch.set_num_threads(1)
    cases = dict(enumerate(CASES))
    lines = [
        "# Who reads the ONNX file of each operator",
        "",
        "Printed by `python -m studies.operators.consumers`.",
        "",
    ]
    lines += ["| | files | right |", "|---|---|---|"]
    said = []
    for kind, pack in (("packed", True), ("plain", False)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            expected = written(folder, pack=pack)
            for program in programs():
                found = answers(program, folder, expected)
                right = [name for name, what in found.items() if what == "right"]
                title = f"{program.name} {program.version}, {kind}"
                lines.append(f"| {title} | {len(found)} | {len(right)} |")
                for name in sorted(found.keys() - set(right)):
                    kinds = {node.op_type for node in onnx.load(folder / f"{name}.onnx").graph.node}
                    said.append(f"- {title}, {cases[int(name)]} ({', '.join(sorted(kinds))}): {found[name]}")
    text = "\n".join([*lines, "", "What is not right:", "", *said]) + "\n"
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
