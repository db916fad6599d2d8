"""Aligned channels as latency: speed-up over the dense network at half the MACs, side by side in one run.

    python -m studies.channels.speed [MODEL ...]      # adds to speed.jsonl, prints the table and writes speed.md
    python -m studies.channels.speed --table          # the table alone

torchvision networks with random weights, cut to half their MACs: widths in multiples of 16 for onnxruntime on x86, of 8
for ExecuTorch (the default) and of 32, what its AVX-512 kernels compute at once. Dense and cut files are timed by
`dwindle.bench` (fresh processes, random order, one thread, paired bootstrap); the figure is the ratio of thread-CPU
medians with its 95% interval.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dwindle.bench.measure import measure
from dwindle.bench.process import Worker
from dwindle.bench.runtimes import runtime as runtimes
from dwindle.bench.stats import noise, paired_ratio
from dwindle.compress.macs import macs
from dwindle.compress.surgery.choice import choose, cut, find_groups, score
from dwindle.export import targets
from dwindle.export.fold import deployable
from studies import journal
from studies.channels.networks import build

RESULTS = Path(__file__).parent / "speed.jsonl"
MODELS = ("resnet18", "resnet50", "mobilenet_v2")
ALIGN = {"onnxruntime": (16,), "executorch": (8, 32)}


def run(name: str, runtime_name: str, align: int) -> dict[str, object]:
    runtime = runtimes.load(runtime_name)
    target = targets.load(runtime.target)
    model, example = build(name)
    found = find_groups(model, example)
    keep = choose(found, score(found, model), macs=0.5 * found.macs(), align=align)
    small = cut(model, keep).eval()
    spent = {what: sum(macs(net, example).values()) for what, net in (("dense", model), ("cut", small))}
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for what, net in (("dense", model), ("cut", small)):
            files[what] = Path(folder) / f"{what}{target.suffix}"
            target.write(deployable(net, example), example, files[what], pack=False)
        start = {what: partial(Worker, runtime_name, path) for what, path in files.items()}
        samples, around = measure(start, [x.numpy() for x in example], seed=0)
    ratio, (low, high) = paired_ratio(samples["cut"], samples["dense"], seed=0)
    return {
        "model": name,
        "runtime": f"{runtime_name} {runtime.version()}",
        "align": align,
        "macs_ratio": spent["dense"] / spent["cut"],
        "speed_up": 1 / ratio,
        "ci95": [1 / high, 1 / low],
        "quiet": noise(samples["cut"], around).quiet,
        "command": f"python -m studies.channels.speed {name}",
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| network | runtime | widths in | fewer MACs | speed-up (95%) | of the MACs' | machine |"]
    lines.append("|---|---|---:|---:|---:|---:|---|")
    for row in sorted(rows, key=lambda row: (MODELS.index(row["model"]), row["runtime"], row["align"])):
        low, high = row["ci95"]
        lines.append(
            f"| {row['model']} | {row['runtime']} | {row['align']} | {row['macs_ratio']:.2f}× | {row['speed_up']:.2f}× "
            f"({low:.2f}–{high:.2f}) | {row['speed_up'] / row['macs_ratio']:.0%} | {('noisy', 'quiet')[row['quiet']]} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    for name in () if "--table" in sys.argv else sys.argv[1:] or MODELS:
        for runtime_name, aligns in ALIGN.items():
            for align in aligns:
                row = run(name, runtime_name, align)
                print(json.dumps(row), flush=True)
                journal.add(RESULTS, row)
    text = table(journal.read(RESULTS))
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
