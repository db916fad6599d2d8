"""Kills training at random moments, and compares what the same command makes of it with an undisturbed run.

    python -m studies.resume.run                          # 20 kills of each kind; it goes on where it was stopped
    python -m studies.resume.run --only photographs       # of one kind: about 15 minutes of CPU
    python -m studies.resume.run --kills 2 --quick        # whether it runs at all; no figures
    python -m studies.resume.run --table                  # only writes the table of what there is

Each trial starts a run, waits for its first save, sends SIGKILL after a random share of the time that the undisturbed
run took from there, and repeats the command, which goes on from what was saved; one that was done by then doesn't count
as a kill. Every tensor of the finished checkpoint must be bit-equal to the undisturbed run's. The kinds: small images,
by weights, channels, weight rewinding and averaged weights in turn; photographs that two workers decode and augment;
examples/lightning_module.py; examples/hf_trainer.py. Rows go to results.jsonl beside this file, the table to
results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from studies import journal

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
COMPRESS = [sys.executable, "-m", "dwindle", "compress"]
SAVED = ["--no-rehearsal", "--save-every", "0.005"]
"""Saved every 0.3 seconds, so that most kills find a round half done."""
DIGITS = "zoo:resnet8 --data digits --epochs 4 --rounds 3"
RUNS: dict[str, dict[str, str]] = {
    "small images": {
        "lr-rewind, weights": f"{DIGITS} --density 0.4",
        "lr-rewind, channels": f"{DIGITS} --macs 50%",
        "weight-rewind, weights": f"{DIGITS} --density 0.4 --method weight-rewind",
        "lr-rewind, averaged weights": f"{DIGITS} --density 0.4 --ema 0.9",
    },
    "photographs": {"photographs, two workers": ""},
    "lightning": {
        "LightningTask": "examples.lightning_module:net --task examples.lightning_module:task --density 0.4 --rounds 1"
    },
    "trainer": {"TrainerTask": "examples.hf_trainer:net --task examples.hf_trainer:task --density 0.4 --rounds 1"},
}
"""By kind, the runs that take turns, and the words after `dwindle compress` of each."""


def command(options: str, out: Path) -> list[str]:
    """A run, as its process is started; that of photographs says how many workers decode, which is no option."""
    if not options:
        return [sys.executable, "-m", "studies.resume.photographs", str(out)]
    return [*COMPRESS, *options.split(), *SAVED, "-o", str(out)]


def undisturbed(options: str, out: Path) -> float:
    """Seconds that it took from its first save on."""
    process = subprocess.Popen(command(options, out), stdout=subprocess.DEVNULL)
    wait_for_save(process, out)
    began = time.monotonic()
    if code := process.wait():
        raise subprocess.CalledProcessError(code, process.args)
    return time.monotonic() - began


def wait_for_save(process: subprocess.Popen[bytes], out: Path) -> None:
    """Returns once a run has saved anything, or has ended."""
    while process.poll() is None and not saved(out):
        time.sleep(0.02)


def saved(out: Path) -> list[str]:
    """The rounds that a run has saved, and `partial` where one is begun."""
    return sorted(folder.name for folder in out.glob("rounds/[0-9p]*"))


def trial(options: str, out: Path, whole: Path, after: float) -> dict[str, object]:
    """What became of a run that is killed, with all that it started, so many seconds after its first save; where it is
    not bit-equal, also the exit code of the run that went on, and the last line that it said."""
    process = subprocess.Popen(
        command(options, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for_save(process, out)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    found = saved(out)
    again = subprocess.run(command(options, out), capture_output=True, text=True)
    files = ["weights.safetensors", "dense.safetensors"] + ["masks.safetensors"] * (
        whole / "masks.safetensors"
    ).exists()
    equal = again.returncode == 0 and all(same(out / name, whole / name) for name in files)
    row = {"killed": code == -signal.SIGKILL, "after_s": round(after, 2), "saved_by_then": found, "bit_equal": equal}
    if not equal:
        row |= {"code": again.returncode, "said": (again.stderr.strip().splitlines() or [""])[-1]}
    return row


def same(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def go_on(kind: str, kills: int, results: Path) -> None:
    """Makes the trials of a kind that its rows in `results` lack for so many kills."""
    runs = RUNS[kind]
    rows = [row for row in journal.read(results) if row["run"] in runs]
    if sum(bool(row["killed"]) for row in rows) >= kills:
        return
    with tempfile.TemporaryDirectory() as folder:
        wholes = {name: Path(folder) / f"whole{i}.dwindle" for i, name in enumerate(runs)}
        seconds = {name: undisturbed(runs[name], whole) for name, whole in wholes.items()}
        while sum(bool(row["killed"]) for row in rows) < kills:
            name = list(runs)[len(rows) % len(runs)]
            share = random.Random(f"{kind} {len(rows)}").random()
            found = trial(runs[name], Path(folder) / f"{len(rows)}.dwindle", wholes[name], share * seconds[name])
            rows.append({"run": name, **found})
            journal.add(results, rows[-1])
            print(json.dumps(rows[-1]), flush=True)
            if not found["killed"]:
                seconds[name] *= share  # it was done by then


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each run that was killed at all."""
    lines = ["| run | killed | of these within a round | bit-equal afterwards |", "|---|---:|---:|---:|"]
    for name in (name for runs in RUNS.values() for name in runs):
        killed = [row for row in rows if row["run"] == name and row["killed"]]
        within = sum("partial" in row["saved_by_then"] for row in killed)
        equal = sum(bool(row["bit_equal"]) for row in killed)
        lines += [f"| {name} | {len(killed)} | {within} | {equal} |"] if killed else []
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="keep no rows")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results.jsonl" if given.quick else RESULTS
        for kind in given.only if not given.table else ():
            go_on(kind, given.kills, results)
        print(table(journal.read(results)))
    if not given.quick:
        head = "# Runs that were killed\n\nEach was killed at a random moment, and the same command given again.\n\n"
        (HERE / "results.md").write_text(head + table(journal.read(RESULTS)) + "\n")


if __name__ == "__main__":
    main()
