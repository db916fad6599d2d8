"""Whether bench says the same twice: the ratio of a half-width network to the full one, again and again.

    python -m studies.latency.repeats [--repeats 20] [--image 96]

Half of the repeats have a neighbour: a busy loop, which leaves every core but one for what is measured. A line is
written as each repeat is done, and what is there is not done again. A repeat during which something else worked, be it
another machine on the same CPU, isn't kept: it says so and stops (`--anyway` goes on, for trying the script out).

The true ratio is nobody's to know. What stands in for it is the median of the quiet repeats' ratios, for a quiet
repeat of the other quiet ones, so that none is held against itself.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import torch

from dwindle.bench.machine import this_machine
from dwindle.bench.measure import measure
from dwindle.bench.process import Worker
from dwindle.bench.runtimes.runtime import load
from dwindle.bench.stats import BETWEEN_RUNS, milliseconds, noise, paired_ratio
from dwindle.export import targets
from dwindle.export.fold import deployable
from studies import journal

ABOUT = """The ratio of a half-width MobileNetV2 to the full one, 96 pixels, again and again, and how often its 95%
interval holds the truth. `python -m studies.latency.repeats` says what counts as that; a neighbour is a busy loop.
An interval of one run alone is without the 2% that runs differ by (`BETWEEN_RUNS` in `bench/stats.py`), which twenty
earlier repeats had shown, most of them quiet. Of these all were marked noisy, and figures that are a gate passes over.
"""
RUNTIMES = ("onnxruntime", "executorch")
FULL, HALF = 1.0, 0.5
RESULTS = Path(__file__).parent / "repeats.jsonl"
IDLE = 0.15
"""Cores' worth of others' work up to which a machine counts as idle."""
PATIENCE = 120.0
"""Seconds that it may take to become so."""


def settled() -> None:
    """Waits until what ran before has left the load average, which bench judges by."""
    deadline = time.monotonic() + PATIENCE
    while os.getloadavg()[0] > (os.cpu_count() or 1) / 2 and time.monotonic() < deadline:
        time.sleep(2)


@contextmanager
def others_work() -> Iterator[list[float]]:
    """Cores' worth of what neither this process nor its children did meanwhile, other machines on this CPU among it.

    The list has it once the block is done. Children count when they have been waited for.
    """

    def busy() -> float:
        now = psutil.cpu_times()
        return float(sum(now) - now.idle - now.iowait)

    def own() -> float:
        return float(sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

    found: list[float] = []
    began, before = time.monotonic(), busy() - own()
    yield found
    found.append((busy() - own() - before) / (time.monotonic() - began))


BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6): pass
"""
"""Ends with who started it, however that ends."""


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many busy loops meanwhile."""
    loops = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def exported(folder: Path, runtime: str, image: int) -> dict[float, Path]:
    """MobileNetV2 at both widths as that runtime takes it; speed doesn't depend on the values of weights."""
    from torchvision.models import mobilenet_v2

    exporter, inputs = targets.load(load(runtime).target), (torch.randn(1, 3, image, image),)
    paths = {}
    for width in (FULL, HALF):
        torch.manual_seed(0)
        paths[width] = folder / f"{runtime}-{width}{exporter.suffix}"
        exporter.write(deployable(mobilenet_v2(width_mult=width).eval(), inputs), inputs, paths[width], pack=False)
    return paths


def repeated(runtime: str, paths: dict[float, Path], image: int, repeat: int) -> dict[str, Any]:
    """One measurement of both, as bench makes it."""
    sample = [np.random.default_rng(0).standard_normal((1, 3, image, image)).astype(np.float32)]
    command = {path: load(runtime).launch(path, 1).command for path in paths.values()}
    starts = {str(width): partial(Worker, runtime, path, 1, command=command[path]) for width, path in paths.items()}
    samples, surroundings = measure(starts, sample, seed=repeat)
    full, half = (samples[str(width)] for width in (FULL, HALF))
    ratio, interval = paired_ratio(half, full, seed=repeat)
    judged = [noise(each, surroundings) for each in (full, half)]
    return {
        "ratio": ratio,
        "ci95": interval,
        "ms": [milliseconds(each)[0].cpu_median for each in (full, half)],
        "version": full.loaded[0].version,
        "quiet": all(one.quiet for one in judged),
        "reasons": list(dict.fromkeys(reason for one in judged for reason in one.reasons)),
    }


