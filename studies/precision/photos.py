"""What int8 and w8a8 cost the mobile networks that `studies.real.newcomer` trained, each file by its own runtime.

    python -m studies.precision.photos             # resumes; takes the networks that lie in build/newcomer
    python -m studies.precision.photos --table     # only writes the table of what there is

The networks are the dense ones of the newcomer's runs, not pruned, and an EfficientNet-B0 that is trained here for as
few epochs as take minutes: hard-swish, SiLU and squeeze-and-excitation are among their layers. Ranges are taken from
256 of the training images; accuracy is that of 5,000 photographs more, made in the same way of Fashion-MNIST's test
split, which no network was trained, chosen or calibrated on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress
from dwindle.compress.prepared import prepare
from dwindle.export.shipping import as_file
from dwindle.export.targets import load
from dwindle.models.build import restore_dense
from dwindle.models.inputs import as_fed
from dwindle.models.tasks import restore_task
from studies import journal
from studies.real.newcomer import CASES, WORK, more, photographs

HERE = Path(__file__).parent
RESULTS = HERE / "photos.jsonl"
FILES = (("onnx", "int8"), ("onnx", "w8a8"), ("litert", "w8a8"), ("executorch", "w8a8"))
"""Without Core ML's, which here an interpreter runs that would take hours for so many images."""
CALIBRATED = 256
OWN = "efficientnet_b0, 20 epochs"
INTRODUCTION = """Test accuracy on 5,000 photographs of 64 pixels in five classes, and points against the float network,
which isn't pruned; one training each. A point is 50 images. Printed by `python -m studies.precision.photos`.

"""


def own() -> Checkpoint:
    """A checkpoint of an EfficientNet-B0, trained and kept whole."""
    data = {"data": str(photographs(WORK / "photographs", range(5), 2000))}
    weights = WORK / f"{OWN}.safetensors"
    if not weights.exists():
        ready = prepare(Request("timm:efficientnet_b0", {**data, "epochs": 20, "ema": 0.99}, density=0.5))
        ready.task.fit(ready.network.model, start=0.0, on_step=lambda loss: None)
        save_file(dict(ready.network.model.state_dict()), weights)
    request = Request("timm:efficientnet_b0", data, method="keep", weights=str(weights), rehearsal=False)
    return compress(request, WORK / f"{OWN}.dwindle")


def rows(case: str, known: set[tuple[str, str, str]]) -> None:
    """Writes the lines of a case that aren't known."""
    net = Checkpoint.load(WORK / f"{case}.dwindle")
    dense, its = restore_dense(net).eval(), restore_task(net)
    real = tuple(as_fed(tensor[:CALIBRATED]) for tensor in its.inputs("train"))
    tested, example = more(net), its.example_inputs()
    reached = tested.evaluate(dense, "test")
    for target, precision in FILES:
        if (case, target, precision) not in known:
            file = as_file(load(target, precision).calibrated(real), dense, example)
            found = {"case": case, "target": target, "precision": precision, "dense": reached}
            journal.add(RESULTS, {**found, "test": tested.evaluate(file, "test")})


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| network | float | " + " | ".join(f"{precision}, {target}" for target, precision in FILES) + " |"]
    lines.append("|---|" + "---:|" * (len(FILES) + 1))
    for case in dict.fromkeys(row["case"] for row in found):
        mine = {(row["target"], row["precision"]): row for row in found if row["case"] == case}
        dense = next(iter(mine.values()))["dense"]
        cells = [f"{row['test']:.2f} ({row['test'] - dense:+.2f})" if (row := mine.get(file)) else "" for file in FILES]
        lines.append(f"| {case} | {dense:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in () if options.table else (*CASES, OWN):
        if case == OWN:
            own()
        if (WORK / f"{case}.dwindle").exists():
            known = {(row["case"], row["target"], row["precision"]) for row in journal.read(RESULTS)}
            rows(case, known)
    text = INTRODUCTION + table(journal.read(RESULTS))
    (HERE / "photos.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
