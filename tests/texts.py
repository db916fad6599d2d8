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


def films(at: Path) -> Path:
    """Writes the texts as a file of comma-separated values."""
    with at.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, rows()[0].keys())
        writer.writeheader()
        writer.writerows(rows())
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
    PreTrainedTokenizerFast(tokenizer_object=own, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    made = BertConfig(vocab_size=own.get_vocab_size(), max_position_embeddings=12, num_labels=3, **sizes)
    BertForSequenceClassification(made).save_pretrained(folder)