def truth(lines: Sequence[dict[str, Any]], of: dict[str, Any]) -> float:
    """What `of` should have found, as the other repeats without neighbours have it."""
    ratios = [line["ratio"] for line in lines if not line["neighbours"] and line is not of]
    return float(statistics.median(ratios) if ratios else of["ratio"])


def of_one_run(line: dict[str, Any]) -> tuple[float, float]:
    """Its interval as it would be without what runs differ by."""
    ratio = line["ratio"]
    low, high = (math.sqrt(max(0, (ratio - end) ** 2 - (BETWEEN_RUNS * ratio) ** 2)) for end in line["ci95"])
    return ratio - low, ratio + high


def table(lines: list[dict[str, Any]]) -> list[str]:
    """What it comes to, a row per runtime and kind of repeat."""
    rows = [
        "| runtime | neighbours | repeats | marked noisy | ratios | within its interval | of one run alone | full, ms "
        "| half, ms |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for runtime in dict.fromkeys(line["runtime"] for line in lines):
        own = [line for line in lines if line["runtime"] == runtime]
        for count in dict.fromkeys(line["neighbours"] for line in own):
            some = [line for line in own if line["neighbours"] == count]
            hits, alone = (
                sum(low <= truth(own, line) <= high for line in some for low, high in [bounds(line)])
                for bounds in (lambda line: line["ci95"], of_one_run)
            )
            ratios, full, half = (
                f"{min(values):.4f}–{max(values):.4f}"
                for values in zip(*((line["ratio"], *line["ms"]) for line in some), strict=True)
            )
            rows.append(
                f"| {runtime} {some[0]['version']} | {count} | {len(some)} | {sum(not line['quiet'] for line in some)} "
                f"| {ratios} | {hits} of {len(some)} | {alone} of {len(some)} | {full} | {half} |"
            )
    return rows


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--repeats", type=int, default=20)
    options.add_argument("--image", type=int, default=96)
    options.add_argument("--anyway", action="store_true", help="on a machine that is not idle too")
    options.add_argument("--results", type=Path, default=RESULTS)
    given = options.parse_args()
    torch.set_num_threads(1)
    lines = journal.read(given.results)
    done = {(line["runtime"], line["repeat"]) for line in lines}
    with tempfile.TemporaryDirectory() as folder:
        for runtime in RUNTIMES:
            wanted = [repeat for repeat in range(given.repeats) if (runtime, repeat) not in done]
            wanted.sort(key=lambda repeat: repeat % 2)  # a neighbour stays in the load average for minutes
            paths = exported(Path(folder), runtime, given.image) if wanted else {}
            for repeat in wanted:
                count = repeat % 2
                if not count and not given.anyway:
                    settled()
                with others_work() as others, neighbours(count):
                    found = repeated(runtime, paths, given.image, repeat)
                if others[0] > IDLE and not given.anyway:
                    sys.exit(f"something else took {others[0]:.2f} cores: run this again when the machine is idle")
                machine = this_machine()
                about = {"runtime": runtime, "repeat": repeat, "neighbours": count, "image": given.image}
                lines.append(
                    {**about, **found, "others": round(others[0], 3), "cpu": machine.cpu, "cores": machine.cores}
                )
                journal.add(given.results, lines[-1])
                print(f"{runtime} {repeat}: {found['ratio']:.4f} {found['ci95']}", file=sys.stderr, flush=True)
    text = "\n".join([ABOUT, *table(lines), ""])
    given.results.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
