"""Texts in files of comma-separated values, by a tokenizer that the test trains."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from dwindle.compress import Request
from dwindle.compress.compression import prepare
from dwindle.errors import UsageError
from dwindle.models.tasks import make_task

pytestmark = pytest.mark.needs("transformers")
WORDS = {"good": ("fine", "great", "lovely"), "bad": ("awful", "poor", "dull")}


def rows() -> list[dict[str, str]]:
    return [
        {"text": f"a {WORDS[label][index % 3]} film, number {index}", "label": label}
        for index in range(40)
        for label in WORDS
    ]


def file(at: Path, made: list[dict[str, str]]) -> Path:
    with at.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, made[0].keys())
        writer.writeheader()
        writer.writerows(made)
    return at


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    own = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.train_from_iterator(
        [row["text"] for row in rows()], trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"])
    )
    PreTrainedTokenizerFast(tokenizer_object=own, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    made = BertConfig(vocab_size=own.get_vocab_size(), max_position_embeddings=12, num_labels=3, **sizes)
    BertForSequenceClassification(made).save_pretrained(folder)
    return folder


def test_a_bert_learns_texts_by_the_models_own_tokenizer(tmp_path: Path, bert: Path) -> None:
    options: dict[str, Any] = {"data": f"text:{file(tmp_path / 'films.csv', rows())}", "max_length": 12}
    options |= {"epochs": 12, "batch_size": 16, "lr": 0.01}
    ready = prepare(Request(f"hf:{bert}", options, density=0.5, target="pytorch", granularity="unstructured"))
    assert ready.task.class_names == ("bad", "good")
    assert [each.name for each in ready.signature.inputs] == ["input_ids", "attention_mask"]
    assert ready.task.inputs("test")[0].shape == (16, 12)
    ready.task.fit(ready.network.model, start=0.0, on_step=lambda loss: None)
    assert ready.task.evaluate(ready.network.model, "test") == 100


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("text,label\n", "bad-data"),
        ("sentence,label\na,b\n", "no-labels"),
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
    path = file(tmp_path / "films.csv", rows())
    for tokenizer in (None, str(tmp_path)):
        with pytest.raises(UsageError) as caught:
            make_task({"data": f"text:{path}", "tokenizer": tokenizer})
        assert caught.value.option == "tokenizer"
