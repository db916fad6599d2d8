"""Whether ARM64 cost repeats, and whether it is of the network's work: instructions and FMLA against MACs.

    python studies/latency/cost.py

Each network is exported as `dwindle export` does and counted REPEATS times: another process each time, from another
folder, each with a longer name, beside whatever else the machine is doing. Its random weights are all there are, since
neither runtime looks at a dense file's values. A line is written as each is done; what is there is not done again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from dwindle.bench.devices import emulator
from dwindle.compress.macs import macs
from dwindle.export.fold import deployable
from dwindle.export.targets import load
from dwindle.models.build import ModelSpec, build

NETWORKS = (
    ("zoo:resnet8", (1, 8, 8)),
    ("zoo:resnet20", (3, 32, 32)),
    ("zoo:mobilenetv2", (3, 32, 32)),
    ("torchvision:mobilenet_v2", (3, 192, 192)),  # maps of 96² to 6²: XNNPACK's tiles of six pixels fit them all
    ("torchvision:mobilenet_v2", (3, 224, 224)),  # and 14² and 7² they don't
)
TARGETS = ("executorch", "onnx")
REPEATS = 2
RESULTS = Path(__file__).parent / "cost.jsonl"
HEADER = (
    "| network | file | instructions | spread | MACs by FMLA | over the layers' | over full tiles "
    "| apart from the host | s |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|"
)


def measure(spec: str, shape: tuple[int, ...], target: str) -> dict[str, Any]:
    """One network in one runtime."""
    torch.manual_seed(0)
    network = normalized(build(ModelSpec(spec, 10, shape)), shape)
    inputs = (torch.randn(1, *shape),)
    exporter = load(target)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"net{exporter.suffix}"
        exporter.write(deployable(network, inputs), inputs, path, pack=False)
        counts, began = [], time.monotonic()
        for repeat in range(REPEATS):
            folder = Path(name) / ("again" * repeat + "x")
            folder.mkdir()
            counts.append(emulator.count(Path(shutil.copy(path, folder)), target, [inputs[0].numpy()]))
        seconds = (time.monotonic() - began) / REPEATS
        (here,) = exporter.run(path, inputs)
    every = [count.instructions["all"] for count in counts]
    return {
        "network": spec,
        "shape": shape,
        "target": target,
        "runtime": counts[0].runtime,
        "emulator": f"{counts[0].emulator}, {counts[0].cpu}",
        "instructions": counts[0].instructions,
        "spread": (max(every) - min(every)) / min(every),
        "fmla_macs": counts[0].macs,
        "macs_spread": max(count.macs for count in counts) - min(count.macs for count in counts),
        "network_macs": sum(macs(network, inputs).values()),
        "relative": float(np.abs(counts[0].outputs[0] - here).max() / np.abs(here).max()),
        "seconds": seconds,
    }


def normalized(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Normalized by what it sees, or nothing of the input would reach an untrained network's outputs."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average
    with torch.no_grad():
        network.train()(torch.randn(8, *shape))
    return network.eval()


def full_tiles(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of XNNPACK's kernels for NEON (f32-gemm and f32-igemm, 6x8, 4x8 and 1x8), which work on so
    many pixels and channels at a time whether or not the map has them; depthwise ones waste nothing."""
    total = 0

    def add(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d | nn.Linear):
            pixels = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
            per_output = layer.weight[0].numel()
            grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
            tile, channels = (1, 1) if grouped else (6 if pixels > 4 else 4 if pixels > 1 else 1, 8)
            rounded = math.ceil(pixels / tile) * tile * math.ceil(len(layer.weight) / channels) * channels
            total += rounded * per_output

    hooks = [module.register_forward_hook(add) for module in network.modules()]
    with torch.no_grad():
        network.eval()(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return total


def row(found: dict[str, Any]) -> str:
    size = "×".join(map(str, found["shape"]))
    tiles = "–"
    if found["target"] == "executorch":
        shape = tuple(found["shape"])
        tiles = f"{found['fmla_macs'] / full_tiles(build(ModelSpec(found['network'], 10, shape)), shape):.4f}"
    return (
        f"| {found['network']} {size} | {found['runtime']} | {found['instructions']['all']:,} | {found['spread']:.1e} "
        f"| {found['fmla_macs']:,} | {found['fmla_macs'] / found['network_macs']:.4f} | {tiles} "
        f"| {found['relative']:.0e} | {found['seconds']:.0f} |"
    )


def main() -> None:
    torch.set_num_threads(1)
    done = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    print(HEADER)
    for spec, shape in NETWORKS:
        for target in TARGETS:
            wanted = (spec, list(shape), target)
            found = next((one for one in done if (one["network"], one["shape"], one["target"]) == wanted), None)
            if found is None:
                found = measure(spec, shape, target)
                with RESULTS.open("a") as file:
                    file.write(json.dumps(found) + "\n")
            print(row(found), flush=True)


if __name__ == "__main__":
    main()
