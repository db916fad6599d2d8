"""Core ML's four-bit files beside those that coremltools.optimize makes of the same network and mask.

    python -m studies.packing.beside_coremltools > studies/packing/beside_coremltools.md

MobileNetV2 and ResNet-18 as in `run.py`, 90% pruned, for iOS 18. Theirs: the converted network, `prune_weights` at the
mask it has, then `palettize_weights` (k-means, one palette per tensor) or `linear_quantize_weights` (symmetric int4, a
scale per channel or per 32 input channels) with `joint_compression`; it compresses tensors of over 2048 weights.
*SQNR* is that of all weights together, as read back from each file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from dwindle.export.coreml.read import weights
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable, short_names, tensors
from dwindle.export.quality import sqnr
from dwindle.files import deflated_bytes, raw_bytes
from dwindle.quiet import quiet
from studies.packing.run import INPUT, masked


def main() -> None:
    torch.set_num_threads(1)
    print("# Four bits in Core ML, beside coremltools.optimize\n")
    print("    python -m studies.packing.beside_coremltools > studies/packing/beside_coremltools.md\n")
    print(f"See `beside_coremltools.py`. coremltools {version('coremltools')}, torch {torch.__version__}.\n")
    print("| network | file | bytes | deflated | SQNR |\n|---|---|---:|---:|---:|")
    for name in ("mobilenet_v2", "resnet18"):
        network, _ = masked(name, 0.9)
        shipped = deployable(network, INPUT)
        with tempfile.TemporaryDirectory() as folder:
            for label, write in files(shipped).items():
                path = Path(folder, f"{label}.mlpackage")
                with quiet():
                    write(path)
                size = f"{raw_bytes(path):,} | {deflated_bytes(path):,}"
                print(f"| {name} | {label} | {size} | {decibels(path, shipped):.1f} |", flush=True)


def files(shipped: nn.Module) -> dict[str, Callable[[Path], Any]]:
    """What writes each file, by its name."""
    with quiet():
        import coremltools
        from coremltools.optimize import coreml as optimize

        program = torch.export.export(shipped, INPUT).run_decompositions({})
        model = coremltools.convert(program, minimum_deployment_target=coremltools.target.iOS18, skip_model_load=True)

        def each(config: Any) -> Any:
            return optimize.OptimizationConfig(global_config=config)

        # tensors with fewer zeros aren't pruned ones
        threshold = optimize.OpThresholdPrunerConfig(threshold=1e-12, minimum_sparsity_percentile=0.3)
        sparse = optimize.prune_weights(model, each(threshold))

    def palettized(path: Path) -> None:
        config = optimize.OpPalettizerConfig(mode="kmeans", nbits=4)
        optimize.palettize_weights(sparse, each(config), joint_compression=True).save(str(path))

    def quantized(**granularity: Any) -> Callable[[Path], None]:
        config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int4", **granularity)
        return lambda path: optimize.linear_quantize_weights(sparse, each(config), joint_compression=True).save(
            str(path)
        )

    def ours(precision: str) -> Callable[[Path], Any]:
        return lambda path: CoreML(precision).write(shipped, INPUT, path, pack=True)

    return {
        "dwindle palette4": ours("palette4"),
        "coremltools palette": palettized,
        "dwindle int4": ours("int4"),
        "coremltools int4, a scale per channel": quantized(granularity="per_channel"),
        "coremltools int4, blocks of 32": quantized(granularity="per_block", block_size=32),
    }


def decibels(path: Path, shipped: nn.Module) -> float:
    """Of all weights of convolutions and linear layers, as our reader finds them in a file."""
    held, short = weights(path), short_names(shipped)
    exact, found = [], []
    for name, tensor in tensors(shipped).items():
        if tensor.dim() > 1:
            theirs = f"p_{name.replace('.', '_')}_to_fp16"
            (own,) = [array for key, array in held.items() if key == short[name] or key.startswith(theirs)]
            exact.append(tensor.numpy().reshape(-1))
            found.append(own.reshape(-1))
    ratio = sqnr(np.concatenate(exact), np.concatenate(found))
    assert ratio is not None
    return ratio


if __name__ == "__main__":
    main()
