"""Which columns of a table are texts and labels, by their names and by what they hold."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from dwindle.errors import UsageError
from dwindle.models.listed import note
from dwindle.task import Split

LABELS = ("label", "labels", "class", "target")
TEXTS = ("text", "sentence", "content")
PAIRS = (
    ("text", "text_pair"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
)
"""The usual names of columns, which decide where several would do."""

Marks = tuple[float, ...]
"""0 or 1 for each of several labels."""
Table = Mapping[str, Sequence[Any]]
_MARKS = {"0": 0.0, "0.0": 0.0, "False": 0.0, "1": 1.0, "1.0": 1.0, "True": 1.0}


def pair_in(columns: Collection[str]) -> tuple[str, str] | None:
    """The two columns of a pair of texts by their usual names; None where there are none."""
    return next((pair for pair in PAIRS if all(name in columns for name in pair)), None)


def one(columns: Sequence[str], usual: Sequence[str]) -> str | None:
    """The column of that kind: the only one, or the one with a usual name; None where there is none.

    Raises UsageError where several would do.
    """
    if len(columns) < 2:
        return columns[0] if columns else None
    named = [name for name in usual if name in columns]
    if not named:
        raise UsageError(
            f"the columns {', '.join(columns)} would all do: rename the one that is meant to {usual[0]!r}, in a "
            "folder that `save_to_disk` writes",
            code="ambiguous",
            option="data",
            name=columns[0],
        )
    return named[0]


def marks_in(table: Table) -> tuple[str, ...]:
    """The columns that hold 0 and 1 and nothing else."""
    held = {name: {_MARKS.get(str(value)) for value in each} for name, each in table.items()}
    return tuple(name for name, values in held.items() if values == {0.0, 1.0})


def marked(
    tables: Mapping[Split, Table], texts: Collection[str], where: str
) -> tuple[dict[Split, list[Marks]], tuple[str, ...]]:
    """Several labels of each row, and their names: the columns of train that hold 0 and 1 and nothing else.

    A split whose rows all lack some is left out. texts: the columns that are none. What was taken is logged as a
    warning.
    Raises UsageError where there are fewer than two such columns, and where some rows of a split lack a label.
    """
    columns = tables["train"].keys()
    names = marks_in({name: each for name, each in tables["train"].items() if name not in texts})
    if len(names) < 2:
        raise UsageError(
            f"{where} has no column of labels: call it {LABELS[0]!r}, or give two or more columns of 0 and 1, each of "
            f"which is a label (there are {', '.join(columns)})",
            code="no-labels",
            option="data",
            name=where,
        )
    note(f"{where}: each of {', '.join(names)}, which hold 0 and 1, is a label")
    found: dict[Split, list[Marks]] = {}
    for split, table in tables.items():
        unknown = [None] * len(next(iter(table.values())))
        marks = [[_MARKS.get(str(value), math.nan) for value in table.get(name, unknown)] for name in names]
        rows = list(zip(*marks, strict=True))
        lacking = [any(map(math.isnan, row)) for row in rows]
        if not any(lacking):
            found[split] = rows
        elif all(lacking):
            note(f"{where}: the {split} split has no labels and is left out")
        else:
            raise UsageError(
                f"row {lacking.index(True)} of the {split} split of {where} has neither 0 nor 1 in one of "
                f"{', '.join(names)}: fill it in, or leave the row out",
                code="no-labels",
                option="data",
                name=where,
            )
    return found, names


def marks_of(lists: Iterable[Collection[int] | None], classes: Sequence[str]) -> list[Marks]:
    """Several labels of each row, whose list numbers the classes that it is of."""
    return [tuple(float(number in (held or ())) for number in range(len(classes))) for held in lists]
