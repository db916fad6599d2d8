"""What it takes to export a MobileNetV2 to ONNX, ExecuTorch and Core ML at once: time, and memory at its peak.

    python -m studies.packing.export_time [--repeats 5] [CHECKPOINT] > studies/packing/export_time.md

Without a checkpoint, the network is torchvision's for 224 pixels and 1000 classes with random weights, 90% of each
prunable one masked, and the images to compare files on are noise. `dwindle export` runs as a user runs it. Wall time is
the command's own, from its start to its end. CPU is user and system time of all its processes. Memory is the sum of the
proportional set sizes of the tree of processes, which counts what they share once, sampled ten times a second.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL

import numpy as np
import psutil
import torch
import torchvision
from PIL import Image

from dwindle import checkpoint as checkpoints
from dwindle.record import Round
from studies.packing.run import masked

TARGETS = "onnx,executorch,coreml"
IMAGES = 60
"""Of each of two classes."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("# Exporting MobileNetV2 to three formats\n")
    print("    python -m studies.packing.export_time > studies/packing/export_time.md\n")
    cores = len(os.sched_getaffinity(0))
    print(f"See `export_time.py` for what is measured. {cores} cores of {_processor()}, torch {torch.__version__}.\n")
    print("| run | wall | CPU | peak memory | load before |")
    print("|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.dwindle")
        if options.checkpoint:
            shutil.copytree(options.checkpoint, path)
        else:
            make(path, Path(folder, "images"))
        for run in range(1, options.repeats + 1):
            load = os.getloadavg()[0]
            wall, cpu, peak = export(path)
            print(f"| {run} | {wall:.1f} s | {cpu:.1f} s | {peak / 1e9:.2f} GB | {load:.1f} |", flush=True)


def make(path: Path, images: Path) -> None:
    """A finished checkpoint, and the images that its task is of."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("one", "other"):
            (images / split / name).mkdir(parents=True)
            for index in range(IMAGES):
                pixels = generator.integers(0, 256, (224, 224, 3), np.uint8)
                Image.fromarray(pixels).save(images / split / name / f"{index}.png")
    origin = {
        "model": {"spec": "torchvision:mobilenet_v2", "classes": 1000, "input_shape": [3, 224, 224]},
        "task": {"data": str(images), "image_size": 224},
    }
    network, _ = masked("mobilenet_v2", 0.9)
    dense = torchvision.models.get_model("mobilenet_v2", weights=None)
    history = (Round(0, 1.0, None, validation=0.0, loss=None, seconds=0.0),)
    done = replace(checkpoints.start(path, origin), done=True, history=history)
    checkpoints.finish(done, {"weights": network.state_dict(), "dense": dense.state_dict()}, {})


def export(checkpoint: Path) -> tuple[float, float, int]:
    """Seconds, CPU seconds and the largest number of bytes of one export."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, peak = time.perf_counter(), 0
    command = [sys.executable, "-m", "dwindle", "export", str(checkpoint), "--target", TARGETS]
    process = psutil.Popen(command, stdout=DEVNULL, stderr=DEVNULL)
    while process.poll() is None:
        peak = max(peak, sum(map(_memory, [process, *process.children(recursive=True)])))
        time.sleep(0.1)
    wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"the export ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # it has ended
        return 0


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


if __name__ == "__main__":
    main()
