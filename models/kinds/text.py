"""`text:FILE.csv` or `text:FOLDER`: texts or pairs of them, with a class or several labels each, as tokens."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dwindle.errors import UsageError, one_line
from dwindle.models.folder import VALIDATION
from dwindle.models.kinds.columns import PAIRS, Marks, Table, marked, pair_in
from dwindle.models.kinds.kind import Loaded, with_all_splits
from dwindle.models.sources import hub
from dwindle.models.spec import TaskSpec
from dwindle.task import Split

TEXT, LABEL = "text", "label"
Target = int | Marks
Row = tuple[tuple[str, ...], Target]
"""A text, or a pair of them, and its class or its several labels."""
NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""What a network is given of a tokenizer; of a single text the first two."""


def text(where: str, spec: TaskSpec) -> Loaded:
    """A file of comma-separated values with the columns `text` and `label`, or a folder with `train.csv`, `val.csv` and
    `test.csv` of that form.

    Two columns of PAIRS in place of `text` hold pairs of texts. Without `label`, every column of 0 and 1 is one of
    several labels. A sample is `input_ids` and `attention_mask`, (max_length,) int64, cut or filled up to that length,
    and of a pair `token_type_ids` where the tokenizer makes them. The tokenizer is that of a folder or repository
    (option `tokenizer`; by default that of an `hf:` model). The classes are the labels, sorted.
    Raises UsageError for a file that can't be read, and where there is no tokenizer.
    """
    tables: dict[Split, Table] = {split: _table(path) for split, path in _files(Path(where)).items()}
    texts = pair_in(tables["train"]) or (TEXT,)
    one_label = LABEL in tables["train"]
    for split, table in tables.items():
        if missing := [name for name in (*texts, *[LABEL] * one_label) if name not in table]:
            raise _no_column(f"the {split} split of {where}", missing[0])
    if not one_label:
        marks, names = marked(tables, texts, where)
        return loaded({split: rows_of(tables[split], texts, each) for split, each in marks.items()}, names, spec)
    classes = tuple(sorted({label for table in tables.values() for label in table[LABEL]}))
    if len(classes) < 2:
        raise UsageError(f"{where} has one label, {classes[0]!r}: there is nothing to tell apart", option="data")
    rows = {split: rows_of(table, texts, map(classes.index, table[LABEL])) for split, table in tables.items()}
    return loaded(rows, classes, spec)


def rows_of(table: Table, texts: Sequence[str], targets: Iterable[Target]) -> list[Row]:
    """The rows of a table by its columns of texts."""
    found = zip(*([value or "" for value in table[name]] for name in texts), strict=True)
    return list(zip(found, targets, strict=True))


def loaded(
    rows: Mapping[Split, list[Row]], classes: tuple[str, ...], spec: TaskSpec, exact: Mapping[str, str] | None = None
) -> Loaded:
    """Texts by split as tokens; a split that isn't there is carved from train."""
    every = with_all_splits(rows, lambda row: row[1] if isinstance(row[1], int) else None)
    tokenizer, name = tokenizer_of(spec)
    made = {split: Texts(found, tokenizer, spec.max_length) for split, found in every.items()}
    return Loaded(made, classes, exact={**(exact or {}), "tokenizer": name})


class Texts(Dataset[dict[str, Any]]):
    """Texts, or pairs of them, as token ids with their mask, and their targets."""

    def __init__(self, rows: list[Row], tokenizer: Any, length: int) -> None:
        columns = [list(column) for column in zip(*(texts for texts, _ in rows), strict=True)]
        made = tokenizer(*columns, truncation=True, padding="max_length", max_length=length)
        names = NAMES if len(columns) > 1 else NAMES[:2]
        self.inputs = {name: torch.tensor(made[name]) for name in names if name in made}
        self.targets = [target if isinstance(target, int) else torch.tensor(target) for _, target in rows]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        return {**{name: tensor[index] for name, tensor in self.inputs.items()}, "labels": self.targets[index]}


def _files(where: Path) -> dict[Split, Path]:
    if where.is_file():
        return {"train": where}
    names: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": VALIDATION, "test": ("test",)}
    found: dict[Split, Path] = {}
    for split, stems in names.items():
        if there := [where / f"{stem}.csv" for stem in stems if (where / f"{stem}.csv").is_file()]:
            found[split] = there[0]
    if "train" not in found:
        raise UsageError(
            f"{where} is no file of comma-separated values, and no folder with a train.csv",
            code="missing",
            option="data",
            path=where,
        )
    return found


def _table(path: Path) -> Table:
    """The columns of a file by their names."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            read = csv.DictReader(file)
            names = list(read.fieldnames or ())
            rows = [[row[name] or "" for name in names] for row in read]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} can't be read as comma-separated values in UTF-8 ({one_line(error)})",
            code="unreadable",
            option="data",
            path=path,
        ) from error
    if not (TEXT in names or pair_in(names)):
        raise _no_column(str(path), TEXT)
    if not rows:
        raise UsageError(f"{path} has no rows", code="bad-data", option="data", path=path)
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _no_column(where: str, name: str) -> UsageError:
    pairs = ", ".join(map(" and ".join, PAIRS))
    return UsageError(
        f"{where} has no column {name!r} in its first line: name the columns {TEXT} (of pairs of texts {pairs}) and "
        f"{LABEL}",
        code="no-labels",
        option="data",
        path=where,
    )


def tokenizer_of(spec: TaskSpec) -> tuple[Any, str]:
    """The tokenizer that the option names, and its name with the commit. Of a repository only JSON is fetched, once,
    and no code runs.

    Raises UsageError where there is none, or it can't be fetched or read.
    """
    name = spec.tokenizer
    if name is None:
        raise UsageError(
            "texts need a tokenizer: give `tokenizer` a folder or repository that has one, such as the model's",
            code="missing-option",
            option="tokenizer",
        )
    from transformers import AutoTokenizer

    repository, _, revision = name.partition("@")
    folder = Path(name)
    if not folder.is_dir():
        folder = hub.snapshot(repository, revision or None, name, "tokenizer")
        name = f"{repository}@{folder.name}"
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False), name
    except Exception as error:  # a foreign file can fail anywhere
        raise UsageError(
            f"the tokenizer in {folder} can't be read ({one_line(error)})",
            code="bad-tokenizer",
            option="tokenizer",
            path=folder,
        ) from error
