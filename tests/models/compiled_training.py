"""What test_classify.py runs in a process of its own: compiled, a training repeats bit for bit and is that of eager.

DWINDLE_BF16=0 python tests/models/compiled_training.py
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dwindle.models.classify import ImageClassification, TaskSpec
from dwindle.models.data import Splits
from dwindle.models.datasets import load


def _few() -> Splits:
    """So few that an epoch is four steps."""
    digits, chosen = load("digits"), torch.arange(256)
    return replace(digits, train=digits.train[chosen], validation=digits.validation[chosen])


def _train(splits: Splits, *, compiled: bool) -> tuple[list[float], dict[str, Tensor]]:
    spec = TaskSpec("digits", epochs=2, batch_size=64, crop=1, flip=False, schedule="cosine", compile=compiled)
    task = ImageClassification(spec, splits)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    torch.manual_seed(0)
    nn.init.normal_(network[0].weight, std=0.3)
    nn.init.normal_(network[3].weight, std=0.05)
    nn.init.zeros_(network[0].bias)
    nn.init.zeros_(network[3].bias)
    losses: list[float] = []
    task.fit(network, start=0.0, on_step=losses.append)
    return losses, network.state_dict()


def main() -> None:
    torch.set_num_threads(1)
    few = _few()
    (losses, weights), (again, same), (eager, _) = (_train(few, compiled=how) for how in (True, True, False))
    assert losses == again
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert losses == pytest.approx(eager, rel=1e-3)


if __name__ == "__main__":
    main()
