"""Data sets by the real `datasets`, from folders as it writes them and from the cache of the Hub's own library."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dwindle.compress import Request, compress
from dwindle.compress.prepared import prepare
from dwindle.compress.watcher import Watcher
from dwindle.errors import UsageError
from dwindle.models.build import restore
from dwindle.models.photos.rule import photographs_in
from dwindle.models.tasks import make_task, restore_task
from tests.models.sources.conftest import COMMIT, cached
from tests.texts import rows, tiny_bert

pytestmark = pytest.mark.needs("datasets", "transformers")
__all__ = ["cached"]

LEVELS = {"dark": 60, "light": 190}
Table = dict[str, list[Any]]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where `datasets` keeps what it has converted."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(level: int, across: int = 12) -> Image.Image:
    noise = np.random.RandomState(level).randint(-40, 40, (across, across, 3))
    return Image.fromarray((level + noise).clip(0, 255).astype(np.uint8))


def png(level: int, across: int = 12) -> dict[str, Any]:
    file = io.BytesIO()
    picture(level, across).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def images(count: int = 12, across: int = 12, first: int = 0) -> Table:
    samples = [(name, level + 2 * (first + index)) for index in range(count) for name, level in LEVELS.items()]
    return {
        "image": [png(level, across) for _, level in samples],
        "label": [list(LEVELS).index(name) for name, _ in samples],
    }


def save(to: Path, table: Table, labels: bool = True) -> Path:
    """A parquet file with a column of images, and one of labels with their names."""
    import datasets

    kinds: dict[str, Any] = {"image": datasets.Image()}
    kinds |= {"label": datasets.ClassLabel(names=list(LEVELS))} if labels and "label" in table else {}
    made = datasets.Dataset.from_dict(table)
    for name, kind in kinds.items():
        made = made.cast_column(name, kind) if name in table else made
    to.parent.mkdir(parents=True, exist_ok=True)
    made.to_parquet(str(to))
    return to


@pytest.mark.slow
def test_parquet_by_split_trains_as_a_folder_does(tmp_path: Path) -> None:
    where = tmp_path / "ours"
    save(where / "train-00000-of-00001.parquet", images(12))
    save(where / "validation-00000-of-00001.parquet", images(4, first=12))
    net = compress(
        Request(
            "zoo:resnet8",
            {"data": f"hf:{where}", "epochs": 4, "batch_size": 8},
            density=0.5,
            rounds=1,
            target="pytorch",
            granularity="unstructured",
        ),
        tmp_path / "net.dwindle",
        Watcher(),
    )
    task = restore_task(net)
    assert (task.class_names, net.data_folder) == (("dark", "light"), "../ours")
    assert len(task.labels("validation")) == 8  # type: ignore[arg-type]
    assert len(task.labels("test")) == 4  # type: ignore[arg-type]  # carved from train
    assert task.evaluate(restore(net), "validation") == 100
    where.rename(tmp_path / "moved")
    assert restore_task(net, data=f"hf:{tmp_path / 'moved'}").class_names == ("dark", "light")


def test_a_file_and_what_save_to_disk_and_imagefolder_write(tmp_path: Path) -> None:
    import datasets

    of_parquet = make_task({"data": f"hf:{save(tmp_path / 'a.parquet', images())}"})
    made = datasets.load_dataset("parquet", data_files=str(tmp_path / "a.parquet"))
    made.save_to_disk(str(tmp_path / "saved"))
    assert make_task({"data": f"hf:{tmp_path / 'saved'}"}).origin["fingerprint"] == of_parquet.origin["fingerprint"]  # type: ignore[index]
    for index in range(6):
        for name, level in LEVELS.items():
            (tmp_path / "folder" / name).mkdir(parents=True, exist_ok=True)
            picture(level + index).save(tmp_path / "folder" / name / f"{index}.png")
    by_datasets = make_task({"data": f"hf:{tmp_path / 'folder'}"})
    ours = make_task({"data": str(tmp_path / "folder")})
    for split in ("train", "validation", "test"):
        assert torch.equal(by_datasets.inputs(split)[0], ours.inputs(split)[0])


@pytest.mark.slow
def test_large_images_are_trained_on_as_photographs(tmp_path: Path) -> None:
    file = save(tmp_path / "a.parquet", images(8, across=64))
    assert photographs_in(f"hf:{file}") == 16
    assert photographs_in(f"hf:{save(tmp_path / 'b.parquet', images(4))}") == photographs_in("hf:no/such") == 0
    ready = prepare(Request("zoo:resnet8", {"data": f"hf:{file}", "image_size": 32}, density=0.5, target="pytorch"))
    assert ready.task.origin["photographs"]  # type: ignore[index]
    options = {"data": f"hf:{file}", "photographs": True, "image_size": 32, "epochs": 1, "batch_size": 4, "seed": 3}
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    losses = {}
    for workers in (0, 2):
        torch.nn.init.zeros_(network[1].weight)
        torch.nn.init.zeros_(network[1].bias)
        losses[workers] = list[float]()
        make_task({**options, "workers": workers}).fit(network, start=0.0, on_step=losses[workers].append)
    assert len(losses[0]) == 2
    assert losses[0] == losses[2]


def test_a_repository_fetched_before_is_recorded_by_its_commit(cached: Callable[[str], Path]) -> None:
    folder = cached("ours/marks")
    (folder.parents[1]).rename(folder.parents[2] / "datasets--ours--marks")
    folder = folder.parents[2] / "datasets--ours--marks" / "snapshots" / COMMIT
    save(folder / "small/train.parquet", images(8))
    save(folder / "large/train.parquet", images(12))
    listed = "\n".join(f"- config_name: {name}\n  data_files: {name}/*.parquet" for name in ("small", "large"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{listed}\n---\n")
    made = make_task({"data": "hf:ours/marks:small"})
    assert made.origin["data"] == f"hf:ours/marks@{COMMIT}:small"  # type: ignore[index]
    again = make_task({"data": f"hf:ours/marks@{COMMIT}:small"})
    assert again.origin == made.origin
    assert len(make_task({"data": "hf:ours/marks:large"}).inputs("train")[0]) > len(made.inputs("train")[0])
    with pytest.raises(UsageError) as caught:
        make_task({"data": "hf:ours/absent"})
    assert (caught.value.code, caught.value.option) == ("unreachable", "data")
    assert "hf:FOLDER" in str(caught.value)


@pytest.mark.slow
def test_texts_by_the_models_own_tokenizer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import datasets

    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    table = {name: [row[name] for row in rows()] for name in ("text", "label")}
    table["label"] = [("bad", "good").index(label) for label in table["label"]]  # type: ignore[misc]
    train = datasets.Dataset.from_dict(table, features=kinds)
    test = datasets.Dataset.from_dict({**table, "label": [-1] * len(train)}, features=kinds)
    made = datasets.DatasetDict({"train": train, "test": test, "unsupervised": test})
    made.save_to_disk(str(tmp_path / "films"))
    tiny_bert(tmp_path / "bert")
    options: dict[str, Any] = {"data": f"hf:{tmp_path / 'films'}", "max_length": 12, "epochs": 12, "batch_size": 16}
    request = Request(
        f"hf:{tmp_path / 'bert'}", {**options, "lr": 0.01}, density=0.5, target="pytorch", granularity="unstructured"
    )
    ready = prepare(request)
    assert ready.task.class_names == ("bad", "good")
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "unsupervised" in said
    assert "test split has no labels" in said
    assert len(ready.task.inputs("test")[0]) == 16  # carved from train
    ready.task.fit(ready.network.model, start=0.0, on_step=lambda loss: None)
    assert ready.task.evaluate(ready.network.model, "test") == 100


def test_pairs_of_texts_with_lists_of_classes(tmp_path: Path) -> None:
    import datasets

    kinds = datasets.Features(
        {
            "idx": datasets.Value("int32"),
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "labels": datasets.List(datasets.ClassLabel(names=["glad", "calm", "sad"])),
        }
    )
    table: Table = {
        "idx": list(range(20)),
        "sentence1": ["a fine film"] * 20,
        "sentence2": ["great"] * 19 + [None],
        "labels": [[0, 2], [1], [], [1, 2]] * 5,
    }
    datasets.Dataset.from_dict(table, features=kinds).save_to_disk(str(tmp_path / "moods"))
    tiny_bert(tmp_path / "bert")
    options = {"data": f"hf:{tmp_path / 'moods'}", "tokenizer": str(tmp_path / "bert"), "max_length": 8}
    made = make_task(options)
    assert (made.class_names, made.metric) == (("glad", "calm", "sad"), "mean-average-precision")
    task: Any = made.given
    assert list(task.example_inputs()) == ["input_ids", "attention_mask", "token_type_ids"]
    _, targets, _ = task._parts["train"].batch([(0, 0)])
    assert targets.dtype == torch.float32
    assert targets[0].tolist() in ([1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 1, 1])


def test_images_without_labels_are_images_alone(tmp_path: Path) -> None:
    file = save(tmp_path / "a.parquet", {"image": images()["image"]})
    assert not make_task({"data": f"hf:{file}"}).labelled


@pytest.mark.parametrize(
    ("table", "code"),
    [
        ({"note": ["a", "b"], "other": ["c", "d"], "label": [0, 1]}, "ambiguous"),
        ({"text": ["a", "b"]}, "no-labels"),
        ({"text": ["a", "b"], "labels": [["x"], ["y"]]}, "bad-data"),
        ({"image": [png(60), png(190)], "labels": [[0], [1]]}, "bad-data"),
        ({"number": [1, 2], "label": [0, 1]}, "bad-data"),
        ({"image": [png(60), png(190)], "label": [0, None]}, "no-labels"),
        ({"image": [png(60), png(190)], "label": ["a", "a"]}, "one-class"),
        ({"image": [png(60), {"bytes": b"none", "path": None}] * 4, "label": ["a", "b"] * 4}, "unreadable"),
    ],
)
def test_data_of_which_it_is_not_clear_what_to_learn(tmp_path: Path, table: Table, code: str) -> None:
    import datasets

    made = datasets.Dataset.from_dict(table)
    made = made.cast_column("image", datasets.Image()) if "image" in table else made
    made.to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(UsageError) as caught:
        make_task({"data": f"hf:{tmp_path / 'a.parquet'}"})
    assert (caught.value.code, caught.value.option) == (code, "data")


@pytest.mark.parametrize("spoil", ["pickle", "script", "nothing", "damaged"])
def test_what_datasets_cannot_read_and_what_would_run_code(tmp_path: Path, spoil: str) -> None:
    ran = tmp_path / "ran"
    where = tmp_path / "theirs"
    where.mkdir()
    if spoil == "script":
        (where / "theirs.py").write_text(f"open({str(ran)!r}, 'w')\n")
    elif spoil == "pickle":
        import pickle

        (where / "train.pkl").write_bytes(pickle.dumps({"text": ["a"], "label": [0]}))
    elif spoil == "damaged":
        (where / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UsageError) as caught:
        make_task({"data": f"hf:{where}"})
    assert (caught.value.code, caught.value.option) == ("unreadable", "data")
    assert not ran.exists()


def test_broken_images_are_left_out_where_that_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = images()
    table["image"][5] = {"bytes": png(60)["bytes"][:300], "path": None}
    table["image"][6] = None
    file = save(tmp_path / "a.parquet", table)
    with pytest.raises(UsageError) as caught:
        make_task({"data": f"hf:{file}"})
    assert caught.value.code == "unreadable"
    made = make_task({"data": f"hf:{file}", "skip_broken": True})
    assert "2 of 24 images" in " ".join(record.getMessage() for record in caplog.records)
    assert sum(len(made.inputs(split)[0]) for split in ("train", "validation", "test")) == 22


def several_labels(lists: bool) -> Table:
    """Images that are dark or light, and all of them grey: as columns of 0 and 1 or as lists of classes."""
    table = images()
    labels = table.pop("label")
    if lists:
        return {**table, "label": [[one, 2] for one in labels]}
    return {**table, "dark": [1 - one for one in labels], "light": labels, "grey": [*[1] * 23, 0]}


def saved_several(to: Path, table: Table) -> Path:
    import datasets

    made = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    if "label" in table:
        made = made.cast_column("label", datasets.List(datasets.ClassLabel(names=["dark", "light", "grey"])))
    made.to_parquet(str(to))
    return to


@pytest.mark.parametrize("lists", [True, False])
def test_images_have_several_labels_by_lists_and_by_columns(
    lists: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved_several(tmp_path / "several.parquet", several_labels(lists))
    task = make_task({"data": f"hf:{file}", "image_size": 8, "epochs": 2, "batch_size": 8})
    assert task.labelled
    assert task.class_names == ("dark", "light", "grey")
    (held_out,) = task.inputs("test")
    assert held_out.shape[1:] == (3, 8, 8)
    assert held_out.abs().mean() < 3  # normalised by their own mean and deviation
    assert any("dark, light, grey" in record.getMessage() for record in caplog.records) != lists
    assert photographs_in(f"hf:{file}") == 0  # they are no photographs of one class
    with pytest.raises(UsageError) as caught:
        make_task({"data": f"hf:{file}"})
    assert (caught.value.code, caught.value.option) == ("missing-option", "image_size")


@pytest.mark.slow
def test_a_network_of_several_labels_of_images_is_compressed_and_made_again(tmp_path: Path) -> None:
    file = saved_several(tmp_path / "several.parquet", several_labels(lists=True))
    options = {"data": f"hf:{file}", "image_size": 16, "epochs": 2, "batch_size": 8}
    net = compress(
        Request("zoo:resnet8", options, density=0.5, rounds=1, target="pytorch", granularity="unstructured"),
        tmp_path / "net.dwindle",
        Watcher(),
    )
    assert net.preprocessing is not None
    assert net.preprocessing.classes == ("dark", "light", "grey")
    assert restore_task(net).evaluate(restore(net), "validation") == 100  # mean average precision
