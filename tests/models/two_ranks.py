"""What test_ranks.py has torchrun start twice: each check runs on both ranks, and rank 0 writes what failed where.

torchrun --nproc-per-node 2 tests/models/two_ranks.py OUT.json [cuda]
"""

from __future__ import annotations

import copy
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from dwindle.errors import DwindleError, UsageError
from dwindle.models import ranks
from dwindle.models.classify import ImageClassification, TaskSpec
from dwindle.models.data import Splits
from dwindle.models.datasets import load
from dwindle.models.zoo import resnet8

DEVICE = "cuda" if "cuda" in sys.argv else "cpu"


def batch_norm_sees_the_batches_of_all_ranks() -> None:
    for norm in (
        nn.BatchNorm2d(5),
        nn.BatchNorm2d(5, momentum=None),
        nn.BatchNorm2d(5, affine=False),
        nn.BatchNorm2d(5, track_running_stats=False),
    ):
        torch.manual_seed(3)
        if norm.weight is not None:
            nn.init.normal_(norm.weight)
        whole, upstream = torch.randn(7, 5, 4, 3) * 3 + 20, torch.randn(7, 5, 4, 3)  # of ranks: 4 and 3 samples
        norm, whole, upstream = norm.to(DEVICE), whole.to(DEVICE), upstream.to(DEVICE)
        alone = copy.deepcopy(norm)
        expected_of = whole.clone().requires_grad_()
        expected = alone(expected_of)
        expected.backward(upstream)
        part = ranks.shard(whole).clone().requires_grad_()
        with ranks.global_batch_norm(norm):
            joint = ranks.together(norm) if norm.weight is not None else norm
            found = joint(part)
        part_of_loss = (found * ranks.shard(upstream)).sum()
        total = ranks.backward(part_of_loss)
        torch.testing.assert_close(total.detach(), (expected * upstream).sum().detach(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found, ranks.shard(expected), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(part.grad, ranks.shard(expected_of.grad), rtol=1e-4, atol=1e-5)
        for (name, mine), theirs in zip(norm.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)
        for mine, theirs in zip(norm.buffers(), alone.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs)
        assert "forward" not in vars(norm)
        torch.testing.assert_close(norm.eval()(whole), alone.eval()(whole), rtol=1e-4, atol=1e-5)


def a_training_is_that_of_one_process() -> None:
    """Each rank trains alone as well, as if it had never met the other.

    In float64, but for the loss: training amplifies what two orders of summation begin, in float32 to 1e-3 within three
    steps.
    """
    task, model = _task(batch_size=45), _InFloat64(_model())
    losses: list[float] = []
    task.fit(model, start=0.0, on_step=losses.append)
    ranks.check_agree("the weights", model.state_dict())
    accuracy = task.evaluate(model, "test")

    meet, distributed.is_initialized = distributed.is_initialized, lambda: False
    try:
        alone_task, alone = _task(batch_size=45), _InFloat64(_model())
        alone_losses: list[float] = []
        alone_task.fit(alone, start=0.0, on_step=alone_losses.append)
        alone_accuracy = alone_task.evaluate(model, "test")
    finally:
        distributed.is_initialized = meet
    torch.testing.assert_close(losses, alone_losses, rtol=1e-5, atol=1e-5)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-5, atol=1e-5, msg=name)
    for name, value in task.state_dict().items():
        torch.testing.assert_close(value, alone_task.state_dict()[name], rtol=1e-5, atol=1e-5, msg=name)
    assert accuracy == alone_accuracy
    assert losses[0] != losses[-1]


def parameters_that_no_rank_used_keep_no_gradient() -> None:
    """Which parameters are used may differ from step to step, as where layers are dropped at random."""

    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x: torch.Tensor, first: bool) -> torch.Tensor:
            return (self.first if first else self.second)(x)

    torch.manual_seed(0)
    model = Choosing()
    joint = ranks.together(model)
    for first in (True, False, True):
        model.zero_grad()
        ranks.backward(joint(torch.full((2, 3), 1.0 + ranks.rank()), first).sum())
        used, unused = (model.first, model.second) if first else (model.second, model.first)
        assert used.weight.grad.tolist() == [[6.0] * 3]  # 2 × 1 of the one rank, 2 × 2 of the other
        assert unused.weight.grad is None
    ranks.backward(joint(torch.ones(1, 3), ranks.rank() == 0).sum())
    assert model.second.bias.grad.tolist() == [1.0]


