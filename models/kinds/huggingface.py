"""`hf:DATASET[:CONFIG]`: images or texts with a class or labels each, by Hugging Face's `datasets`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwindle.errors import UsageError, one_line
from dwindle.models.folder import VALIDATION
from dwindle.models.kinds.columns import LABELS, TEXTS, Marks, Table, marked, marks_in, marks_of, one, pair_in
from dwindle.models.kinds.kind import Loaded
from dwindle.models.kinds.several import several
from dwindle.models.kinds.text import Target, loaded, rows_of
from dwindle.models.listed import Listed, Sample, note
from dwindle.models.pictures import Picture, Stored
from dwindle.models.sources import hub
from dwindle.models.spec import TaskSpec
from dwindle.task import Split

FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"}
"""The builders of `datasets` for a single file, by its suffix."""


@dataclass(frozen=True, eq=False)
class Cell(Stored):
    """An image in a row of a table."""

    table: Any
    column: str
    row: int
    name: str
    """Of the data set and split."""

    def __str__(self) -> str:
        return f"row {self.row} of {self.name}"

    def read(self) -> bytes:
        cell = self.table[self.row][self.column] or {}
        return cell.get("bytes") or (Path(cell["path"]).read_bytes() if cell.get("path") else b"")

    def identity(self) -> str:
        return f"{self.table._fingerprint} {self.row}\0"


def hf(where: str, spec: TaskSpec) -> Listed | Loaded:
    """`NAME`, `NAME@REVISION`, or a folder or file of parquet, arrow, csv, json or images; `:CONFIG` may follow.

    With a column of images they are told apart by the column of labels, or without one are images alone. Else the
    column of texts is, or two of pairs, as tokens of `tokenizer` of the length `max_length`. Of several columns the one
    with the usual name is taken: `label`, or `text`. Both have several labels where that column holds lists of
    classes, or where in its place columns hold 0 and 1; such images are trained on as `several` says. A repository is
    fetched once, then used offline; its code is never run.
    Raises UsageError where it can't be fetched or read, and where it isn't clear which column is meant.
    """
    found, data = _opened(where)
    splits = _usual(found, where)
    if others := [name for name, table in found.items() if not any(table is kept for kept in splits.values())]:
        note(f"hf:{where}: the splits {', '.join(others)} are left out")
    features = splits["train"].features
    label, images = _label_column(features), _images(features)
    if images is not None:
        if _have_several(splits, images):
            marks, names = _several(splits, _tables(splits, images), label, (), where)
            listed = {
                split: list(zip(_pictures(splits[split], images, f"{data}, {split}"), each, strict=True))
                for split, each in marks.items()
            }
            return several(listed, names, spec, {"data": data})
        one_each = _listed(splits, images, data)
        _note_unlabelled(splits, one_each.splits, where)
        return one_each
    texts, tables = _text_columns(features, where), _tables(splits)
    targets: Mapping[Split, Sequence[Target]]
    if label is None or _listed_classes(features[label]) is not None:
        targets, classes = _several(splits, tables, label, texts, where)
    else:
        targets, classes = _labels(splits, label, where)
        _note_unlabelled(splits, targets, where)
    rows = {split: rows_of(tables[split], texts, each) for split, each in targets.items()}
    return loaded(rows, classes, spec, {"data": data})


def pictures(where: str) -> Listed | None:
    """The images of a data set; None where it has none, or several labels for each of them."""
    found, data = _opened(where)
    splits = _usual(found, where)
    column = _images(splits["train"].features)
    return None if column is None or _have_several(splits, column) else _listed(splits, column, data)


def _opened(where: str) -> tuple[Mapping[str, Any], str]:
    """The splits by their own names, tables of `datasets`, and what leads to the very same data."""
    import datasets

    place, config = (where, None) if Path(where).exists() else _divided(where)
    data = f"hf:{where}"
    if Path(place).exists():
        root = Path(place)
    else:
        repository, _, revision = place.partition("@")
        root = hub.data_set(repository, revision or None, config, data)
        data = f"hf:{repository}@{root.name}" + (f":{config}" if config else "")
    try:
        if root.is_file():
            if root.suffix not in FORMATS:
                raise ValueError(f"a file is read that ends in {', '.join(FORMATS)}")
            made = datasets.load_dataset(FORMATS[root.suffix], data_files=str(root))
        elif (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
            made = datasets.load_from_disk(str(root))
        else:
            made = datasets.load_dataset(str(root), config)
    except Exception as error:  # a foreign file can fail anywhere
        raise UsageError(
            f"hf:{where} can't be read by `datasets` ({one_line(error)})",
            code="unreadable",
            option="data",
            name=where,
            path=root,
        ) from error
    return made if isinstance(made, Mapping) else {"train": made}, data


def _divided(where: str) -> tuple[str, str | None]:
    place, colon, config = where.rpartition(":")
    return (place, config) if colon else (where, None)


def _usual(found: Mapping[str, Any], where: str) -> dict[Split, Any]:
    """The splits by their usual names, without any others."""
    known: dict[str, Split] = {"train": "train", "test": "test", **dict.fromkeys(VALIDATION, "validation")}
    splits = {known[name]: table for name, table in found.items() if name in known}
    if len(found) == 1 and "train" not in splits:
        splits = {"train": next(iter(found.values()))}
    if "train" not in splits or not len(splits["train"]):
        raise UsageError(
            f"hf:{where} has no split to train on, of {', '.join(found)}: call one train",
            code="bad-data",
            option="data",
            name=where,
        )
    return splits


def _images(features: Mapping[str, Any]) -> str | None:
    import datasets

    return one([name for name, kind in features.items() if isinstance(kind, datasets.Image)], ("image", "img"))


def _label_column(features: Mapping[str, Any]) -> str | None:
    import datasets

    known = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    return one(known or [name for name in features if name in LABELS], LABELS)


def _listed_classes(kind: Any) -> tuple[str, ...] | None:
    """The names of the classes of a column whose rows list any number of them; None for other columns."""
    import datasets

    listed = isinstance(kind, datasets.List | datasets.LargeList) and isinstance(kind.feature, datasets.ClassLabel)
    return tuple(kind.feature.names) if listed else None


def _text_columns(features: Mapping[str, Any], where: str) -> tuple[str, ...]:
    texts = [name for name, kind in features.items() if getattr(kind, "dtype", "") in ("string", "large_string")]
    if pair := pair_in(texts):
        return pair
    column = one([name for name in texts if name not in LABELS], TEXTS)
    if column is None:
        raise UsageError(
            f"hf:{where} has no column of images or texts (there are {', '.join(features)})",
            code="bad-data",
            option="data",
            name=where,
        )
    return (column,)


def _listed(splits: dict[Split, Any], column: str, data: str) -> Listed:
    label = _label_column(splits["train"].features)
    labels, classes = _labels(splits, label, data) if label else (dict.fromkeys(splits), ())
    samples: dict[Split, list[Sample]] = {}
    for split, known in labels.items():
        found = _pictures(splits[split], column, f"{data}, {split}")
        samples[split] = list(zip(found, [0] * len(found) if known is None else known, strict=True))
    return Listed(samples, classes, data)


def _pictures(table: Any, column: str, name: str) -> list[Picture]:
    """The images of a split, not yet decoded."""
    import datasets

    cells = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    if (cells[0][column] or {}).get("bytes") is None and all(cell for cell in cells[column]):
        return [str(cell["path"]) for cell in cells[column]]
    return [Cell(cells, column, row, name) for row in range(len(cells))]


def _have_several(splits: Mapping[Split, Any], images: str) -> bool:
    """Whether each image has several labels, in a column of lists of classes or in columns of 0 and 1."""
    features = splits["train"].features
    if (label := _label_column(features)) is not None:
        return _listed_classes(features[label]) is not None
    return len(marks_in(_tables(splits, images)["train"])) > 1


def _several(
    splits: Mapping[Split, Any], tables: dict[Split, Table], label: str | None, texts: tuple[str, ...], where: str
) -> tuple[dict[Split, list[Marks]], tuple[str, ...]]:
    """Several labels of each row, and their names: the classes that the column `label` lists, or, where there is no
    such column, the columns of 0 and 1. Raises as `marked` does."""
    names = None if label is None else _listed_classes(splits["train"].features[label])
    if label is None or names is None:
        return marked(tables, texts, f"hf:{where}")
    return {split: marks_of(table[label], names) for split, table in tables.items()}, names


def _tables(splits: Mapping[Split, Any], without: str = "") -> dict[Split, Table]:
    """By column, all but one whose values take long to make."""
    return {
        split: {name: table[name] for name in table.column_names if name != without} for split, table in splits.items()
    }


def _labels(splits: dict[Split, Any], column: str, where: str) -> tuple[dict[Split, list[int]], tuple[str, ...]]:
    """The class of each sample of the splits that have labels, and the names of the classes."""
    import datasets

    kind = splits["train"].features[column]
    if isinstance(kind, datasets.List | datasets.LargeList):
        raise UsageError(
            f"the column {column} of {where} holds lists of what isn't `datasets.ClassLabel`: cast it to a list of "
            "that, or give one class for each row",
            code="bad-data",
            option="data",
            name=column,
        )
    found = {split: list(table[column]) for split, table in splits.items()}
    missing = {split: [value is None or value == -1 for value in values] for split, values in found.items()}
    for split in list(found):
        if split != "train" and all(missing[split]):
            del found[split]
        elif any(missing[split]):
            raise UsageError(
                f"row {missing[split].index(True)} of the {split} split of {where} has no label: leave it out",
                code="no-labels",
                option="data",
                name=where,
            )
    if isinstance(kind, datasets.ClassLabel):
        labels, classes = found, tuple(kind.names)
    else:
        values = sorted(set(found["train"]))
        place = {value: index for index, value in enumerate(values)}
        if odd := next((value for each in found.values() for value in each if value not in place), None):
            raise UsageError(
                f"the label {odd!r} of {where} isn't in train: add samples of it there",
                code="classes-differ",
                option="data",
                name=str(odd),
            )
        labels, classes = (
            {split: [place[one] for one in each] for split, each in found.items()},
            tuple(map(str, values)),
        )
    if len(classes) < 2:
        raise UsageError(
            f"{where} has one class, {classes[0]}: there is nothing to tell apart",
            code="one-class",
            option="data",
            name=classes[0],
        )
    return labels, classes


def _note_unlabelled(splits: Mapping[Split, Any], labelled: Mapping[Split, Any], where: str) -> None:
    for split in splits:
        if split not in labelled:
            note(f"hf:{where}: the {split} split has no labels and is left out")
