"""Photographs beside the plain way: images/s of decoding and augmentation, and the time of a training step.

    python -m studies.real.decoding             # about four minutes on two cores
    python -m studies.real.decoding --quick     # whether it runs at all; no figures

Decoding: JPEGs of 500×375 pixels, parts of scikit-learn's two photographs, are decoded and augmented to 128 pixels by
`PhotoBatches`, and by torchvision's `ImageFolder` with the same transforms in a `DataLoader` with as many workers. A
step: MobileNetV3-small trains at 128 pixels on batches in memory by the built-in task, and by a bare loop of torch's
own parts (AdamW, label smoothing, clipping, an average of the weights). Both take turns; figures are medians over the
turns with the least and the greatest. They go to decoding.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import mobilenet_v3_small
from torchvision.transforms import v2

from dwindle.compress.recipes import PHOTO
from dwindle.models.classify import ImageClassification, TaskSpec
from dwindle.models.datasets import load

HERE = Path(__file__).parent
ACROSS, BATCH, WIDTH, HEIGHT, CLASSES = 128, 64, 500, 375, 8


def photographs(folder: Path, count: int) -> Path:
    """JPEGs of random parts of two photographs, in a folder for each class."""
    draw = torch.Generator().manual_seed(0)
    whole = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for index in range(count):
        image = whole[index % len(whole)]
        share = 0.6 + 0.4 * torch.rand((), generator=draw).item()
        columns, rows = round(share * image.width), round(share * image.width * HEIGHT / WIDTH)
        rows = min(rows, image.height)
        left, top = (
            int(torch.randint(0, most + 1, (), generator=draw)) for most in (image.width - columns, image.height - rows)
        )
        part = image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, (left, top, left + columns, top + rows))
        place = folder / f"class{index % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        part.save(place / f"{index:04}.jpg", quality=90)
    return folder


def plain(folder: Path, area: float, workers: int) -> DataLoader[Any]:
    """torchvision's own way to the same samples."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(ACROSS, scale=(area, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR),
            v2.PILToTensor(),
            v2.RandomErasing(PHOTO["erase"], value=128),
        ]
    )
    return DataLoader(
        ImageFolder(str(folder), transform),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
    )


def images_per_second(batches: Iterable[Any]) -> float:
    """From the first batch on, which waits for the workers to start, to the last."""
    times = [time.perf_counter() for _ in batches]
    return BATCH * (len(times) - 1) / (times[-1] - times[0])


def step_seconds(fit: Callable[[Callable[[], None]], None]) -> float:
    """The median time of a step of a training that calls back after each, without the first three."""
    times: list[float] = []
    fit(lambda: times.append(time.perf_counter()))
    return statistics.median(later - earlier for earlier, later in pairwise(times[3:]))


def bare(
    model: nn.Module, images: Tensor, labels: Tensor, moments: tuple[Tensor, Tensor], steps: int
) -> Callable[..., None]:
    """A loop as people write it, of torch's own parts, with the options of the recipe `photo`."""

    def fit(stepped: Callable[[], None]) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=PHOTO["lr"], weight_decay=PHOTO["weight_decay"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(PHOTO["ema"]), use_buffers=True)
        criterion = nn.CrossEntropyLoss(label_smoothing=PHOTO["label_smoothing"])
        mean, std = (moment[:, None, None] for moment in moments)
        model.train()
        for _ in range(steps):
            chosen = torch.randint(len(images), (BATCH,))
            loss = criterion(model((images[chosen].float() - mean) / std), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), PHOTO["clip"])
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            loss.item()
            stepped()

    return fit


def decoding(folder: Path, turns: int, workers: int) -> list[tuple[float, float]]:
    """Images a second of ours and of the plain way, in each turn."""
    splits = load(str(folder), image_size=ACROSS)
    options = {name: PHOTO[name] for name in ("photographs", "trivial", "erase")}
    spec = TaskSpec(str(folder), image_size=ACROSS, batch_size=BATCH, epochs=1, workers=workers, **options)
    ours, theirs = ImageClassification(spec, splits)._batches, plain(folder, spec.area, workers)
    return [
        (images_per_second(ours.each(turn, range(len(theirs)))), images_per_second(theirs)) for turn in range(turns)
    ]


def steps(folder: Path, turns: int, count: int) -> list[tuple[float, float]]:
    """Seconds of a step of ours and of the bare loop's, in each turn."""
    splits = load(str(folder), image_size=ACROSS)
    options = {name: value for name, value in PHOTO.items() if name not in ("batch_size", "augment")}
    epochs = -(-count // (len(splits.train) // BATCH))
    spec = TaskSpec(str(folder), image_size=ACROSS, batch_size=BATCH, epochs=epochs, augment=0.0, **options)

    def ours() -> float:
        task, model = ImageClassification(spec, splits), mobilenet_v3_small(num_classes=CLASSES)
        return step_seconds(lambda stepped: task.fit(model, start=0.0, on_step=lambda loss: stepped()))

    def theirs() -> float:
        moments = ImageClassification(spec, splits).normalization
        model, train = mobilenet_v3_small(num_classes=CLASSES), splits.train
        return step_seconds(bare(model, train.images, train.labels, moments, count))

    return [(ours(), theirs()) for _ in range(turns)]


def row(what: str, found: Sequence[tuple[float, float]], unit: str, factor: float) -> str:
    ratios = [ours / theirs for ours, theirs in found]
    cells = [
        f"{factor * statistics.median(values):,.0f} {unit} ({factor * min(values):,.0f}–{factor * max(values):,.0f})"
        for values in zip(*found, strict=True)
    ]
    return f"| {what} | {' | '.join(cells)} | {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    workers, threads = 2, 1
    torch.set_num_threads(threads)
    os.environ.setdefault("DWINDLE_BF16", "0")  # the same arithmetic as the bare loop's
    turns, images, trained = (1, 130, 6) if given.quick else (7, 1280, 40)
    with tempfile.TemporaryDirectory() as scratch:
        folder = photographs(Path(scratch) / "photographs", images)
        lines = [
            "| | dwindle | plain | ratio |",
            "|---|---:|---:|---:|",
            row(
                f"decoding and augmentation, {workers} workers",
                decoding(folder, turns, workers),
                "images/s",
                1,
            ),
            row("a step of MobileNetV3-small", steps(folder, turns, trained), "ms", 1000),
        ]
    said = (
        f"JPEGs of {WIDTH}×{HEIGHT} to {ACROSS} pixels, batches of {BATCH}, {threads} thread, float32; "
        f"torch {torch.__version__}, Python {sys.version.split()[0]}. Medians of {turns} turns, with the least and the "
        "greatest.\n"
    )
    text = "\n".join(["# Photographs beside the plain way\n", said, *lines]) + "\n"
    print(text)
    if not given.quick:
        (HERE / "decoding.md").write_text(text)


if __name__ == "__main__":
    main()