def masks_hold_after_every_step_and_a_training_resumes_to_the_same_bits() -> None:
    undisturbed, whole = _model(), _task(batch_size=45)
    masks = {name: torch.rand_like(value) > 0.5 for name, value in undisturbed.named_parameters() if value.dim() > 1}

    def masked(model: nn.Module, stop: int | None = None) -> Callable[[float], None]:
        parameters, steps = dict(model.named_parameters()), iter(range(99))

        def on_step(loss: float) -> None:
            for name, mask in masks.items():
                parameters[name].data.mul_(mask)
                assert not parameters[name][~mask].any()
            if next(steps) == stop:
                raise KeyboardInterrupt

        return on_step

    whole.fit(undisturbed, start=0.0, on_step=masked(undisturbed))
    model, task = _model(), _task(batch_size=45)
    with pytest.raises(KeyboardInterrupt):
        task.fit(model, start=0.0, on_step=masked(model, stop=2))
    saved, position = task.state_dict(), torch.tensor([0, 3])  # three steps done
    again, resumed = _model(), _task(batch_size=45)
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict({**saved, "position": position}, again)
    resumed.fit(again, start=0.0, on_step=masked(again))
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def ranks_that_disagree_are_told_so_on_every_rank() -> None:
    model = _model()
    ranks.check_agree("the weights", model.state_dict())
    if ranks.rank() == 1:
        with torch.no_grad():
            model.conv.weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(DwindleError, match="ranks disagree: the weights on rank 1 are not those of rank 0"):
        ranks.check_agree("the weights", model.state_dict())


def ranks_that_see_different_data_are_told_so_on_every_rank() -> None:
    one = _task(batch_size=45).origin
    ranks.check_same_task(one)
    for changed, name in (({"fingerprint": "another"}, "data"), ({"epochs": 9, "lr": 1}, "epochs, lr")):
        with pytest.raises(UsageError) as raised:
            ranks.check_same_task({**one, **(changed if ranks.rank() == 1 else {})})
        assert (raised.value.code, raised.value.name) == ("ranks-disagree", name)


def the_first_rank_alone_acts_and_all_hear_of_it() -> None:
    calls: list[int] = []

    def act() -> dict[str, int]:
        calls.append(ranks.rank())
        return {"rank": ranks.rank()}

    assert ranks.broadcast_from_first(act) == {"rank": 0}
    assert calls == ([0] if ranks.rank() == 0 else [])

    def fail() -> None:
        raise UsageError("the disk is full")

    with pytest.raises(UsageError, match="the disk is full"):
        ranks.broadcast_from_first(fail)


def what_the_first_rank_judges_alone_is_judged_on_all_the_data() -> None:
    task, model = _task(batch_size=45), _model()
    together = task.evaluate(model, "test")
    assert ranks.broadcast_from_first(lambda: task.evaluate(model, "test")) == together
    assert ranks.world() == 2


def a_batch_smaller_than_the_ranks_is_refused() -> None:
    with pytest.raises(UsageError, match="batches of 1 can't be split between 2 ranks"):
        _task(batch_size=1).fit(_model(), start=0.0, on_step=lambda _: None)


CHECKS = [
    batch_norm_sees_the_batches_of_all_ranks,
    a_training_is_that_of_one_process,
    parameters_that_no_rank_used_keep_no_gradient,
    masks_hold_after_every_step_and_a_training_resumes_to_the_same_bits,
    ranks_that_disagree_are_told_so_on_every_rank,
    ranks_that_see_different_data_are_told_so_on_every_rank,
    the_first_rank_alone_acts_and_all_hear_of_it,
    what_the_first_rank_judges_alone_is_judged_on_all_the_data,
    a_batch_smaller_than_the_ranks_is_refused,
]


def _task(batch_size: int) -> ImageClassification:
    digits: Splits = load("digits")
    few = replace(digits, train=digits.train[torch.arange(135)])
    return ImageClassification(TaskSpec("digits", epochs=2, batch_size=batch_size, crop=1, flip=False, lr=0.05), few)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return resnet8(in_channels=1)


class _InFloat64(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x.double())


@contextmanager
def on_one_gpu() -> Iterator[None]:
    """Both ranks on one GPU, which nccl refuses."""
    assert int(os.environ["WORLD_SIZE"]) == 2
    distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def main() -> None:
    torch.set_num_threads(1)
    failures: dict[str, str] = {}
    with on_one_gpu() if DEVICE == "cuda" else ranks.joined():
        assert ranks.world() == 2
        for check in CHECKS[: 1 if DEVICE == "cuda" else None]:
            try:
                check()
            except (Exception, pytest.fail.Exception):
                failures[check.__name__] = traceback.format_exc()
        found: list[dict[str, str]] = [{}, {}]
        distributed.all_gather_object(found, failures)
        if ranks.rank() == 0:
            report = {c.__name__: "".join(f[c.__name__] for f in found if c.__name__ in f) for c in CHECKS}
            Path(sys.argv[1]).write_text(json.dumps(report))
    assert ranks.world() == 1


if __name__ == "__main__":
    main()
