"""What is left of a trained network that is pruned without training it again.

    python -m studies.calibrate.run             # resumes; half an hour or so a seed on one core, dense trainings first
    python -m studies.calibrate.run --table     # only writes the table of what there is

Each dense network is pruned by global magnitude; 1,024 samples of the training split, without their labels, are what
batch norm is recalibrated by, what least squares sees, and what the pruned network is taught the dense one's answers
by (`--distill 20`). A network that is trained at a higher rate has smaller weights to lose. Test accuracy is reported,
fp32 and with int8 weights as ONNX files have them; no choice was made on it.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.calibrate.distill import Distillation
from dwindle.compress.calibrate.prune import prune
from dwindle.compress.channels import Channels
from dwindle.compress.masks import mask_applier
from dwindle.compress.network import Granularity, Network
from dwindle.compress.recalibrate import recalibrate
from dwindle.errors import UsageError
from dwindle.export.shipping import as_file
from dwindle.export.targets import load
from dwindle.models.classify import ImageClassification
from studies import journal
from studies.calibrate.networks import RATE, dense, task
from studies.calibrate.table import table

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
NETWORKS = {
    "zoo:resnet8": ("zoo:resnet8", RATE),
    "zoo:resnet20": ("zoo:resnet20", RATE),
    "zoo:resnet20, dense training at twice the rate": ("zoo:resnet20", 2 * RATE),
    "zoo:mobilenetv2": ("zoo:mobilenetv2", RATE),
}
"""By what the table calls it: a network of the zoo, and the peak rate of its dense training."""
DENSITIES = (0.3, 0.2, 0.1, 0.07, 0.05)
SAMPLES, PASSES = 1024, 20

Way = Callable[[Network, nn.Module, Granularity, float, tuple[Tensor, ...]], object]


def magnitude(
    network: Network, whole: nn.Module, granularity: Granularity, share: float, inputs: tuple[Tensor, ...]
) -> None:
    granularity.shrink(network, share)


def batch_norm(
    network: Network, whole: nn.Module, granularity: Granularity, share: float, inputs: tuple[Tensor, ...]
) -> None:
    granularity.shrink(network, share)
    recalibrate(network.model, inputs)


def taught(
    network: Network, whole: nn.Module, granularity: Granularity, share: float, inputs: tuple[Tensor, ...]
) -> None:
    prune(network, whole, granularity, share, inputs, steps=4)
    teach(network, whole, inputs)


def teach(network: Network, whole: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Distils a solved network in PASSES passes, in place, under its masks."""
    masked = mask_applier(network.model, network.masks)
    Distillation(copy.deepcopy(whole), inputs, passes=PASSES).fit(network.model, start=0.0, on_step=lambda _: masked())


WAYS: dict[str, Way] = {
    "magnitude": magnitude,
    "batch norm recalibrated": batch_norm,
    "least squares": partial(prune, steps=1),
    "least squares, 4 steps": partial(prune, steps=4),
    "then 20 passes of distillation": taught,
}


def samples(its: ImageClassification, seed: int) -> tuple[Tensor, ...]:
    """(SAMPLES, channels, height, width), normalised: drawn from the training split."""
    images, (mean, std) = its.splits.train.images, its.normalization
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:SAMPLES]
    return ((images[drawn].float() - mean[:, None, None]) / std[:, None, None],)


def cases() -> list[tuple[str, str, float]]:
    """Network, granularity and share."""
    weights = [(name, "weights", density) for name in NETWORKS for density in DENSITIES]
    return weights + [(name, "channels", 0.5) for name in NETWORKS]


def row(name: str, seed: int, what: str, share: float, way: str) -> dict[str, Any]:
    zoo, rate = NETWORKS[name]
    its = task(seed, rate)
    whole, inputs = dense(zoo, seed, its), samples(its, seed)
    network = Network(copy.deepcopy(whole), its.example_inputs())
    granularity: Granularity = Blocks() if what == "weights" else Channels(align=4)
    began = time.process_time()
    WAYS[way](network, whole, granularity, share, inputs)
    seconds = time.process_time() - began
    try:
        rounded = its.evaluate(as_file(load("onnx", "int8"), network.model, its.example_inputs()), "test")
    except UsageError as refused:  # as at 5% of a MobileNetV2, of which some solved weights are beyond what int8 holds
        print(refused, flush=True)
        rounded = None
    return {
        "network": name,
        "seed": seed,
        "what": what,
        "share": share,
        "way": way,
        "density": network.density,
        "macs": network.macs / network.dense_macs,
        "dense": its.evaluate(whole, "test"),
        "test": its.evaluate(network.model, "test"),
        "int8": rounded,
        "cpu_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    keys = ("network", "seed", "what", "share", "way")
    done = {tuple(found[key] for key in keys) for found in journal.read(RESULTS)}
    for seed in options.seeds:
        for name, what, share in cases():
            for way in WAYS:
                if not options.table and name in options.networks and (name, seed, what, share, way) not in done:
                    found = row(name, seed, what, share, way)
                    journal.add(RESULTS, found)
                    print(name, seed, what, share, way, f"{found['test'] - found['dense']:+.2f}", flush=True)
    (HERE / "results.md").write_text(table(journal.read(RESULTS), list(WAYS)))


if __name__ == "__main__":
    main()
