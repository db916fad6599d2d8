"""ARCHITECTURE.md names files, names and entry-point groups that are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
HERE = ("", "compress/", "bench/", "dwindle/", "export/", "tests/compress/", "tests/dwindle/")
"""Where a name without its folder may be, such as `blocks.py` beside `compress/network.py`."""


def test_every_file_it_names_is_there() -> None:
    named = set(re.findall(r"`([\w./]+\.(?:py|toml|md))`", TEXT)) | set(re.findall(r"`((?:\w+/)+)`", TEXT))
    absent = {"rounds/", "rounds/partial/", "tests/export/NAME/"}  # of a checkpoint, and of what is to be added
    missing = {
        name for name in named - absent if "NAME" not in name and not any((ROOT / to / name).exists() for to in HERE)
    }
    assert len(named) > 50
    assert not missing


def test_it_names_every_entry_point_group() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert {group for group in groups if f"`{group}`" not in TEXT} == set()


def test_it_fits_on_a_few_screens() -> None:
    assert len(TEXT.splitlines()) <= 260
