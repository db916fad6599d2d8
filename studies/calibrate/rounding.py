"""What codes chosen by samples keep, against the nearest codes.

    python -m studies.calibrate.rounding        # resumes; three minutes or so a network on one core

Networks as `studies.calibrate.run` prunes them, by least squares in four steps, as their ONNX files hold them. Codes
are chosen by 1,024 unlabelled images of the training split; the SQNR of the outputs is that for 1,024 of the test
split.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dwindle.compress.blocks import Blocks
from dwindle.compress.calibrate.prune import prune
from dwindle.compress.network import Network
from dwindle.export.answers import outputs_of
from dwindle.export.fold import deployable
from dwindle.export.quality import sqnr
from dwindle.export.quantize import CODED
from dwindle.export.rounding import Calibrated
from dwindle.export.target import ROUNDINGS
from dwindle.export.targets import load
from studies import journal
from studies.calibrate.networks import dense, task
from studies.calibrate.run import SAMPLES, samples

HERE = Path(__file__).parent
RESULTS = HERE / "rounding.jsonl"
DENSITIES = (1.0, 0.1, 0.3)
INTRODUCTION = """Points of test accuracy that rounding costs against the same network in fp32, the SQNR of the outputs
in brackets, for the nearest codes and for those that 1,024 unlabelled samples choose. Fashion-MNIST at 14x14, one seed.
Printed by `python -m studies.calibrate.rounding`. A difference of 0.3 points says nothing.

| network | kept | precision | nearest | calibrated | bytes of the ONNX file | CPU seconds |
|---|---:|---|---:|---:|---:|---:|
"""


def rows(name: str, share: float, seed: int = 0) -> Iterator[dict[str, Any]]:
    its = task(seed)
    whole, inputs, example = dense(name, seed, its), samples(its, seed), its.example_inputs()
    network = Network(copy.deepcopy(whole), example)
    if share < 1:
        prune(network, whole, Blocks(), share, inputs)
    shipped, unseen = deployable(network.model.eval(), example), its.inputs("test")
    unseen = tuple(tensor[:SAMPLES] for tensor in unseen)
    (exact,), plain = outputs_of(shipped, unseen), its.evaluate(network.model, "test")
    for precision in CODED:
        for rounding in ROUNDINGS:
            target = load("onnx", precision)
            if rounding == "calibrated":
                target = target.rounded_by(Calibrated(inputs))
            began = time.process_time()
            rounded = target.as_stored(shipped, activations=False)
            seconds = time.process_time() - began
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "net.onnx")
                target.write(shipped, example, path, pack=True)
                size = path.stat().st_size
            yield {
                "network": name,
                "share": share,
                "precision": precision,
                "rounding": rounding,
                "lost": plain - its.evaluate(rounded, "test"),
                "sqnr": sqnr(exact, outputs_of(rounded, unseen)[0]),
                "bytes": size,
                "cpu_seconds": seconds,
            }


def table(found: list[dict[str, Any]]) -> str:
    """A line per network, density and precision."""
    lines = []
    for name, share, precision in dict.fromkeys((row["network"], row["share"], row["precision"]) for row in found):
        nearest, chosen = (
            next(
                row
                for row in found
                if (row["network"], row["share"], row["precision"], row["rounding"])
                == (name, share, precision, rounding)
            )
            for rounding in ROUNDINGS
        )
        cells = [name.removeprefix("zoo:"), f"{share:.0%}", precision]
        cells += [f"{-row['lost']:+.2f} ({row['sqnr']:.1f} dB)" for row in (nearest, chosen)]
        cells += [
            f"{nearest['bytes']:,}, {chosen['bytes'] / nearest['bytes'] - 1:+.2%}",
            f"{chosen['cpu_seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=["zoo:resnet8", "zoo:resnet20"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["network"], row["share"]) for row in journal.read(RESULTS)}
    for name in options.networks:
        for share in DENSITIES:
            if (name, share) not in done:
                for row in list(rows(name, share)):
                    journal.add(RESULTS, row)
                    print(row, flush=True)
    (HERE / "rounding.md").write_text(table(journal.read(RESULTS)))


if __name__ == "__main__":
    main()
