"""A task that isn't classification: where on a canvas is the digit? Adam, two losses, a metric of its own.

    dwindle compress examples.locate:Locator --task examples.locate:Locate --size 20KB -o locate.dwindle

The network answers with a box, (N, 4) as centre and size in units of the canvas. The metric is the share of
boxes whose intersection over union with the truth is at least one half, in percent. With `optimizer`,
`state_dict` and `inputs`, momentum survives the rounds, a killed run resumes exactly, and exports are
compared on real canvases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

CANVAS = 24


class Locator(nn.Module):
    """(N, 1, 24, 24) → (N, 4): centre x, centre y, width, height, each in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 32)
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(widths)
        ]
        self.features = nn.Sequential(*layers)
        self.box = nn.Linear(32 * 3 * 3, 4)

    def forward(self, canvas: Tensor) -> Tensor:
        corners: Tensor = self.box(self.features(canvas).flatten(1))
        return corners.sigmoid()


class Locate:
    """Real handwritten digits, each at a random place on its canvas, at one of three sizes."""

    def __init__(self, epochs: int = 12, seed: int = 0) -> None:
        self.epochs, self.batch = epochs, 64
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer: torch.optim.AdamW | None = None
        images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
        canvases, boxes = _place(images, torch.Generator().manual_seed(0))
        cuts = {"train": slice(0, 1200), "validation": slice(1200, 1500), "test": slice(1500, None)}
        self.data = {split: (canvases[cut], boxes[cut]) for split, cut in cuts.items()}

    @property
    def steps(self) -> int:
        return self.epochs * (len(self.data["train"][0]) // self.batch)

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        model.train()
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        canvases, boxes = self.data["train"]
        for step in range(round(start * self.steps), self.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = 3e-3 * (1 - step / self.steps)
            chosen = torch.randint(len(canvases), (self.batch,), generator=self.generator)
            predicted = model(canvases[chosen])
            loss = functional.smooth_l1_loss(predicted, boxes[chosen]) + (1 - _iou(predicted, boxes[chosen])).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            on_step(loss.item())

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> float:
        canvases, boxes = self.data[split]
        return 100 * (_iou(model.eval()(canvases), boxes) >= 0.5).float().mean().item()

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self.data["train"][0][:1],)

    def inputs(self, split: str) -> tuple[Tensor, ...]:
        return (self.data[split][0][:64],)

    def state_dict(self) -> dict[str, Tensor]:
        state = {"generator": self.generator.get_state()}
        for i, entry in enumerate(self.optimizer.state.values() if self.optimizer else ()):
            state |= {f"{i}/{name}": torch.as_tensor(value).clone() for name, value in entry.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self.generator.set_state(state["generator"])
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for i, parameter in enumerate(model.parameters()):
            names = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[parameter] = {n: state[f"{i}/{n}"].clone() for n in names if f"{i}/{n}" in state}


def _place(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    canvases, boxes = torch.zeros(len(images), 1, CANVAS, CANVAS), torch.zeros(len(images), 4)
    for i, image in enumerate(images):
        size = int(torch.randint(3, (), generator=generator)) * 4 + 8
        x, y = (int(torch.randint(CANVAS - size + 1, (), generator=generator)) for _ in range(2))
        canvases[i, :, y : y + size, x : x + size] = functional.interpolate(image[None], size)[0]
        boxes[i] = torch.tensor([x + size / 2, y + size / 2, size, size]) / CANVAS
    return canvases, boxes


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes given as centre and size, (N, 4) each → (N,)."""
    low = torch.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = torch.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    both = (high - low).clamp(min=0).prod(1)
    return both / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - both)
