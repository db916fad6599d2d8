from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.bench.accuracy import accuracy
from dwindle.bench.process import Worker
from dwindle.task import Task


class InProcess:
    """A worker without a process."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.shapes = net, set[tuple[int, ...]]()

    def infer(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        self.shapes.add(inputs[0].shape)
        with torch.no_grad():
            return [self.net(*map(torch.from_numpy, inputs)).numpy()]


@pytest.fixture
def task(blobs: None) -> Task:
    from blobs import Blobs  # type: ignore[import-not-found]

    return cast(Task, Blobs())


def test_a_file_is_judged_as_its_network_would_be(task: Task, nets: tuple[nn.Module, nn.Module]) -> None:
    worker = InProcess(nets[0])
    found = accuracy(task, cast(Worker, worker))
    assert found.value == task.evaluate(nets[0], "test")
    assert worker.shapes == {(1, 1, 8, 8)}
    assert (found.metric, found.n, found.split) == ("accuracy", 40, "test")
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]


def test_a_metric_that_is_no_share_of_samples_has_no_interval(task: Task) -> None:
    class Distance(type(task)):  # type: ignore[misc]
        metric = "mean logit"

        def evaluate(self, model: nn.Module, split: str) -> float:
            return float(model(self.images).mean())

    found = accuracy(Distance(), cast(Worker, InProcess(lambda x: x.flatten(1) / 7)))  # type: ignore[arg-type]
    assert found.metric == "mean logit"
    assert found.n == 40
    assert found.interval is None


def test_several_inputs_and_outputs_pass_through(task: Task) -> None:
    class Sum(nn.Module):
        def infer(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
            assert [array.shape for array in inputs] == [(1, 3), (1, 2)]
            return [inputs[0] * 2, inputs[1] + 1]

    class Both:
        def evaluate(self, model: nn.Module, split: str) -> float:
            a, b = torch.rand(5, 3), torch.rand(5, 2)
            outputs: tuple[Tensor, Tensor] = model(a, b)
            assert torch.equal(outputs[0], a * 2)
            assert torch.equal(outputs[1], b + 1)
            return 100.0

    found = accuracy(cast(Task, Both()), cast(Worker, Sum()))
    assert (found.value, found.n) == (100.0, 5)
