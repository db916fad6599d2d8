"""What a study has found so far: a line of JSON for each run, added as soon as it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, in their order; none where there is no file yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add(path: Path, row: dict[str, Any]) -> None:
    """Appends a row."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
