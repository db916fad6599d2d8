"""The run of photographs that studies/resume/run.py kills: two workers decode and augment them.

    python -m studies.resume.photographs OUT

The photographs are handwritten digits as JPEGs of 72 pixels, in a folder for each class beside OUT.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

from dwindle.compress import Request, compress

ACROSS, COUNT = 72, 240


def photographs(folder: Path) -> Path:
    """The first digits as JPEGs in a folder for each class."""
    if not folder.exists():
        digits = load_digits()
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            for index, (pixels, label) in enumerate(zip(digits.images[:COUNT], digits.target, strict=False)):
                place = Path(scratch, "all", str(label))
                place.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray((pixels * 15.9).astype("uint8")).resize((ACROSS, ACROSS))
                image.convert("RGB").save(place / f"{index:03}.jpg", quality=90)
            Path(scratch, "all").rename(folder)
    return folder


def main() -> None:
    out = Path(sys.argv[1])
    task = {"data": str(photographs(out.parent / "photographs")), "image_size": 24, "epochs": 4, "batch_size": 16}
    asked = Request(
        "zoo:resnet8",
        {**task, "workers": 2},
        recipe="photo",
        density=0.4,
        rounds=1,
        rehearsal=False,
        save_every=0.005,
    )
    compress(asked, out)


if __name__ == "__main__":
    main()
