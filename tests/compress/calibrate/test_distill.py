"""A network is taught what another one answers, whatever its inputs and outputs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dwindle.compress.calibrate.distill import Distillation
from dwindle.models.checked_task import CheckedTask


def steps_until_better(task: CheckedTask, pruned: nn.Module) -> int:
    """Teaches a network, sees that it is better for it, and returns in how many steps."""
    before, losses = task.evaluate(pruned, "test"), list[float]()
    task.fit(pruned, start=0.0, on_step=losses.append)
    assert losses[-1] < losses[0]
    assert task.evaluate(pruned, "test") > before
    return len(losses)


class Tagger(nn.Module):
    """Answers to tokens under a mask with scores for each of them and with an embedding of all."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.scores = nn.Linear(8, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        seen = self.table(tokens) * mask[..., None]
        return {"scores": self.scores(seen), "embedding": seen.mean(1), "tokens": tokens}


def test_tokens_under_a_mask_and_several_outputs() -> None:
    torch.manual_seed(0)
    dense = Tagger().eval()
    pruned = copy.deepcopy(dense)
    with torch.no_grad():
        pruned.scores.weight[:, ::2] = 0
    inputs = (torch.randint(0, 20, (96, 5)), torch.ones(96, 5))
    task = CheckedTask(Distillation(dense, inputs, passes=8, keywords=("tokens", "mask")))
    assert steps_until_better(task, pruned) == task.steps == 8 * 3


class Heard(nn.Module):
    """Answers to frames with one score for each by a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(6, 8, batch_first=True)
        self.score = nn.Linear(8, 1)

    def forward(self, frames: Tensor) -> Tensor:
        scores: Tensor = self.score(self.memory(frames)[0])
        return scores


def test_a_recurrent_network_is_taught_in_eval_mode() -> None:
    """On a GPU cuDNN refuses its gradients, where there is one."""
    torch.manual_seed(0)
    dense = Heard().eval()
    pruned = copy.deepcopy(dense)
    with torch.no_grad():
        pruned.memory.weight_hh_l0[:, ::2] = 0
    task = CheckedTask(Distillation(dense, (torch.randn(96, 5, 6),), passes=8))
    assert steps_until_better(task, pruned) == task.steps
