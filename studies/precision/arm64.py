"""ARM64 instructions of files that compute in int8, over those of the float file in the same runtime.

    python -m studies.precision.arm64                            # resumes; after `dwindle doctor --setup arm64`
    python -m studies.precision.arm64 --only zoo:resnet20
    python -m studies.precision.arm64 --table                    # only writes the table of what there is

What `dwindle bench --device arm64` counts, of one inference on an emulated Cortex-A76. Weights are random and batch
norm is that of noise, since no kernel's instructions depend on a dense file's values; w8a8 is calibrated on noise too.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dwindle.bench.devices import emulator
from studies import journal
from studies.precision.int8_files import FILES, written

HERE = Path(__file__).parent
RESULTS = HERE / "arm64.jsonl"
NETWORKS = {
    "zoo:resnet20": (3, 32, 32),
    "zoo:mobilenetv2": (3, 32, 32),
    "torchvision:mobilenet_v3_small": (3, 96, 96),
}
GOAL = 0.45
KEYS = ("network", "target", "precision")
INTRODUCTION = f"""# ARM64 instructions of files in int8

Instructions of one inference on an emulated Cortex-A76, in millions, over those of the same runtime's float file (the
goal is {GOAL} at most), and how far the outputs there are from those of the same file on this machine. ExecuTorch's
int8 has int8 weights and rounds what layers read when they run. Core ML files are not counted: nothing but Apple's
systems runs them. Printed by `python -m studies.precision.arm64`.

| network | file | runtime | instructions, M | of float | apart from the host |
|---|---|---|---:|---:|---:|
"""


def row(name: str, target: str, precision: str) -> dict[str, Any]:
    shape = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        made, path, x = written(name, shape, target, precision, Path(folder))
        counted = emulator.count(path, target, [x.numpy()])
        (here,) = made.run(path, (x,))
    return {
        **dict(zip(KEYS, (name, target, precision), strict=True)),
        "shape": shape,
        "runtime": counted.runtime,
        "emulator": counted.emulator,
        "instructions": counted.instructions,
        "relative": float(np.abs(counted.outputs[0] - here).max() / np.abs(here).max()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line per file, with its instructions over those of the first of its target and network."""
    every = {tuple(one[key] for key in KEYS): one for one in rows}
    lines = []
    for (name, target, precision), one in every.items():
        count, size = one["instructions"]["all"], "×".join(map(str, one["shape"]))
        dense = every.get((name, target, FILES[target][0]))
        ratio = f"{count / dense['instructions']['all']:.3f}" if dense else ""
        lines.append(
            f"| {name} {size} | {precision} | {one['runtime']} | {count / 1e6:.2f} | {ratio} | {one['relative']:.0e} |"
        )
    lacking = [name for name in NETWORKS if not any(one["network"] == name for one in rows)]
    missing = f"\nNot counted yet: {', '.join(lacking)}.\n" if lacking else ""
    return INTRODUCTION + "\n".join(lines) + "\n" + missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", metavar="NETWORK", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {tuple(found[key] for key in KEYS) for found in journal.read(RESULTS)}
    todo = [(name, target, one) for name in options.only for target, files in FILES.items() for one in files]
    for each in () if options.table else [one for one in todo if one not in done]:
        found = row(*each)
        journal.add(RESULTS, found)
        print(*each, f"{found['instructions']['all']:,}", flush=True)
    (HERE / "arm64.md").write_text(table(journal.read(RESULTS)))


if __name__ == "__main__":
    main()
