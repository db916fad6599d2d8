"""A first file of limits, from what is measured today."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from dwindle.errors import UsageError
from dwindle.files import staged

SLACK = 0.02
"""The share by which a size may exceed today's."""


def write_budget(path: Path, figures: Mapping[str, Mapping[str, float]], subjects: Mapping[str, Path]) -> None:
    """Writes a TOML file that allows what was measured, and SLACK more.

    figures: by what was checked, its `size` and `cost`. subjects: the file or the checkpoint that each is about.

    Raises UsageError where there is a file already, which `dwindle gate` never overwrites.
    """
    if path.exists():
        message = f"{path} is there already: edit it, or give another name"
        raise UsageError(message, code="exists", option="init", path=path)
    lines = [f"# What was measured, and {SLACK:.0%} more: `dwindle gate --limits {path.name}` holds it from now on."]
    for name, its in figures.items():
        relative = os.path.relpath(subjects[name].resolve(), path.resolve().parent)
        lines += ["", f"[gate.file.{json.dumps(Path(relative).as_posix())}]"]
        for figure, limit in (("size", "max_size"), ("cost", "max_cost")):
            if figure in its:
                lines.append(f"{limit} = {math.ceil(its[figure] * (1 + SLACK))}  # {its[figure]:,.0f} today")
    with staged(path) as scratch:
        scratch.write_text("\n".join([*lines, ""]), encoding="utf-8")
