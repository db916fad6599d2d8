"""`text:FILE.csv` or `text:FOLDER`: texts with a class each, as the tokens of a tokenizer of transformers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dwindle.errors import UsageError, one_line
from dwindle.models.folder import VALIDATION
from dwindle.models.kinds.kind import Loaded, with_all_splits
from dwindle.models.sources import hub
from dwindle.models.spec import TaskSpec
from dwindle.task import Split

TEXT, LABEL = "text", "label"
Row = tuple[str, str]


def text(where: str, spec: TaskSpec) -> Loaded:
    """A file of comma-separated values with the columns `text` and `label`, or a folder with `train.csv`, `val.csv` and
    `test.csv` of that form.

    A sample is `input_ids` and `attention_mask`, (max_length,) int64, cut or filled up to that length, by the tokenizer
    of a folder or repository (option `tokenizer`; by default that of an `hf:` model). The classes are the labels,
    sorted.
    Raises UsageError for a file that can't be read, and where there is no tokenizer.
    """
    found = {split: _rows(path) for split, path in _files(Path(where)).items()}
    rows = with_all_splits(found, lambda row: row[1])
    classes = tuple(sorted({label for every in rows.values() for _, label in every}))
    if len(classes) < 2:
        raise UsageError(f"{where} has one label, {classes[0]!r}: there is nothing to tell apart", option="data")
    tokenizer, name = tokenizer_of(spec)
    made = {split: Texts(every, classes, tokenizer, spec.max_length) for split, every in rows.items()}
    return Loaded(made, classes, exact={"tokenizer": name})


class Texts(Dataset[dict[str, Any]]):
    """Texts as token ids with their mask, and their classes."""

    def __init__(self, rows: list[Row], classes: tuple[str, ...], tokenizer: Any, length: int) -> None:
        made = tokenizer([row for row, _ in rows], truncation=True, padding="max_length", max_length=length)
        self.ids, self.mask = (torch.tensor(made[name]) for name in ("input_ids", "attention_mask"))
        self.targets = [classes.index(label) for _, label in rows]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        return {"input_ids": self.ids[index], "attention_mask": self.mask[index], "labels": self.targets[index]}


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


def _rows(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            read = csv.DictReader(file)
            if missing := [name for name in (TEXT, LABEL) if name not in (read.fieldnames or ())]:
                raise UsageError(
                    f"{path} has no column {missing[0]!r} in its first line: name the columns {TEXT} and {LABEL}",
                    code="no-labels",
                    option="data",
                    path=path,
                )
            rows = [(row[TEXT] or "", row[LABEL] or "") for row in read]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} can't be read as comma-separated values in UTF-8 ({one_line(error)})",
            code="unreadable",
            option="data",
            path=path,
        ) from error
    if not rows:
        raise UsageError(f"{path} has no rows", code="bad-data", option="data", path=path)
    return rows


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
