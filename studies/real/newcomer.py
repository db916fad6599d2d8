"""The newcomer's job: a folder of small photographs and the name of a network, to a sixth of its Core ML file's bytes.

    python -m studies.real.newcomer             # resumes; the first case took three quarters of an hour
    python -m studies.real.newcomer --only mobilenet_v3_small
    python -m studies.real.newcomer --quick     # a few images and one epoch: whether it runs at all, no figures
    python -m studies.real.newcomer --table     # only prints what there is

The photographs are 2,000 images of Fashion-MNIST, of five classes, as JPEGs of 64 pixels in five folders; splits,
recipe, epochs and all else are dwindle's defaults. Beside each pruned network stands the dense one, trained once, and
trained on for as many trainings as the rounds took. In the second case the network was first trained on the other five
classes, and is trained on from those weights. Hours are those of the job itself, from the dense training to the last
round. A line goes to newcomer.jsonl as each case is done; a run that was stopped goes on inside its case, but for the
training on the other classes, which begins anew.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress
from dwindle.compress.prepared import prepare
from dwindle.export.shipping import as_file
from dwindle.export.targets import load as load_target
from dwindle.models.build import restore, restore_dense
from dwindle.models.datasets import FASHION, load
from dwindle.models.tasks import make_task, restore_task
from dwindle.task import Task
from studies import journal

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "newcomer.jsonl", Path("build/newcomer")
ACROSS, SHARE, MORE = 64, 6, 5000
CASES = {
    "mobilenet_v3_small": ("torchvision:mobilenet_v3_small", False),
    "mobilenet_v3_small, from the other classes": ("torchvision:mobilenet_v3_small", True),
    "mobilenetv4_conv_small": ("timm:mobilenetv4_conv_small", False),
}
"""The network of each case, and whether it was first trained on the other five classes."""
INTRODUCTION = """Printed by `python -m studies.real.newcomer`: 2,000 photographs in five classes (Fashion-MNIST as
JPEGs of 64 pixels), a fifth of them the test split; all by the defaults, to a sixth of the bytes of the dense
network's Core ML file. Beside the pruned network the dense one, as it was trained first, and trained on for as many
trainings as the rounds took, the best of them by validation. Hours are the run's, on one thread. The test split is
400 images, of which one is a quarter of a point; so all three were tested on 5,000 photographs more where it says so.

"""
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 16, "workers": 0}


def photographs(folder: Path, classes: range, count: int, split: str = "train") -> Path:
    """So many images of a split of Fashion-MNIST, as JPEGs in a folder for each of the classes."""
    if not folder.exists():
        known = getattr(load("fashion-mnist"), split)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            for label in classes:
                place = Path(scratch, "all", FASHION[label].replace("/", "-"))
                place.mkdir(parents=True)
                chosen = known.images[known.labels == label][: count // len(classes)]
                for index, pixels in enumerate(chosen):
                    image = Image.fromarray(pixels[0].numpy()).resize((ACROSS, ACROSS), Image.Resampling.BICUBIC)
                    image.convert("RGB").save(place / f"{index:04}.jpg", quality=95)
            Path(scratch, "all").rename(folder)
    return folder


def sixth(model: str, options: Mapping[str, Any], **more: Any) -> tuple[int, int]:
    """The bytes of the dense network's Core ML file, and a sixth of them."""
    ready = prepare(Request(model, dict(options), density=0.5, target="coreml", **more))
    whole = ready.solvers[-1].packed_bytes(ready.network.model)
    return whole, whole // SHARE


def trained_on(net: Checkpoint, kept: Path) -> nn.Module:
    """The dense network after as many more trainings as the rounds took, as it was when it was best on validation.
    What it has come to is kept in a file after each training."""
    task, network = restore_task(net, trust=True), restore_dense(net, trust=True)
    found: list[float] = []
    best = network.state_dict()
    if kept.exists():
        saved = torch.load(kept, weights_only=True)
        network.load_state_dict(saved["network"])
        task.load_state_dict(saved["task"], network)
        found, best = saved["found"], saved["best"]
    while len(found) < len(net.history):
        if found:
            torch.manual_seed(len(found))
            task.fit(network, start=0.0, on_step=lambda loss: None)
        found.append(task.evaluate(network, "validation"))
        if found[-1] == max(found):
            best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        now = {"network": network.state_dict(), "task": task.state_dict(), "found": found, "best": best}
        torch.save(now, kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)
    network.load_state_dict(best)
    return network.eval()


