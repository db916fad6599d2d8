"""Networks for tests that take or give more than one tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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
