"""What `pip install dwindle` alone takes, and how long its gate does.

`python -m studies.light.run > studies/light/light.md` makes an environment of its own with the pinned versions, and an
ONNX file of 90 MB of which half the weights are zero.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import venv
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

ROOT = Path(__file__).parents[2]
RUNS = 7


def main() -> None:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        venv.create(folder / "env", with_pip=True)
        python = folder / "env/bin/python"
        before = megabytes(folder / "env")
        began = time.perf_counter()
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", ROOT], check=True, stdout=sys.stderr
        )
        seconds = time.perf_counter() - began
        added = megabytes(folder / "env") - before
        print("# The light install\n")
        print(f"`pip install dwindle`: {seconds:.0f} s, {added:.0f} MB beside the {before:.0f} MB of pip.\n")
        largest = sorted((folder / "env/lib").glob("*/site-packages/*"), key=megabytes, reverse=True)[:6]
        print("Largest: " + ", ".join(f"{path.name} {megabytes(path):.1f} MB" for path in largest) + "\n")
        write(folder / "net.onnx")
        size = (folder / "net.onnx").stat().st_size
        gate: list[str | Path] = [folder / "env/bin/dwindle", "gate", folder / "net.onnx", "--max-size", "100MB"]
        for name, options in (("gate", []), ("gate --why", ["--why"])):
            times, cpu = zip(*(run([*gate, *options]) for _ in range(RUNS)), strict=True)
            print(
                f"- `{name}` of {size:,} bytes, median of {RUNS}: {statistics.median(times):.2f} s "
                f"({min(times):.2f}–{max(times):.2f}), of which {statistics.median(cpu):.2f} s on a CPU"
            )
        print(f"\nLoad of the machine's {os.cpu_count()} CPUs meanwhile: {os.getloadavg()[0]:.1f} processes.")


def run(command: list[str | Path]) -> tuple[float, float]:
    """Seconds on the wall, and of CPU."""
    began, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, cpu


def megabytes(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    return sum(file.stat().st_size for file in files) / 1e6


def write(path: Path) -> None:
    """Nine layers of 1,581 × 1,581 weights."""
    chance, sizes = np.random.default_rng(0), [1581] * 10
    nodes, weights = [], []
    for index, (given, made) in enumerate(pairwise(sizes)):
        weight = chance.standard_normal((given, made), np.float32) * (chance.random((given, made)) < 0.5)
        weights.append(onnx.numpy_helper.from_array(weight.astype(np.float32), f"layer{index}.weight"))
        nodes.append(onnx.helper.make_node("MatMul", [f"x{index}", f"layer{index}.weight"], [f"x{index + 1}"]))
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1, 1581]) for name in ("x0", "x9")]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)), path)


if __name__ == "__main__":
    main()
