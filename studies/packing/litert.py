"""What zeros save in LiteRT's files, and on ARM64 in instructions: whether XNNPACK's sparse kernels really run.

    python -m studies.packing.litert [MODEL@PIXELS ...] > studies/packing/litert.md

Networks of torchvision, untrained, all but the first of their convolutions and linear layers pruned by magnitude,
each layer to the same density; depthwise convolutions stay whole. On x86-64 with AVX those kernels are switched off, so
that nothing can be seen there: the instructions of one inference are counted by `dwindle bench --device arm64`'s
emulation (`dwindle doctor --setup arm64`), on a Cortex-A76 with one thread. *MACs*: multiply-accumulates executed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from studies.channels.networks import build

NETWORKS = ("mobilenet_v2@224", "mobilenet_v3_small@224", "efficientnet_b0@224", "resnet18@64")
PRUNED = (0.0, 0.7, 0.8, 0.9)


def main() -> None:
    torch.set_num_threads(1)
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "litert-torch", "ai-edge-litert"))
    print(f"# LiteRT: bytes, and instructions on ARM64\n\n    {_command()}\n\nSee `litert.py`. {versions}.\n")
    print(
        "| network | pruned | bytes | / dense | deflated | million instructions | / dense | MACs | off fp32 on ARM64 |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for entry in sys.argv[1:] or NETWORKS:
        name, size = entry.split("@")
        rows(name, int(size))


def rows(name: str, size: int) -> None:
    """Prints the rows of one network, the dense one first."""
    from dwindle.bench.devices import emulator
    from dwindle.files import deflated_bytes

    dense = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for pruned, path, shipped, example in files(name, size, Path(folder), PRUNED):
            cost = emulator.count(path, "litert", [tensor.numpy() for tensor in example])
            sizes = path.stat().st_size, deflated_bytes(path)
            instructions = cost.instructions["all"]
            if not pruned:
                dense = sizes[0], instructions
            expected = shipped(*example).numpy()
            error = abs(cost.outputs[0] - expected).max() / abs(expected).max()
            print(
                f"| {name}, {size}² | {pruned:.0%} | {sizes[0]:,} | {sizes[0] / dense[0]:.3f} | {sizes[1]:,} "
                f"| {instructions / 1e6:.1f} | {instructions / dense[1]:.3f} | {cost.macs / 1e6:.1f}M | {error:.0e} |",
                flush=True,
            )


def files(
    name: str, size: int, folder: Path, shares: Sequence[float]
) -> Iterator[tuple[float, Path, torch.nn.Module, tuple[torch.Tensor, ...]]]:
    """A network's LiteRT file at each share of zeros, packed where there are any: the share, the file, the network in
    it and an example of its inputs."""
    from dwindle.export.fold import fold, foldable
    from dwindle.export.litert.graph import convert, convert_as_is
    from dwindle.export.quantize import stored

    network, example = build(name, size)
    pairs = foldable(network, example)
    graph = convert(fold(network, pairs), example)
    for pruned in shares:
        prune(network, pruned)
        shipped = fold(network, pairs)
        own = graph if graph.complete else convert_as_is(shipped, example)
        path = folder / f"{pruned:g}.tflite"
        path.write_bytes(own.filled(stored(shipped, "fp32"), pack=pruned > 0)[0])
        yield pruned, path, shipped, example


def prune(network: torch.nn.Module, share: float) -> None:
    """Zeros that share of every weight but the first layer's and depthwise ones, in place; shares may only grow."""
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    with torch.no_grad():
        for layer in layers[1:]:
            if getattr(layer, "groups", 1) == 1 and share:
                threshold = layer.weight.abs().flatten().kthvalue(round(share * layer.weight.numel())).values
                layer.weight *= layer.weight.abs() > threshold


def _command() -> str:
    return " ".join(["python -m studies.packing.litert", *sys.argv[1:]])


if __name__ == "__main__":
    main()
