"""A folder of class folders: which images it has, in which splits."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from dwindle.errors import UsageError, one_line
from dwindle.models.data import Splits
from dwindle.models.listed import Listed, Sample, note, splits_of
from dwindle.models.pictures import is_image_name
from dwindle.preprocessing import Preprocessing
from dwindle.task import Split

VALIDATION = ("val", "validation", "valid", "dev")
"""The usual names of the folder of the validation split."""


def load_folder(
    root: Path, image_size: int | None, how: Preprocessing | None = None, *, skip_broken: bool = False
) -> Splits:
    """The images of `root`, as `list_folder` finds and `dwindle.models.listed.splits_of` decodes them.

    Raises UsageError as those do.
    """
    return splits_of(list_folder(root), image_size, how, skip_broken=skip_broken)


def list_folder(root: Path) -> Listed:
    """The images of `root`, laid out as torchvision's ImageFolder wants them: `[split/]class/image`.

    With a `train/` subfolder, `val/` (or one of VALIDATION's other names) and `test/` are read beside it. Where a
    folder has images and no folders, there are no labels. Hidden files and folders, whose names begin with a dot, are
    left out. Files of other formats are passed over; how many there are is logged as a warning.
    Raises UsageError for a single class, and where classes differ between splits.
    """
    divided = (root / "train").is_dir()
    folders: dict[Split, Path] = {"train": root / "train" if divided else root}
    usual: dict[Split, tuple[str, ...]] = {"validation": VALIDATION, "test": ("test",)}
    for split, names in usual.items():
        there = [root / name for name in names if divided and (root / name).is_dir()]
        if len(there) > 1:
            raise UsageError(
                f"{root} has {' and '.join(each.name for each in there)}, each of them a {split} split by its name: "
                "leave one",
                code="ambiguous",
                option="data",
                path=root,
            )
        if there:
            folders[split] = there[0]
    listed = {split: _list(folder) for split, folder in folders.items()}
    classes = listed["train"][0]
    if len(classes) == 1:
        message = (
            f"{folders['train']} has one class folder, {classes[0]}: give two or more to tell apart, or, to calibrate "
            "without labels, that folder itself"
        )
        raise UsageError(message, code="one-class", option="data", path=folders["train"], name=classes[0])
    for split, (found, _) in listed.items():
        if found != classes:
            odd = sorted(set(found) ^ set(classes))
            message = f"{folders[split]} and {folders['train']} differ in class folders ({', '.join(odd)})"
            raise UsageError(message, code="classes-differ", option="data", path=folders[split], name=odd[0])
    return Listed({split: samples for split, (_, samples) in listed.items()}, classes)


def _list(folder: Path) -> tuple[tuple[str, ...], list[Sample]]:
    """The names of the class folders, sorted, and their images; of a folder without folders its own images, as of one
    class without a name. How many other files were passed over is logged."""
    from torchvision.datasets import ImageFolder

    passed_over: Counter[str] = Counter()

    class Visible(ImageFolder):
        def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
            found = (entry.name for entry in os.scandir(directory) if entry.is_dir())
            names = sorted(name for name in found if not name.startswith("."))
            if names:
                return names, {name: index for index, name in enumerate(names)}
            if not any(is_image_name(entry.name) for entry in Path(directory).iterdir()):
                raise FileNotFoundError("it has no folders")
            return [], {".": 0}

    def is_image(path: str) -> bool:
        inside = Path(path).relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            return False
        if is_image_name(inside.name):
            return True
        passed_over[inside.suffix.lower() or "no extension"] += 1
        return False

    try:
        found = Visible(str(folder), is_valid_file=is_image)
    except OSError as error:
        message = f"{folder} isn't a folder of class folders with images in each ({one_line(error)})"
        raise UsageError(message, code="no-images", option="data", path=folder) from error
    if passed_over:
        each = ", ".join(f"{count} with {suffix}" for suffix, count in passed_over.most_common(5))
        note(f"{folder}: {passed_over.total()} files are not in a format that is read, and were left out ({each})")
    return tuple(found.classes), found.samples
