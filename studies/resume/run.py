"""Kills training at random moments, and compares what the same command makes of it with an undisturbed run.

    python studies/resume/run.py [KILLS]        # 20; about a quarter of an hour on one core

Each trial starts `dwindle compress`, sends SIGKILL after a random share of the time that the undisturbed run took, and
repeats the command, which goes on from what was saved; one that was done by then doesn't count as a kill. Every tensor
of the finished checkpoint must be bit-equal to the undisturbed run's. The runs take turns: weights, channels, weight
rewinding, averaged weights. Results go to results.jsonl beside this file, the summary first.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

HERE = Path(__file__).parent
RUNS = {
    "lr-rewind, weights": "--density 0.4 --rounds 3",
    "lr-rewind, channels": "--macs 50% --rounds 3",
    "weight-rewind, weights": "--density 0.4 --rounds 3 --method weight-rewind",
    "lr-rewind, averaged weights": "--density 0.4 --rounds 3 --ema 0.9",
}
TASK = "zoo:resnet8 --data digits --epochs 4 --save-every 0.005 --no-rehearsal"
"""Saved every 0.3 seconds, so that most kills find a round half done."""


def command(options: str, out: Path) -> list[str]:
    return [sys.executable, "-m", "dwindle", "compress", *TASK.split(), *options.split(), "-o", str(out)]


def undisturbed(options: str, out: Path) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    subprocess.run(command(options, out), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def trial(options: str, out: Path, whole: Path, after: float) -> dict[str, object]:
    process = subprocess.Popen(command(options, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
    code = process.wait()
    found = sorted(folder.name for folder in out.glob("rounds/[0-9p]*"))
    again = subprocess.run(command(options, out), capture_output=True, text=True)
    files = ["weights.safetensors", "dense.safetensors"] + ["masks.safetensors"] * (
        whole / "masks.safetensors"
    ).exists()
    equal = again.returncode == 0 and all(same(out / name, whole / name) for name in files)
    return {"killed": code == -9, "after_s": round(after, 2), "saved_by_then": found, "bit_equal": equal}


def same(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def main() -> None:
    kills = int(sys.argv[1]) if sys.argv[1:] else 20
    random.seed(0)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        wholes = {name: Path(folder) / f"whole{i}.dwindle" for i, name in enumerate(RUNS)}
        seconds = {name: undisturbed(RUNS[name], whole) for name, whole in wholes.items()}
        while sum(bool(row["killed"]) for row in rows) < kills:
            name = list(RUNS)[len(rows) % len(RUNS)]
            after = random.uniform(0.2, 1.0) * seconds[name]  # it takes the first fifth to load torch
            row = {"run": name, **trial(RUNS[name], Path(folder) / f"{len(rows)}.dwindle", wholes[name], after)}
            rows.append(row)
            print(json.dumps(row), flush=True)
            seconds[name] = min(seconds[name], after if not row["killed"] else seconds[name])  # it was done by then
    killed = [row for row in rows if row["killed"]]
    summary = {
        "command": f"python studies/resume/run.py {kills}",
        "killed": len(killed),
        "killed_within_a_round": sum("partial" in row["saved_by_then"] for row in killed),
        "bit_equal": sum(bool(row["bit_equal"]) for row in rows),
        "of": len(rows),
    }
    print(json.dumps(summary))
    (HERE / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [summary, *rows]))


if __name__ == "__main__":
    main()