def more(net: Checkpoint) -> Task:
    """The task of a checkpoint with 5,000 other photographs to test on, of the test split of Fashion-MNIST, prepared as
    its network wants them."""
    for split, count, source in (("train", 100, "train"), ("val", 100, "train"), ("test", MORE, "test")):
        (WORK / "more").mkdir(parents=True, exist_ok=True)
        photographs(WORK / "more" / split, range(5), count, source)
    kept = {key: value for key, value in net.origin["task"].items() if value is not None and key != "fingerprint"}
    return make_task({**kept, "data": str(WORK / "more"), "preprocessing": net.preprocessing})


def run(case: str, folder: Path, count: int, options: dict[str, Any], **more_options: Any) -> dict[str, Any]:
    model, pretrained = CASES[case]
    if pretrained:  # on images of this size, not as torchvision's weights were
        options = {**options, "image_size": ACROSS, "normalize": "data"}
        other = {**options, "data": str(photographs(folder / "others", range(5, 10), count))}
        weights = folder / f"{case}.safetensors"
        if not weights.exists():
            ready = prepare(Request(model, other, density=0.5, target="coreml"))
            ready.task.fit(ready.network.model, start=0.0, on_step=lambda loss: None)
            save_file(dict(ready.network.model.state_dict()), weights)
        more_options |= {"weights": str(weights), "train_dense": True}
    given = {**options, "data": str(photographs(folder / "photographs", range(5), count))}
    whole, size = sixth(model, given, **more_options)
    net = compress(Request(model, given, size=size, target="coreml", **more_options), folder / f"{case}.dwindle")
    dense, longer = restore_dense(net).eval(), trained_on(net, folder / f"{case}, trained on.pt")
    own, others = restore_task(net), more(net)
    file = as_file(load_target("coreml", net.origin["precision"]), restore(net).eval(), own.example_inputs())
    return {
        "case": case,
        "dense_bytes": whole,
        "bytes": net.history[-1].bytes,
        "rounds": len(net.history) - 1,
        "test": net.metrics["test"],
        "dense_test": net.metrics["dense_test"],
        "dense_trained_on_test": own.evaluate(longer, "test"),
        "hours": round(sum(each.seconds for each in net.history) / 3600, 2),
        "more": [others.evaluate(each, "test") for each in (file, dense, longer)],
    }


def table(rows: list[dict[str, Any]]) -> str:
    names = ("test accuracy", "dense", "dense, trained as long")
    more = [f"{name}, 5,000 more" for name in names]
    head = f"| case | bytes | of | rounds | {' | '.join(names)} | hours | {' | '.join(more)} |\n|---|" + 10 * "---:|"
    lines = [
        f"| {row['case']} | {row['bytes']:,} | {row['dense_bytes']:,} | {row['rounds']} | {row['test']:.2f} | "
        f"{row['dense_test']:.2f} | {row['dense_trained_on_test']:.2f} | {row['hours']} | "
        f"{' | '.join(f'{each:.2f}' for each in row['more']) if 'more' in row else ' | | '} |"
        for row in rows
    ]
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", metavar="CASE", nargs="+", choices=list(CASES), default=list(CASES))
    given = parser.parse_args()
    if given.quick:
        with tempfile.TemporaryDirectory() as folder:
            print(run(list(CASES)[1], Path(folder), 60, dict(QUICK), prune_per_round=0.9))
        return
    WORK.mkdir(parents=True, exist_ok=True)
    known = {row["case"] for row in journal.read(RESULTS)}
    for case in given.only if not given.table else ():
        if case not in known:
            journal.add(RESULTS, run(case, WORK, 2000, {}))
    text = INTRODUCTION + table(journal.read(RESULTS)) + "\n"
    (HERE / "newcomer.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
