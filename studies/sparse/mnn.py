"""What zeros save in MNN's files, and on ARM64 in instructions, by the shape of the blocks that are pruned.

    python -m studies.sparse.mnn [MODEL@PIXELS ...] > studies/sparse/mnn.md

Networks of torchvision, untrained, all but the first of their convolutions and linear layers pruned by magnitude, each
layer to the same density, in blocks of neighbouring output channels; depthwise convolutions stay whole. The
instructions of one inference are counted by the emulation of `dwindle bench --device arm64` (`dwindle doctor --setup
arm64`), on a Cortex-A76 with one thread, against the same runtime on the dense file. The last column compares the
outputs there with PyTorch's here.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from studies.channels.networks import build

NETWORKS = ("mobilenet_v2@224", "resnet18@224")
PATTERNS = (
    (0.0, 1, "fp32"), (0.9, 1, "fp32"), (0.9, 2, "fp32"), (0.9, 4, "fp32"), (0.9, 8, "fp32"), (0.9, 16, "fp32"),
    (0.8, 4, "fp32"), (0.7, 1, "fp32"), (0.7, 4, "fp32"), (0.9, 4, "int8"),
)  # fmt: skip
"""The share of zeros, the output channels that are pruned together, and what weights are stored in."""


def main() -> None:
    torch.set_num_threads(1)
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "MNN"))
    command = f"python -m studies.sparse.mnn {' '.join(sys.argv[1:])}".strip()
    print(f"# MNN: bytes, and instructions on ARM64\n\n    {command}\n\nSee `mnn.py`. {versions}.\n")
    print("| network | pruned | blocks | weights | bytes | / dense | million instructions | / dense | off PyTorch |")
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|")
    for entry in sys.argv[1:] or NETWORKS:
        name, size = entry.split("@")
        rows(name, int(size))


def rows(name: str, size: int) -> None:
    """Prints the rows of one network, the dense one first."""
    from dwindle.bench.devices import emulator
    from dwindle.export.architecture import one_model
    from dwindle.export.fold import fold, foldable
    from dwindle.export.mnn.target import MNN

    dense = 0, 0
    with tempfile.TemporaryDirectory() as folder, one_model():
        path = Path(folder, "net.mnn")
        for share, block, precision in PATTERNS:
            network, example = build(name, size)
            prune(network, share, block)
            target, shipped = MNN(precision), fold(network, foldable(network, example))
            target.write(shipped, example, path, pack=True)
            cost = emulator.count(path, "mnn", [tensor.numpy() for tensor in example])
            found = path.stat().st_size, cost.instructions["all"]
            dense = dense if share else found
            expected = target.as_stored(shipped, activations=False)(*example).detach().numpy()
            error = abs(cost.outputs[0] - expected).max() / abs(expected).max()
            print(
                f"| {name}, {size}² | {share:.0%} | {block}×1 | {precision} | {found[0]:,} | {found[0] / dense[0]:.3f} "
                f"| {found[1] / 1e6:.1f} | {found[1] / dense[1]:.3f} | {error:.0e} |",
                flush=True,
            )


def prune(network: nn.Module, share: float, block: int) -> None:
    """Zeros the blocks of least magnitude in every layer but the first, in place."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers[1:]:
        if share and not (isinstance(layer, nn.Conv2d) and layer.groups > 1) and len(layer.weight) % block == 0:
            rows = layer.weight.data.view(len(layer.weight) // block, block, -1)
            size = rows.abs().mean(1, keepdim=True)
            rows.mul_(size > size.flatten().kthvalue(round(share * size.numel())).values)


if __name__ == "__main__":
    main()
