"""What zeros save in LiteRT's files in a browser: wall time of LiteRT.js in this machine's headless Chromium.

    python -m studies.packing.litert_browser [MODEL@PIXELS ...] > studies/packing/litert_browser.md

The files of `litert.py`, all shares of one network timed in turns in one run, as `dwindle bench --device browser` times
a pair (`dwindle doctor --setup browser`); a page has no clock of its thread's CPU time, so that the ratio is of each
round's least wall times. *Off fp32*: how far the page's outputs are from the network's in PyTorch.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from dwindle.bench.devices.browser import Browser
from dwindle.bench.measure import Surroundings, measure
from dwindle.bench.process import Worker
from dwindle.bench.reference import apart, outputs
from dwindle.bench.stats import milliseconds, noise, paired_ratio
from studies.packing.litert import PRUNED, files

NETWORKS = ("mobilenet_v2@224", "mobilenet_v3_small@224", "efficientnet_b0@160")


def main() -> None:
    torch.set_num_threads(1)
    command = " ".join(["python -m studies.packing.litert_browser", *sys.argv[1:]])
    print(f"# LiteRT: wall time in Chromium\n\n    {command}\n\nSee `litert_browser.py`.\n")
    print(
        "| network | pruned | least wall, ms | / dense | 95% | off fp32 | machine |\n|---|---:|---:|---:|---:|---:|---|"
    )
    with Browser("browser") as browser:
        for entry in sys.argv[1:] or NETWORKS:
            name, size = entry.split("@")
            version, surroundings = rows(browser, name, int(size))
        print(
            f"\nlitert.js {version} in {browser.machine.system}, {browser.machine.cpu}, {browser.machine.cores} cores;"
        )
        print(f"load average {surroundings.load:.2f} as the last one ended.")


def rows(browser: Browser, name: str, size: int) -> tuple[str, Surroundings]:
    """Prints the rows of one network, the dense one first; what ran it, and beside what."""
    runtime = next(runtime for runtime in browser.runtimes() if runtime.target == "litert")
    with tempfile.TemporaryDirectory() as folder:
        starts, errors = {}, {}
        for pruned, path, shipped, example in files(name, size, Path(folder), PRUNED):
            sample = [tensor.numpy() for tensor in example]
            key, command = f"{pruned:.0%}", runtime.launch(path, 1).command
            starts[key] = partial(Worker, runtime.name, path, command=command)
            errors[key] = apart([shipped(*example).numpy()], outputs(starts[key], [sample]))
        samples, surroundings = measure(starts, sample, seed=0)
    dense = samples["0%"]
    for key, own in samples.items():
        ratio, (low, high) = paired_ratio(own, dense, seed=0)
        judged = noise(own, surroundings)
        print(
            f"| {name}, {size}² | {key} | {milliseconds(own)[0].min:.2f} | {ratio:.3f} | {low:.3f}–{high:.3f} "
            f"| {errors[key]:.0e} | {'quiet' if judged.quiet else '; '.join(judged.reasons)} |",
            flush=True,
        )
    return dense.loaded[0].version, surroundings


if __name__ == "__main__":
    main()
