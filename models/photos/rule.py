"""Which folders hold photographs: they are trained on in another way than small images."""

from __future__ import annotations

import os
from pathlib import Path

from dwindle.models.datasets import expanded, is_folder
from dwindle.models.folder import is_image_name, opened

ACROSS = 64
"""A folder holds photographs where most of its images are at least this many pixels across, in height and width."""
LOOKED_AT = 64


def photographs_in(data: str) -> int:
    """Returns how many images a folder has, in all its splits, where they are photographs by ACROSS, and else 0, as for
    data that is no folder.

    The headers of LOOKED_AT images, spread over the folder, decide.
    """
    if not is_folder(data):
        return 0
    paths = [
        Path(folder) / name
        for folder, folders, names in os.walk(expanded(data))
        if not folders.sort()  # walked in one order everywhere
        for name in sorted(names)
        if is_image_name(name)
    ]
    shown = paths[:: max(1, len(paths) // LOOKED_AT)]
    large = 0
    for path in shown:
        with opened(str(path)) as image:
            large += min(image.size) >= ACROSS
    return len(paths) if 2 * large > len(shown) else 0
