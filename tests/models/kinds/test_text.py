"""Texts in files of comma-separated values, by a tokenizer that the test trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dwindle.compress import Request
from dwindle.compress.prepared import prepare
from dwindle.errors import UsageError
from dwindle.models.tasks import make_task
from tests.models.sources.conftest import COMMIT, Cached, cached
from tests.texts import films, marked, pairs, tiny_bert

pytestmark = pytest.mark.needs("transformers")
__all__ = ["cached"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    tiny_bert(folder)
    return folder


@pytest.mark.slow
def test_a_bert_learns_texts_by_the_models_own_tokenizer(tmp_path: Path, bert: Path) -> None:
    options: dict[str, Any] = {"data": f"text:{films(tmp_path / 'films.csv')}", "max_length": 12}
    options |= {"epochs": 12, "batch_size": 16, "lr": 0.01}
    ready = prepare(Request(f"hf:{bert}", options, density=0.5, target="pytorch", granularity="unstructured"))
    assert ready.task.class_names == ("bad", "good")
    assert [each.name for each in ready.signature.inputs] == ["input_ids", "attention_mask"]
    assert ready.task.inputs("test")[0].shape == (16, 12)
    ready.task.fit(ready.network.model, start=0.0, on_step=lambda loss: None)
    assert ready.task.evaluate(ready.network.model, "test") == 100


@pytest.mark.slow
def test_a_bert_learns_pairs_of_texts_and_which_of_the_two_a_token_is_of(tmp_path: Path, bert: Path) -> None:
    options: dict[str, Any] = {"data": f"text:{films(tmp_path / 'pairs.csv', pairs())}", "max_length": 12}
    options |= {"epochs": 30, "batch_size": 16, "lr": 0.01}
    ready = prepare(Request(f"hf:{bert}", options, density=0.5, target="pytorch", granularity="unstructured"))
    assert [each.name for each in ready.signature.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    ids, mask, kinds = ready.task.inputs("test")
    assert ids.shape == mask.shape == kinds.shape == (16, 12)
    assert kinds.unique().tolist() == [0, 1]
    ready.task.fit(ready.network.model, start=0.0, on_step=lambda loss: None)
    assert ready.task.evaluate(ready.network.model, "test") > 90


@pytest.mark.slow
def test_a_bert_learns_several_labels_from_columns_of_0_and_1(
    tmp_path: Path, bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    films(data / "train.csv", marked())
    films(data / "test.csv", [{"text": row["text"], "id": row["id"]} for row in marked()])
    options: dict[str, Any] = {"data": f"text:{data}", "max_length": 12, "epochs": 30, "batch_size": 16, "lr": 0.01}
    ready = prepare(Request(f"hf:{bert}", options, density=0.5, target="pytorch", granularity="unstructured"))
    assert (ready.task.class_names, ready.task.metric) == (("good", "mild"), "mean-average-precision")
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "good, mild" in said
    assert "test split has no labels" in said
    assert len(ready.task.inputs("test")[0]) == 16  # carved from train
    ready.task.fit(ready.network.model, start=0.0, on_step=lambda loss: None)
    assert ready.task.evaluate(ready.network.model, "test") > 75  # chance is about 40


def test_rows_that_lack_one_of_several_labels_are_named(tmp_path: Path) -> None:
    films(tmp_path / "train.csv", marked())
    films(tmp_path / "val.csv", [*marked()[:3], {**marked()[3], "mild": "-1"}])
    with pytest.raises(UsageError) as caught:
        make_task({"data": f"text:{tmp_path}", "tokenizer": str(tmp_path)})
    assert (caught.value.code, caught.value.option) == ("no-labels", "data")
    assert "row 3 of the validation split" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("text,label\n", "bad-data"),
        ("sentence,label\na,b\n", "no-labels"),
        ("premise,label\na,b\n", "no-labels"),
        ("text,good,id\na,0,3\nb,1,4\n", "no-labels"),
        (b"text,label\n\xff\xfe,a\n", "unreadable"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: str | bytes, code: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError) as caught:
        make_task({"data": f"text:{path}", "tokenizer": str(tmp_path)})
    assert (caught.value.code, caught.value.option) == (code, "data")


def test_without_a_tokenizer_and_with_one_that_is_none(tmp_path: Path) -> None:
    path = films(tmp_path / "films.csv")
    for tokenizer in (None, str(tmp_path)):
        with pytest.raises(UsageError) as caught:
            make_task({"data": f"text:{path}", "tokenizer": tokenizer})
        assert caught.value.option == "tokenizer"


def test_a_tokenizer_fetched_before_is_recorded_by_its_commit(tmp_path: Path, cached: Cached) -> None:
    folder = cached("ours/words")
    tiny_bert(folder)
    for weights in folder.glob("*.safetensors"):  # a tokenizer takes none
        weights.unlink()
    (folder / "tokenization_own.py").write_text("raise SystemExit('ran')")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["tokenization_own.Own", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    path = films(tmp_path / "films.csv")
    made = make_task({"data": f"text:{path}", "tokenizer": "ours/words", "max_length": 12})
    assert made.origin["tokenizer"] == f"ours/words@{COMMIT}"  # type: ignore[index]
    assert make_task(made.origin).origin == made.origin  # type: ignore[arg-type]
    with pytest.raises(UsageError) as caught:
        make_task({"data": f"text:{path}", "tokenizer": "ours/absent"})
    assert (caught.value.code, caught.value.option) == ("unreachable", "tokenizer")
    assert "tokenizer.json" in str(caught.value)
