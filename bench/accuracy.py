"""Accuracy of the file itself, as its own runtime computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dwindle.bench.result import Accuracy
from dwindle.bench.stats import wilson

if TYPE_CHECKING:
    from torch import nn

    from dwindle.bench.process import Worker
    from dwindle.task import Task


def accuracy(task: Task, worker: Worker) -> Accuracy:
    """The task's metric on the test split, every sample sent through the loaded file.

    Raises WorkerFailed if the worker dies, and whatever the task's `evaluate` raises.
    """
    model, count = _as_module(worker)
    value = float(task.evaluate(model, "test"))
    n = count()
    return Accuracy(getattr(task, "metric", "accuracy"), value, n, _interval(value, n), "test")


def _interval(value: float, n: int) -> tuple[float, float] | None:
    """Wilson's interval in points; None unless the metric is a whole number of the n samples, in percent."""
    successes = round(value / 100 * n)
    if not n or not 0 <= successes <= n or abs(100 * successes / n - value) > 1e-3:
        return None
    low, high = wilson(successes, n)
    return 100 * low, 100 * high


def _as_module(worker: Worker) -> tuple[nn.Module, Callable[[], int]]:
    """The worker as a module that a task can evaluate, and a function that says how many samples it saw."""
    import torch
    from torch import Tensor, nn

    class File(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.samples = 0

        def forward(self, *inputs: Tensor) -> Any:
            """Files have a batch of one: samples go one at a time."""
            answers = []
            for index in range(len(inputs[0])):
                sample = [batch[index : index + 1].detach().float().cpu().numpy() for batch in inputs]
                answers.append(worker.infer(sample))
            self.samples += len(answers)
            outputs = [torch.cat([torch.from_numpy(a) for a in column]) for column in zip(*answers, strict=True)]
            outputs = [output.to(inputs[0].device) for output in outputs]
            return outputs[0] if len(outputs) == 1 else tuple(outputs)

    module = File()
    return module, lambda: module.samples
