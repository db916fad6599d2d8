"""How near packed files come to what information theory allows, and what unpacking costs.

    python studies/packing/run.py > studies/packing/results.md

MobileNetV2 and ResNet-18 (224², untrained: normal weights), all but the first of their convolutions and linear
layers pruned by magnitude, each layer to the same density; depthwise convolutions stay whole. *Bound*: for each
tensor the entropy of its mask at its density, and its survivors at the bits they are stored in; graph, scales and
headers, scales and palettes are not in it. Below fp16 *bound, rest fp16* counts what isn't pruned (depthwise
convolutions, the stem, biases) at two bytes a weight. *SQNR* is that of all weights together, in decibels.

Session creation and latency are ratios to the dense fp32 ONNX file's, of the least CPU time of the thread over
interleaved repetitions, one thread, onnxruntime.

ExecuTorch packs no zeros: its w8a8 file, at 90%, is compressed as a whole, as it would be for download.
`python studies/packing/run.py executorch` prints that table alone.
"""

from __future__ import annotations

import lzma
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchvision
import zstandard
from torch import nn

from dwindle.export import targets
from dwindle.export.executorch.target import ExecuTorch
from dwindle.export.fold import deployable, tensors
from dwindle.export.quality import sqnr
from dwindle.export.quantize import stored
from dwindle.files import deflated_bytes, raw_bytes

INPUT = (torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)),)
CREATIONS, INFERENCES = 25, 20


def main() -> None:
    torch.set_num_threads(1)
    if "executorch" in sys.argv[1:]:
        compressed()
        return
    print("# Packing: bytes against the entropy bound\n")
    print("    python studies/packing/run.py > studies/packing/results.md\n")
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}"
    print(f"See `run.py` for what is measured. {versions}.\n")
    print(
        "| network | pruned | file | encoding | bytes | smaller than dense fp32 ONNX | / bound | / bound, rest fp16 "
        "| deflated / bound | SQNR | session creation | latency |"
    )
    print("|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("mobilenet_v2", "resnet18"):
            for pruned in (0.8, 0.9):
                rows(name, pruned, Path(folder))
    compressed()


def compressed() -> None:
    """Prints the table of ExecuTorch's w8a8 files at 90%, calibrated on noise: no byte follows from the ranges."""
    print("\n| network | file | bytes | deflated | zstd 19 | xz 9e | deflated / bound | zstd / bound | xz / bound |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in ("mobilenet_v2", "resnet18"):
        network, _ = masked(name, 0.9)
        shipped = deployable(network, INPUT)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "net.pte")
            ExecuTorch("w8a8").calibrated((torch.randn(4, 3, 224, 224),)).write(shipped, INPUT, path, pack=True)
            content, deflated = path.read_bytes(), deflated_bytes(path)
        zstd = len(zstandard.ZstdCompressor(level=19).compress(content))
        xz = len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
        shares = " | ".join(f"{size / bound(shipped, 'int8'):.3f}" for size in (deflated, zstd, xz))
        sizes = f"{len(content):,} | {deflated:,} | {zstd:,} | {xz:,}"
        print(f"| {name} | executorch w8a8 | {sizes} | {shares} |", flush=True)


def rows(name: str, pruned: float, folder: Path) -> None:
    """Prints the rows of one network at one sparsity."""
    network, prunable = masked(name, pruned)
    shipped = deployable(network, INPUT)
    dense = folder / "dense.onnx"
    targets.load("onnx").write(shipped, INPUT, dense, pack=False)
    for kind, precision in (
        ("onnx", "fp32"),
        ("onnx", "fp16"),
        ("onnx", "int8"),
        ("onnx", "int4"),
        ("onnx", "palette4"),
        ("coreml", "fp16"),
        ("coreml", "int8"),
        ("coreml", "int4"),
        ("coreml", "palette4"),
    ):
        target = targets.load(kind, precision)
        path = folder / f"net{target.suffix}"
        encoding = target.write(shipped, INPUT, path, pack=True)
        size, limit, half = raw_bytes(path), bound(shipped, precision), bound(shipped, precision, prunable)
        creation, latency = cost(path, dense) if kind == "onnx" else ("", "")
        shares = f"{size / limit:.3f} | {size / half:.3f} | {deflated_bytes(path) / limit:.3f}"
        print(
            f"| {name} | {pruned:.0%} | {kind} {precision} | {encoding} | {size:,} | {raw_bytes(dense) / size:.1f}× "
            f"| {shares} | {decibels(shipped, precision)} | {creation} | {latency} |",
            flush=True,
        )
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def masked(name: str, pruned: float) -> tuple[nn.Module, set[str]]:
    """A network, and the names of its pruned weights."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    layers = {key: layer for key, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    prunable = {key: layer for key, layer in list(layers.items())[1:] if getattr(layer, "groups", 1) == 1}
    with torch.no_grad():
        for layer in prunable.values():
            nn.init.kaiming_normal_(layer.weight)
            threshold = layer.weight.abs().flatten().kthvalue(round(pruned * layer.weight.numel())).values
            layer.weight *= layer.weight.abs() > threshold
        for layer in layers.values():
            if layer.bias is not None:
                layer.bias.normal_(0, 0.1)
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.bias.normal_(0, 0.2)
    return network, {f"{key}.weight" for key in prunable}


def bound(shipped: nn.Module, precision: str, pruned: set[str] | None = None) -> float:
    """Bytes. pruned: with it, the tensors that aren't among these count two bytes a weight, below fp16."""
    held = stored(shipped, precision)
    total = 0.0
    for name, tensor in tensors(shipped).items():
        values = held[name].values
        if not tensor.is_floating_point():
            continue
        if pruned is not None and precision not in ("fp32", "fp16") and name not in pruned:
            total += 2 * values.size
            continue
        share = np.count_nonzero(values) / values.size
        entropy = -sum(part * np.log2(part) for part in (share, 1 - share) if part)
        total += values.size * (entropy + share * held[name].bits) / 8
    return total


def decibels(shipped: nn.Module, precision: str) -> str:
    """The SQNR of all weights together; nothing where none is lost."""
    exact = {name: tensor.numpy() for name, tensor in tensors(shipped).items() if tensor.is_floating_point()}
    held = stored(shipped, precision)
    found = sqnr(*(np.concatenate([own[name].reshape(-1) for name in exact]) for own in (
        exact, {name: held[name].decoded() for name in exact}
    )))  # fmt: skip
    return f"{found:.1f}" if found else ""


def cost(path: Path, dense: Path) -> tuple[str, str]:
    """Session creation and latency, over the dense file's."""
    files = [path.read_bytes(), dense.read_bytes()]
    created = least([partial(session, file) for file in files], CREATIONS)
    sessions = [session(file) for file in files]
    feed = {sessions[0].get_inputs()[0].name: INPUT[0].numpy()}
    ran = least([partial(own.run, None, feed) for own in sessions], INFERENCES)
    return f"{created[0] / created[1]:.2f}", f"{ran[0] / ran[1]:.3f}"


def least(calls: list[Callable[[], object]], repetitions: int) -> list[float]:
    """CPU seconds of each call, the least of several, taking turns."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(repetitions):
        for call, times in zip(calls, found, strict=True):
            start = time.thread_time()
            result = call()
            times.append(time.thread_time() - start)
            del result  # what ending a session takes is none of its creation
    return [min(times) for times in found]


def session(file: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
