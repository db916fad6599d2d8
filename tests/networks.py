"""Networks for tests that take or give more than one tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Detector(nn.Module):
    """Gives boxes and scores, as a detector without its non-maximum suppression."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.box, self.score = nn.Linear(16, 12), nn.Linear(16, 5)

    def forward(self, image: Tensor) -> dict[str, Any]:
        features = self.stem(image).mean((2, 3))
        scores = self.score(features)
        return {"boxes": self.box(features).view(-1, 3, 4), "scores": [scores, None], "label": scores.argmax(-1)}


@dataclass
class Heard:
    """What a piece of a stream is, and the state to hear the next with."""

    speech: Tensor
    memory: Tensor
    attention: Tensor | None = None


class Listener(nn.Module):
    """Tells speech from noise in a stream, piece by piece."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(8, hidden, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, frames: Tensor, state: Tensor) -> Heard:
        heard, last = self.cell(frames, state.transpose(0, 1))
        return Heard(self.head(heard[:, -1]).sigmoid(), last.transpose(0, 1))


class Reader(nn.Module):
    """Token ids and their mask to scores, and the sentence's embedding."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.words = nn.Embedding(50, width)
        self.inner, self.head = nn.Linear(width, 32), nn.Linear(32, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        weights = attention_mask.float().unsqueeze(-1)
        whole = (torch.relu(self.inner(self.words(input_ids))) * weights).sum(1) / weights.sum(1)
        return self.head(whole), {"embedding": whole}


class Scales(nn.Module):
    """A detector that looks at three scales, as YOLO does: of each a map of boxes and scores, [batch, 8, h, w]."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        self.stem = self._block(3, width, stride=2)
        self.down = nn.ModuleList(self._block(a, b, stride=2) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(self._block(a + b, a, kernel=1) for a, b in pairwise(widths[1:]))
        self.heads = nn.ModuleList(nn.Sequential(self._block(w, 8), nn.Conv2d(8, 8, 1)) for w in widths[1:])

    @staticmethod
    def _block(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU())

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: [batch, 3, 16 n, 16 m]."""
        maps = [self.down[0](self.stem(image))]
        for down in self.down[1:]:
            maps.append(down(maps[-1]))
        for level in (1, 0):
            above = functional.interpolate(maps[level + 1], scale_factor=2.0)
            maps[level] = self.merge[level](torch.cat([maps[level], above], 1))
        return [head(each) for head, each in zip(self.heads, maps, strict=True)]


class Vad(nn.Module):
    """Silero's voice activity detector: a spectrum by convolution, four convolutions and an LSTM's step. The state is
    the LSTM's two, [batch, 2, hidden]. With the sizes that it has by default it takes the real weights."""

    def __init__(self, bins: int = 129, widths: tuple[int, int, int] = (128, 64, 128)) -> None:
        super().__init__()
        wide, narrow, hidden = widths
        self.bins, hop = bins, bins - 1
        self.stft_conv = nn.Conv1d(1, 2 * bins, 2 * hop, hop, bias=False)
        self.conv1, self.conv2 = nn.Conv1d(bins, wide, 3, 1, 1), nn.Conv1d(wide, narrow, 3, 2, 1)
        self.conv3, self.conv4 = nn.Conv1d(narrow, narrow, 3, 2, 1), nn.Conv1d(narrow, hidden, 3, 1, 1)
        self.lstm_cell, self.final_conv = nn.LSTMCell(hidden, hidden), nn.Conv1d(hidden, 1, 1)

    def forward(self, samples: Tensor, state: Tensor) -> Heard:
        """samples: [batch, 4.5 hops]."""
        x = functional.pad(samples, (0, (self.bins - 1) // 2), "reflect").unsqueeze(1)
        real, imaginary = self.stft_conv(x).split(self.bins, 1)
        x = (real.square() + imaginary.square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = layer(x).relu()
        hidden, cell = self.lstm_cell(x.squeeze(-1), state.unbind(1))
        speech = self.final_conv(hidden.relu().unsqueeze(-1)).sigmoid().mean(-1)
        return Heard(speech, torch.stack([hidden, cell], 1))


def sentences(count: int = 6) -> dict[str, Tensor]:
    """A batch of inputs for Reader, by name."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 9, (count, 1), generator=generator)
    return {
        "input_ids": torch.randint(0, 50, (count, 8), generator=generator),
        "attention_mask": (torch.arange(8)[None] < lengths).long(),
    }


class Reading:
    """A task of sentences: which quarter of the words the first one is from."""

    steps, metric = 20, "right"

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        batch = sentences(32)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(round(self.steps * (1 - start))):
            scores, rest = model.train()(**batch)
            loss = nn.functional.cross_entropy(scores, batch["input_ids"][:, 0] * 4 // 50) + rest["embedding"].mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            on_step(loss.item())

    def evaluate(self, model: nn.Module, split: str) -> float:
        batch = sentences(16)
        with torch.no_grad():
            scores, rest = model.eval()(**batch)
        assert rest["embedding"].shape[0] == 16
        return 100 * float((scores.argmax(1) == batch["input_ids"][:, 0] * 4 // 50).float().mean())

    def example_inputs(self) -> dict[str, Tensor]:
        return sentences(1)

    def inputs(self, split: str) -> dict[str, Tensor]:
        return dict(reversed(sentences(16).items()))


class Attending(nn.Module):
    """Attention over token ids with places counted in forward, and a mask of fp32's lowest value."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.inner = nn.Linear(16, 16)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device) + 0
        x = self.words(ids) + self.places(places[None])
        lowest = (1.0 - mask[:, None].float()) * torch.finfo(torch.float32).min
        scores = torch.softmax(x @ x.transpose(1, 2) / 4 + lowest, -1)
        return self.inner(scores @ x)  # type: ignore[no-any-return]
