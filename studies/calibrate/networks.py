"""The dense networks of this study, trained once and kept in `build/studies`, which git ignores."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dwindle.models.build import ModelSpec, build
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task

CACHE = Path(__file__).parents[2] / "build" / "studies" / "calibrate"
EPOCHS, RATE = 5, 0.1


def task(seed: int, rate: float = RATE) -> ImageClassification:
    """Fashion-MNIST at 14x14, with a schedule of five epochs. rate: its peak learning rate."""
    data = "studies.rewinding.data:fashion_mnist_14"
    schedule = {"epochs": EPOCHS, "schedule": "cosine", "warmup": 0.1, "lr": rate}
    made = make_task({"data": data, "crop": 1, **schedule, "seed": seed})
    assert isinstance(made.given, ImageClassification)
    return made.given


def dense(name: str, seed: int, its: ImageClassification) -> nn.Module:
    """A network of the zoo, trained for `EPOCHS`, in eval mode; read from the cache where it has been trained before.

    `name`: `zoo:resnet20`. `its`: what `task` made of the same seed.
    """
    torch.manual_seed(seed)
    network = build(ModelSpec(name, its.classes, its.splits.shape))
    rate = "" if its.spec.lr == RATE else f"-rate{its.spec.lr:g}"
    kept = CACHE / f"{name.replace(':', '-')}-seed{seed}-epochs{EPOCHS}{rate}.safetensors"
    if kept.exists():
        network.load_state_dict(load_file(kept))
    else:
        its.fit(network, start=0.0, on_step=lambda _: None)
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), kept)
    return network.eval()
