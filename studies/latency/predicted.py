"""How far predictions from a profile are off: 20 networks that no profile has measured, pruned and unpruned.

    OMP_NUM_THREADS=1 python -m studies.latency.predicted            # on an idle machine
    OMP_NUM_THREADS=1 python -m studies.latency.predicted --counts   # then the same in ARM64 instructions; resumes too
    OMP_NUM_THREADS=1 python -m studies.latency.predicted --table    # only prints what there is

Six architectures with untrained weights (kernels look at no values), each dense and with channels removed to shares of
its multiply-accumulates. Of the architectures, a profile measures ResNet-20 and MobileNetV2 itself, dense and at other
sizes of images, and ResNet-34 and MnasNet. The profile is made on this host first, and then the networks' ONNX files
are timed by the method by which the profile's own were, in thread-CPU time. What is predicted is known before: the
profile is kept beside the results. In instructions a network is predicted as `compress --cost` does it, from its layers
at a few widths and one whole count of the dense network, and counted whole, so that only the pruned networks are
predicted.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

from dwindle.bench.devices.registry import reach
from dwindle.bench.prices.designed import NETWORKS as PROFILED
from dwindle.bench.prices.designed import REFERENCE
from dwindle.bench.prices.designed import network as profiled
from dwindle.bench.prices.making import profile_device
from dwindle.bench.prices.one_layer import put, written
from dwindle.bench.prices.predicting import fitting
from dwindle.bench.prices.profile import Profile
from dwindle.bench.prices.timing import File, times
from dwindle.compress.budget import Budget, Solver
from dwindle.compress.channels import Channels
from dwindle.compress.meter import Meter
from dwindle.compress.network import Network
from dwindle.compress.surgery.find import find_groups
from dwindle.export.fold import deployable
from dwindle.export.targets import load
from dwindle.models.build import ModelSpec, build
from dwindle.models.layerwise.shapes import calls
from dwindle.price import load as load_price
from studies import journal

HERE = Path(__file__).parent
PROFILE, RESULTS, COUNTS = HERE / "predicted-host.json", HERE / "predicted.jsonl", HERE / "predicted_counts.jsonl"
TARGET, PRECISION = "onnx", "fp32"
NETWORKS = {
    ("zoo:resnet20", 48): (1.0, 0.7, 0.5, 0.35),
    ("zoo:resnet56", 32): (1.0, 0.7, 0.5),
    ("zoo:mobilenetv2", 128): (1.0, 0.7, 0.5, 0.35),
    ("torchvision:resnet18", 96): (1.0, 0.7, 0.5),
    ("torchvision:mobilenet_v3_small", 128): (1.0, 0.7, 0.5),
    ("torchvision:squeezenet1_1", 128): (1.0, 0.7, 0.5),
}
"""By architecture and pixels, the shares of the multiply-accumulates that are left."""
Held = tuple[str, int, float]


@cache
def dense(spec: str, pixels: int) -> Network:
    torch.manual_seed(0)
    shape = (3, pixels, pixels)
    return Network(build(ModelSpec(spec, 10, shape)).eval(), (torch.randn(1, *shape),))


def network(spec: str, pixels: int, share: float) -> Network:
    """One of the architectures with channels removed, whose widths are multiples of 8."""
    whole = dense(spec, pixels)
    if share == 1:
        return whole
    solver = Solver(Budget(macs=share), Channels(align=8, counts="MACs"), lambda model: 0, TARGET)
    return solver.shrunk(whole, solver.largest_share(whole))


def held(done: Sequence[dict[str, Any]]) -> list[Held]:
    """The networks of which there is no line yet."""
    known = {(one["network"], one["pixels"], one["share"]) for one in done}
    return [one for one in every() if one not in known]


def every() -> Iterator[Held]:
    return ((spec, pixels, share) for (spec, pixels), shares in NETWORKS.items() for share in shares)


def measure() -> None:
    """Writes a line with the predicted and the measured time of each network, all measured in one run.

    Three of the profile's own networks are measured again beside them: what they take now over what they took then is
    the host's `speed`.
    """
    if not PROFILE.exists():
        profile_device("host", TARGET, [PRECISION], progress=say).save(PROFILE)
    profile = Profile.load(PROFILE)
    predictor = fitting(profile, PROFILE.name, TARGET, PRECISION)
    launcher = next(one for one in reach("host").runtimes() if one.name == profile.runtime)
    missing = held(journal.read(RESULTS))
    if not missing:
        return
    known = [one for one in profile.at(PRECISION).wholes if one.name.startswith("zoo:resnet8")]
    anchors = [(name, pixels) for name, pixels in PROFILED if name == "zoo:resnet8"]
    with tempfile.TemporaryDirectory() as name:
        folder, files, told = Path(name), [], []
        (reference,) = written([REFERENCE], TARGET, PRECISION, folder)
        for index, one in enumerate(missing):
            made = network(*one)
            told.append(predictor.network(Counter(call.shape for call in calls(made.model, made.inputs))))
            files.append(_file(deployable(made.model, made.inputs), made.inputs[0], folder / f"network-{index}.onnx"))
        for model, pixels in anchors:
            again = torch.randn(1, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
            files.append(_file(profiled(model, pixels), again, folder / f"anchor-{pixels}.onnx"))
        found = times(files, reference, launcher, "host", profile.threads, say)
    own, beside = found.ms[: len(missing)], found.ms[len(missing) :]
    speed = float(np.median([ms / one.ms for ms, one in zip(beside, known, strict=True)]))
    for (spec, pixels, share), ms, by in zip(missing, own, told, strict=True):
        row = {"network": spec, "pixels": pixels, "share": share, "measured": ms, "predicted": by.ms}
        journal.add(RESULTS, {**row, "low": by.low, "high": by.high, "speed": speed})


def _file(model: nn.Module, inputs: Tensor, path: Path) -> File:
    put(model, inputs, load(TARGET, PRECISION), path)
    return path, [inputs.numpy()]


def count() -> None:
    """Writes a line with the predicted and the counted instructions of each pruned network."""
    price = load_price("cost", TARGET, PRECISION)
    price.require(say)
    for spec, pixels in NETWORKS:
        missing = [one for one in held(journal.read(COUNTS)) if one[:2] == (spec, pixels) and one[2] < 1]
        if not missing:
            continue
        whole = dense(spec, pixels)
        meter = Meter(whole.model, whole.inputs, find_groups(whole.model, whole.inputs), price, load(TARGET), say)
        for _, _, share in missing:
            model = network(spec, pixels, share).model
            row = {"network": spec, "pixels": pixels, "share": share, "dense": meter.dense}
            journal.add(COUNTS, {**row, "measured": meter.whole(model), "predicted": meter.of(model)})


def say(line: str) -> None:
    print(line, file=sys.stderr)


def table(rows: Sequence[dict[str, Any]], unit: str, scale: float) -> None:
    """A line for each network, and one for all."""
    print(f"| network | MACs left | measured, {unit} | predicted | off |")
    print("|---|---:|---:|---:|---:|")
    for one in rows:
        off = one["predicted"] / one["measured"] - 1
        print(
            f"| {one['network']}, {one['pixels']}² | {one['share']:.0%} | {one['measured'] / scale:.3f} "
            f"| {one['predicted'] / scale:.3f} | {off:+.1%} |"
        )
    off = np.abs([one["predicted"] / one["measured"] - 1 for one in rows])
    print(
        f"\nOf {len(rows)} networks half are predicted within {np.median(off):.1%}, nine in ten within "
        f"{np.quantile(off, 0.9):.1%}, {np.mean(off <= 0.15):.0%} of them within 15%, all within {off.max():.1%}.\n"
    )


def main() -> None:
    torch.set_num_threads(1)
    if "--counts" in sys.argv:
        count()
    elif "--table" not in sys.argv:
        measure()
    print("# Predicted and measured\n\n    python -m studies.latency.predicted\n\nSee `predicted.py`.\n")
    if rows := journal.read(RESULTS):
        profile = Profile.load(PROFILE)
        inside = sum(one["low"] <= one["measured"] <= one["high"] for one in rows)
        print(
            f"On {profile.machine.cpu}, {profile.runtime} {profile.version}, {profile.clock}, by a profile that took "
            f"{profile.seconds:.0f} s. {inside} of {len(rows)} are within the interval beside the prediction.\n"
        )
        table(rows, "ms", 1)
        print(f"The profile's own networks took {rows[-1]['speed'] - 1:+.1%} against the profile. At its speed:\n")
        table([{**one, "measured": one["measured"] / one["speed"]} for one in rows], "ms", 1)
    if rows := journal.read(COUNTS):
        print("In ARM64 instructions, by the table of layers and the dense network's count:\n")
        table(rows, "M", 1e6)


if __name__ == "__main__":
    main()
