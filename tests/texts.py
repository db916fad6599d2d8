"""Texts for tests, and a BERT small enough to learn them in a second."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import nn

WORDS = {"good": ("fine", "great", "lovely"), "bad": ("awful", "poor", "dull")}


def rows() -> list[dict[str, str]]:
    return [
        {"text": f"a {WORDS[label][index % 3]} film, number {index}", "label": label}
        for index in range(40)
        for label in WORDS
    ]


def pairs() -> list[dict[str, str]]:
    """Texts that are judged by their second part; the first says the opposite half of the time."""
    said = [row["text"] for row in rows()]
    return [
        {"premise": said[(index * 7) % len(said)], "hypothesis": row["text"], "label": row["label"]}
        for index, row in enumerate(rows())
    ]


def marked() -> list[dict[str, str]]:
    """Texts with two labels, each of which is true of some of them, and a number that is none."""
    return [
        {
            "id": str(index),
            "text": row["text"],
            "good": str(int(row["label"] == "good")),
            "mild": str(int(any(word in row["text"] for word in ("fine", "poor")))),
        }
        for index, row in enumerate(rows())
    ]


def films(at: Path, table: list[dict[str, str]] | None = None) -> Path:
    """Writes the texts as a file of comma-separated values."""
    table = table or rows()
    with at.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, table[0].keys())
        writer.writeheader()
        writer.writerows(table)
    return at


def bert() -> nn.Module:
    """A tiny BERT without a head, with random weights."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=50, max_position_embeddings=12, **sizes)).eval()


def tiny_bert(folder: Path) -> None:
    """Writes a folder with a tiny BERT and its tokenizer, as the hub's repositories have them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    own = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.train_from_iterator(
        [row["text"] for row in rows()], trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"])
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]  # a BERT's
    PreTrainedTokenizerFast(
        tokenizer_object=own, unk_token="[UNK]", pad_token="[PAD]", model_input_names=names
    ).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    made = BertConfig(vocab_size=own.get_vocab_size(), max_position_embeddings=12, num_labels=3, **sizes)
    BertForSequenceClassification(made).save_pretrained(folder)
