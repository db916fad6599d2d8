"""Which data are photographs: they are trained on in another way than small images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dwindle.errors import UsageError
from dwindle.models.datasets import expanded, is_folder
from dwindle.models.kinds import huggingface, webdataset
from dwindle.models.kinds.kind import kind_of
from dwindle.models.listed import Listed
from dwindle.models.pictures import Picture, is_image_name, opened

ACROSS = 64
"""Data are photographs where most of the images are at least this many pixels across, in height and width."""
LOOKED_AT = 64
LISTS: dict[str, Callable[[str], Listed | None]] = {"hf": huggingface.pictures, "webdataset": webdataset.pictures}
"""The kinds of data that may be photographs, by prefix: what lists their images."""


def photographs_in(data: str) -> int:
    """Returns how many images a folder, or data by `hf:` or `webdataset:`, has in all its splits, where they are
    photographs by ACROSS, and else 0, as for other data, and for what can't be read.

    The headers of LOOKED_AT images, spread over the data, decide.
    """
    pictures = _pictures(data)
    shown = pictures[:: max(1, len(pictures) // LOOKED_AT)]
    large = 0
    for picture in shown:
        try:
            with opened(picture) as image:
                large += min(image.size) >= ACROSS
        except UsageError:  # the task says so, or skips it
            continue
    return len(pictures) if 2 * large > len(shown) else 0


def _pictures(data: str) -> Sequence[Picture]:
    if is_folder(data):
        return [
            str(Path(folder) / name)
            for folder, folders, names in os.walk(expanded(data))
            if not folders.sort()  # walked in one order everywhere
            for name in sorted(names)
            if is_image_name(name)
        ]
    kind = kind_of(data)
    if kind is None or kind[0] not in LISTS:
        return ()
    try:
        listed = LISTS[kind[0]](kind[1])
    except UsageError:  # which the task meets too
        return ()
    return [picture for samples in listed.splits.values() for picture, _ in samples] if listed else ()
