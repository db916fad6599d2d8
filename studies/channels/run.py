"""Cuts 23 networks to half of their multiply-accumulates, ours beside torch-pruning's, and prints the table.

    python -m studies.channels.run [MODEL ...] [--columns ours,torch-pruning,onnx] [--results FILE.jsonl]

A column is one function here, run for each network in a process of its own (for its memory, and so that one that never
ends can be stopped). A line goes to the results file as each is done, and what is there is not done again: delete lines
to repeat them. The table is printed, and written beside the results.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from dwindle.compress.macs import macs
from dwindle.compress.surgery.choice import choose, cut, find_groups, prove, score
from dwindle.compress.surgery.trace import trace
from dwindle.files import raw_bytes
from studies.channels.networks import NAMES, build
from studies.channels.table import TARGETS, table

HERE = Path(__file__).parent
SHARE, ALIGN = 0.5, 8
LIMIT_S, LIMIT_GB = 180, 10
EXPORT_LIMIT_S = 900

Row = dict[str, Any]


def ours(name: str) -> Row:
    """Half the MACs at widths that are multiples of 8; seconds are CPU time, of one thread."""
    trace(nn.Conv2d(3, 8, 1), (torch.randn(1, 3, 8, 8),))  # torch loads its tracer with the first trace
    bare = _resident_mb()
    model, example = build(name)
    _, traced_s, traced_mb = _measured(lambda: trace(model, example))
    found, found_s, found_mb = _measured(lambda: find_groups(model, example))

    def surgery() -> tuple[Any, nn.Module]:
        keep = choose(found, score(found, model), macs=SHARE * found.macs(), align=ALIGN)
        return keep, cut(model, keep)

    (keep, small), cut_s, cut_mb = _measured(surgery)
    error, proof_s, _ = _measured(lambda: prove(model, keep, example))
    whole: Counter[str] = Counter()
    for entry in found.uncut:
        whole[entry.reason] += entry.channels
    return {
        **_left(model, small, example),
        "groups": len(found.groups),
        "units": sum(found.units),
        "whole": dict(whole),
        "trace_s": traced_s,
        "analysis_s": found_s,
        "surgery_s": cut_s,
        "proof_s": proof_s,
        "trace_mb": traced_mb - bare,  # the model itself included
        "peak_mb": max(found_mb, cut_mb) - bare,  # the model and the smaller one included
        "error": error,
    }


def torch_pruning(name: str) -> Row:
    """Its own way to about the same place: group magnitude, 30% of the channels of every layer, rounded to 8."""
    import torch_pruning as tp

    model, example = build(name)
    whole = find_groups(model, example).uncut
    outputs = [model.get_submodule(entry.layer) for entry in whole if entry.reason == "an output of the model"]
    reference = build(name)[0]
    names = {module: layer for layer, module in model.named_modules() if isinstance(module, _PRUNED)}
    left = {layer: list(range(len(module.weight))) for module, layer in names.items()}
    start = time.process_time()
    pruner = tp.pruner.BasePruner(
        model,
        example[0],
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.3,
        round_to=ALIGN,
        ignored_layers=outputs,
    )
    for group in pruner.step(interactive=True):
        for dependency, channels in group:
            layer = names.get(dependency.target.module)
            if layer is not None and pruner.DG.is_out_channel_pruning_fn(dependency.handler):
                left[layer] = [c for i, c in enumerate(left[layer]) if i not in set(channels)]
        group.prune()
    seconds = time.process_time() - start
    row = {**_left(reference, model, example), "seconds": seconds}
    with torch.no_grad():  # what it removed, silenced in the whole network, in float64
        silenced = reference.double()
        for layer, channels in left.items():
            module = silenced.get_submodule(layer)
            for tensor in module.parameters(recurse=False):  # its weight and its bias
                tensor[[c for c in range(len(tensor)) if c not in set(channels)]] = 0
        x = torch.randn(example[0].shape, dtype=torch.float64)
        a, b = _first(silenced(x)), _first(model.eval().double()(x))
    return {**row, "error": float((a - b).abs().max() / a.abs().max())}


def shipped(target: str, name: str) -> Row:
    """The cut network as that target's file, compared with the network over two random images."""
    from dwindle.export import targets
    from dwindle.export.fold import deployable
    from dwindle.export.parity import check

    model, example = build(name)
    found = find_groups(model, example)
    small = cut(model, choose(found, score(found, model), macs=SHARE * found.macs(), align=ALIGN)).eval()
    format_, start = targets.load(target), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"net{format_.suffix}"
        ready = deployable(small, example)
        format_.write(ready, example, path, pack=True)
        parity = check(format_, path, small, ready, tuple(torch.randn(2, *x.shape[1:]) for x in example))
        size = raw_bytes(path)
    return {
        "seconds": time.process_time() - start,
        "bytes": size,
        "relative": parity.relative,
        "tolerance": parity.tolerance,
        "weights_equal": parity.weights_equal,
        "not_run": parity.not_run,
    }


_PRUNED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)

COLUMNS: dict[str, Callable[[str], Row]] = {
    "ours": ours,
    "torch-pruning": torch_pruning,
    **{target: partial(shipped, target) for target in TARGETS},
}


def _left(model: nn.Module, small: nn.Module, example: tuple[Tensor, ...]) -> Row:
    def cost(network: nn.Module) -> int:
        return sum(macs(network, example).values())

    def count(network: nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    return {"macs_left": cost(small) / cost(model), "parameters_left": count(small) / count(model)}


def _first(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output


def _measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, CPU seconds, and the most memory the process had meanwhile, in MB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: man 5 proc
    start = time.process_time()
    result = work()
    return result, time.process_time() - start, _status_mb("VmHWM")


def _resident_mb() -> float:
    gc.collect()
    return _status_mb("VmRSS")


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _alone(column: str, name: str) -> None:
    """In a process of its own: prints the row."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_GB * 2**30,) * 2)
    try:
        row = COLUMNS[column](name)
    except Exception as error:  # whatever a library raises is the finding
        message = " ".join(str(error).split()) or "no message"
        row = {"failure": f"{type(error).__name__}: {message[:160]}"}
    print(json.dumps(row))


def _run(column: str, name: str) -> Row:
    command = [sys.executable, "-W", "ignore", "-m", "studies.channels.run", "--alone", column, name]
    try:
        limit = EXPORT_LIMIT_S if column in TARGETS else LIMIT_S
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failure": f"not done after {limit} s"}
    if done.returncode:
        return {"failure": f"the process died ({done.returncode}) below {LIMIT_GB} GB"}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=NAMES, metavar="MODEL")
    parser.add_argument("--columns", default=",".join(COLUMNS))
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--alone", choices=COLUMNS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        return _alone(options.alone, *options.models)
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    done = {(row["model"], row["column"]) for row in map(json.loads, lines)}
    made_by = {
        "command": shlex.join(["python", *sys.argv]),
        "versions": {p: version(p) for p in ("torch", "torchvision", "torch-pruning")},
    }
    for column in options.columns.split(","):
        for name in options.models:
            if (name, column) not in done:
                print(f"{name}: {column}", file=sys.stderr)
                row = {"model": name, "column": column, **_run(column, name), **made_by}
                with options.results.open("a") as results:
                    results.write(json.dumps(row) + "\n")
    text = table([json.loads(line) for line in options.results.read_text().splitlines()])
    options.results.with_suffix(".md").write_text(text)
    print(text)
    return None


if __name__ == "__main__":
    main()
