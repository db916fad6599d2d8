"""Which of torchvision's networks dwindle's interpreter of Core ML files runs, and how near it comes to PyTorch.

    python -m studies.packing.interpreter [MODEL ...] [--results FILE.jsonl]

The 23 networks of studies/channels, untrained, batch norm statistics those of random images, written as Core ML at fp16
by the product's export and run off a Mac, over two random images. A process each; a line goes to the results file as
each is done, and what is there is not done again. Images are the smallest that leave the program's operations as they
are at the network's own size. The table is printed, and written beside the results.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from studies import journal
from studies.channels.networks import NAMES, build

SIZES = {"inception_v3": 107, "vgg16_bn": 224, "vit_b_16": 224, "swin_t": 224, "maxvit_t": 224, "ssdlite320": 128}
"""Pixels, where 96 won't do: VGG's pooling is none at 224, a vision transformer's windows or places are counted."""
LIMIT_GB = 8
RESULTS = Path(__file__).with_suffix(".jsonl")

Row = dict[str, Any]


def measure(name: str) -> Row:
    from dwindle.errors import DwindleError
    from dwindle.export.answers import outputs_of
    from dwindle.export.coreml.mil_torch import Interpreter
    from dwindle.export.coreml.read import main_block, read
    from dwindle.export.coreml.target import CoreML
    from dwindle.export.fold import deployable
    from dwindle.export.quantize import quantized, stored

    size = SIZES.get(name, 96)
    network, example = build(name, size)
    images = (torch.randn(2, 3, size, size),)
    (expected,) = outputs_of(network, images)
    shipped = deployable(network, example)
    del network
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.mlpackage"
        try:
            CoreML().write(shipped, example, path, pack=False)
            kinds = {operation.type for operation in main_block(read(path)[0]).operations} - {"const"}
            interpreter = Interpreter(path)
        except DwindleError as error:
            return {"size": size, "failure": str(error)}
        made = np.concatenate([interpreter(image)[0].numpy() for image in images[0].split(1)])
    (rounded,) = outputs_of(quantized(shipped, stored(shipped, "fp16")), images)
    largest = float(np.abs(expected).max())
    return {
        "size": size,
        "operations": sorted(kinds),
        "fp32": float(np.abs(made - expected).max()) / largest,
        "rounded": float(np.abs(made - rounded).max()) / largest,
    }


def table(rows: list[Row]) -> str:
    from importlib.metadata import version

    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "torchvision", "coremltools"))
    lines = [
        "# Core ML files run off a Mac: 23 networks",
        "",
        "    python -m studies.packing.interpreter",
        "",
        "Largest difference of any output, over the largest output: against the network in fp32, and against the one",
        f"that has the file's weights, rounded to fp16; both compute in fp32. {versions}.",
        "",
        "Where the second is 0, the first is what rounding weights does to a network that isn't trained. Elsewhere the",
        "program has numbers of its own that are rounded too: 1/6, by which a hard swish and its like multiply, is",
        "off by 2e-4 in fp16. With an exact 1/6 put in its place, ssdlite320's 1.7e-2 becomes 1.4e-5.",
        "",
        "| network | pixels | against fp32 | against its rounded weights | kinds of operations |",
        "|---|---:|---:|---:|---|",
    ]
    for row in sorted(rows, key=lambda row: NAMES.index(row["model"])):
        if "failure" in row:
            lines.append(f"| {row['model']} | {row.get('size', '')} | {row['failure']} | | |")
        else:
            kinds = f"{len(row['operations'])}: {', '.join(row['operations'])}"
            lines.append(f"| {row['model']} | {row['size']} | {row['fp32']:.0e} | {row['rounded']:.0e} | {kinds} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=NAMES, metavar="MODEL")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_GB * 2**30,) * 2)
        print(json.dumps(measure(*options.models)))
        return
    done = journal.read(options.results)
    for name in options.models:
        if name in {row["model"] for row in done}:
            continue
        print(name, file=sys.stderr)
        command = [sys.executable, "-W", "ignore", "-m", "studies.packing.interpreter", "--alone", name]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        said = ran.stderr.strip().splitlines() or ["no message"]
        row = json.loads(ran.stdout.splitlines()[-1]) if not ran.returncode else {"failure": said[-1][:160]}
        done.append({"model": name, **row})
        journal.add(options.results, done[-1])
    text = table(done)
    options.results.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
