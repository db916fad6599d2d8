"""`webdataset:FOLDER` or `webdataset:FILE.tar`: images with a class in tar files, as WebDataset lays them out."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dwindle.errors import UsageError, one_line
from dwindle.models.folder import VALIDATION
from dwindle.models.kinds.kind import folders
from dwindle.models.listed import Listed, Sample
from dwindle.models.pictures import Stored, is_image_name
from dwindle.models.spec import TaskSpec
from dwindle.task import Split

CLASSES = "classnames.txt"
LABELS = ("cls", "json")
"""The ends of the names of files with a label: its number, or an object with `label`."""
_BLOCK = 512
"""Bytes; a tar file ends in such blocks of zeros."""


@dataclass(frozen=True)
class Member(Stored):
    """An image within a tar file, which is read from its place there."""

    tar: str
    name: str
    start: int
    size: int
    changed: int
    """The tar file's time of change, in nanoseconds."""

    def __str__(self) -> str:
        return f"{self.tar}:{self.name}"

    def read(self) -> bytes:
        with Path(self.tar).open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)

    def identity(self) -> str:
        return f"{self.tar}\0{self.changed} {self.start} {self.size}\0"


def webdataset(where: str, spec: TaskSpec) -> Listed:
    """The tar files of the folder `where`, or that file.

    The splits are its folders `train`, `val` and `test`, or the files whose names begin so (`train-000.tar`); other
    names are all of train. Files of one name up to its first dot are a sample: an image, and `cls`, the number of its
    class, or `json`, an object with that number as `label`. `classnames.txt` in the folder names the classes, a line
    for each. The tar files are read once to find out where each sample lies, and never unpacked.
    Raises UsageError for a file that is no whole tar file, or is compressed, and for a sample without image or label.
    """
    return pictures(where)


def pictures(where: str) -> Listed:
    """As `webdataset`, which needs no options."""
    root = Path(where)
    found = {split: [one for tar in tars for one in _samples(tar)] for split, tars in _tars(root).items()}
    file = (root if root.is_dir() else root.parent) / CLASSES
    listed = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
    names = tuple(line.strip() for line in listed if line.strip())
    largest = max(label for samples in found.values() for _, label in samples)
    if names and largest >= len(names):
        raise UsageError(
            f"{where} has the class {largest}, and {file} names {len(names)}: name the others too",
            code="classes-differ",
            option="data",
            path=file,
        )
    return Listed(found, names or tuple(map(str, range(largest + 1))))


def _tars(root: Path) -> dict[Split, list[Path]]:
    if root.is_file():
        return {"train": [root]}
    there = folders(str(root), VALIDATION)
    if len(there) > 1 or there["train"] != root:
        found = {split: sorted(folder.glob("*.tar")) for split, folder in there.items()}
    else:
        every = sorted(root.glob("*.tar"))
        prefixes: dict[Split, tuple[str, ...]] = {"validation": VALIDATION, "test": ("test",)}
        found = {split: [tar for tar in every if tar.name.startswith(names)] for split, names in prefixes.items()}
        found = {split: tars for split, tars in found.items() if tars}
        found["train"] = [tar for tar in every if not any(tar in tars for tars in found.values())]
    for split, tars in found.items():
        if not tars:
            raise UsageError(
                f"{root} has no tar files of the {split} split: WebDataset names them {split}-000.tar and so on",
                code="no-images",
                option="data",
                path=root,
            )
    return found


def _samples(tar: Path) -> list[Sample]:
    """The samples of a tar file, in its order."""
    changed = tar.stat().st_mtime_ns
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    for part in _parts(tar):
        folder, _, name = part.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key = f"{folder}/{stem}"
        place = Member(str(tar.resolve()), part.name, part.offset_data, part.size, changed)
        if suffix in LABELS:
            if (label := _label(place, suffix)) is not None:
                labels[key] = label
        elif is_image_name(f"{stem}.{suffix}"):
            images[key] = place
    for key in images.keys() ^ labels.keys():
        name = key.removeprefix("/")
        lacks = f"label: add {name}.cls, the number of its class" if key in images else "image: add one, or remove it"
        raise UsageError(
            f"the sample {name} of {tar} has no {lacks}",
            code="no-labels" if key in images else "no-images",
            option="data",
            path=tar,
            name=name,
        )
    if not images:
        raise UsageError(f"{tar} has no images", code="no-images", option="data", path=tar)
    return [(image, labels[key]) for key, image in images.items()]


def _parts(tar: Path) -> Iterable[tarfile.TarInfo]:
    """The plain files within, of which nothing is unpacked."""
    try:
        with tar.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            parts = [part for part in archive if part.isreg() and not part.issparse()]
            file.seek(archive.offset)
            end = file.read(_BLOCK)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise _unreadable(tar, one_line(error)) from error
    if end.strip(b"\0") or not end:
        raise _unreadable(tar, "it is cut short or damaged")
    return parts


def _label(place: Member, suffix: str) -> int | None:
    """The class that a file gives; None for an object of JSON without one."""
    try:
        found = json.loads(place.read().decode())
    except (ValueError, RecursionError) as error:
        raise _no_label(place) from error
    if suffix == "json":
        found = found.get("label") if isinstance(found, dict) else None
        if found is None:
            return None
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise _no_label(place)
    return found


def _no_label(place: Member) -> UsageError:
    return UsageError(
        f"{place} holds no label: write the number of the class there, 0 or more",
        code="no-labels",
        option="data",
        path=place.tar,
        name=place.name,
    )


def _unreadable(tar: Path, why: str) -> UsageError:
    return UsageError(
        f"{tar} can't be read as a plain tar file ({why}): write it anew, uncompressed",
        code="unreadable",
        option="data",
        path=tar,
    )
