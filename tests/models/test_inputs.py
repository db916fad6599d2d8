from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dwindle.models.checked_task import CheckedTask
from dwindle.models.inputs import as_fed, row_major
from tests.tasks import PlainTask

IMAGES = torch.randn(2, 3, 4, 5)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 4, 5), (1, 1, 4, 5), (1, 3, 1, 1)])
def test_a_channels_last_tensor_becomes_row_major(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape)
    found = row_major(images.to(memory_format=torch.channels_last))
    assert found.stride() == images.stride()
    assert torch.equal(found, images)


def test_a_row_major_tensor_stays_itself() -> None:
    assert row_major(IMAGES) is IMAGES


@pytest.mark.parametrize(
    ("given", "fed"),
    [(torch.float64, torch.float32), (torch.float16, torch.float32), (torch.int64, torch.int64), (torch.bool,) * 2],
)
def test_only_floats_are_fed_as_float32(given: torch.dtype, fed: torch.dtype) -> None:
    assert as_fed(torch.ones(2, dtype=given)).dtype == fed


def test_whatever_a_task_gives_is_row_major() -> None:
    class ChannelsLast(PlainTask):
        def example_inputs(self) -> tuple[Tensor, ...]:
            return (IMAGES[:1].to(memory_format=torch.channels_last), IMAGES[:1].transpose(1, 2))

        def inputs(self, split: str) -> tuple[Tensor, ...]:
            return (IMAGES.to(memory_format=torch.channels_last), IMAGES.transpose(1, 2))

        def training_inputs(self) -> tuple[Tensor, ...]:
            return self.inputs("train")

    task = CheckedTask(ChannelsLast())
    given = (*task.example_inputs(), *task.inputs("test"), *task.training_inputs())
    assert all(tensor.is_contiguous() for tensor in given)
    assert torch.equal(task.inputs("test")[0], IMAGES)
