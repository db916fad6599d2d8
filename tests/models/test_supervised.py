"""The built-in training on data sets of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from dwindle.compress import compress
from dwindle.compress.watcher import Watcher
from dwindle.errors import UsageError
from dwindle.export import export
from dwindle.models import Supervised
from dwindle.models.build import restore
from dwindle.models.checked_task import CheckedTask
from dwindle.models.samples import parts_of
from dwindle.models.task_members import OPTIONAL
from dwindle.models.tasks import make_task, restore_task

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 32}


def points(count: int, seed: int = 0) -> TensorDataset:
    drawn = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(drawn, (drawn.sum(1) > 0).long())


def splits() -> dict[str, Any]:
    """What a factory makes, for `--data tests.models.test_supervised:splits`."""
    return {"train": points(160), "valid": points(64, 1), "test": points(64, 2)}


class Noisy(Dataset[tuple[Tensor, int]]):
    """Draws from torch's, NumPy's and Python's generators for each sample."""

    classes = ("low", "high")

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import random

        import numpy as np

        noise = torch.rand(6) + float(np.random.rand()) + random.random()
        return noise * (index % 2 * 2 - 1), index % 2


class Named(Dataset[dict[str, Any]]):
    """Samples as transformers' data sets have them."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"left": torch.full((3,), float(index % 2)), "labels": index % 2, "right": torch.ones(3)}


class Masks(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(index))
        mask = (image[0] > 0.5).long()
        mask[0, 0] = 255
        return image, mask


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"logits": self.last(left * right)}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))


def fitted(task: Supervised, model: nn.Module) -> list[float]:
    losses: list[float] = []
    task.fit(model, start=0.0, on_step=losses.append)
    return losses


@pytest.mark.slow
def test_points_are_learnt_and_judged() -> None:
    task = Supervised(splits(), **{**QUICK, "epochs": 20, "lr": 0.01})
    model = network()
    fitted(task, model)
    assert task.evaluate(model, "validation") > 90
    checked = CheckedTask(task)
    assert {name for name in OPTIONAL if not checked.has(name)} == {
        *("training_inputs", "class_names", "normalization", "preprocessing", "states", "pixel_classes")
    }
    assert checked.inputs("test")[0].shape == (64, 6)
    labels = checked.labels("test")
    assert labels is not None
    assert torch.equal(labels, splits()["test"].tensors[1])


def test_batches_are_the_same_with_any_number_of_workers_and_leave_the_generators_alone() -> None:
    before = torch.get_rng_state()
    made = {count: list(Supervised(Noisy(), workers=count, **QUICK).batches(0, range(3))) for count in (0, 2)}
    for (step, (inputs, targets)), (_, (others, theirs)) in zip(made[0], made[2], strict=True):
        assert torch.equal(inputs[0], others[0]), step
        assert torch.equal(targets, theirs)
    again = dict(Supervised(Noisy(), **QUICK).batches(0, range(2, 3)))
    assert torch.equal(again[2][0][0], made[0][2][1][0][0])
    assert torch.equal(before, torch.get_rng_state())
    assert Supervised(Noisy(), **QUICK).class_names == ("low", "high")


def test_an_interrupted_training_ends_as_an_undisturbed_one() -> None:
    task, model, saved = Supervised(splits(), ema=0.9, **QUICK), network(), {}

    def on_step(loss: float) -> None:
        losses.append(loss)
        if len(losses) == 4:
            saved.update(task=task.state_dict(), model={k: v.clone() for k, v in model.state_dict().items()})

    losses: list[float] = []
    task.fit(model, start=0.0, on_step=on_step)
    other, resumed = Supervised(splits(), ema=0.9, **QUICK), network()
    resumed.load_state_dict(saved["model"])
    other.load_state_dict(saved["task"], resumed)
    assert fitted(other, resumed) == losses[4:]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_samples_that_are_dictionaries_reach_forward_by_name() -> None:
    task = Supervised(Named(), **QUICK, metric="f1")
    model = Both()
    assert len(fitted(task, model)) == task.steps
    assert CheckedTask(task).keywords == ("left", "right")
    assert 0 <= task.evaluate(model, "test") <= 100
    assert task.metric == "f1"


def test_masks_are_classes_of_pixels() -> None:
    task = Supervised(Masks(), epochs=30, batch_size=8, lr=0.2, class_weights=True)
    model = nn.Conv2d(1, 2, 1)
    assert task.evaluate(model, "test") < 80
    fitted(task, model)
    assert task.metric == "mean-iou"
    assert task.evaluate(model, "test") > 80
    assert (task.classes, task.pixel_classes) == (None, 2)
    assert not CheckedTask(task).has("labels")


@pytest.mark.slow
def test_floats_are_several_labels() -> None:
    drawn = torch.randn(200, 6)
    task = Supervised(TensorDataset(drawn, (drawn[:, :3] > 0.5).float()), epochs=20, batch_size=20, lr=0.05)
    model = nn.Linear(6, 3)
    fitted(task, model)
    assert (task.metric, task.classes) == ("mean-average-precision", 3)
    assert task.evaluate(model, "test") > 90


def test_a_loader_brings_its_batches() -> None:
    def collate(samples: list[Any]) -> Any:
        return torch.stack([sample[0] * 2 for sample in samples]), torch.tensor([int(sample[1]) for sample in samples])

    loader = DataLoader(points(100), batch_size=20, shuffle=True, collate_fn=collate)
    task = Supervised({"train": loader, "val": points(40, 1)}, epochs=1)
    assert task.spec.batch_size == 20
    assert len(parts_of(loader)["test"]) == 20
    [(_, (inputs, _))] = task.batches(0, range(1))
    assert inputs[0].shape == (20, 6)


class Endless(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


@pytest.mark.parametrize(
    "data",
    [
        {"train": points(8), "evaluation": points(8)},
        {"train": points(8), "val": points(8), "dev": points(8)},
        {"test": points(8)},
        {"train": points(8), "val": points(0), "test": points(8)},
        Endless(),
        DataLoader(points(8), sampler=WeightedRandomSampler([1.0] * 8, 8)),
        3,
        ["a", "b", "c"],
        TensorDataset(torch.zeros(30, 2)),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(data: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Supervised(data)
    assert (caught.value.code, caught.value.option) == ("bad-data", "data")


def test_fewer_samples_than_a_batch_are_one_batch() -> None:
    task = Supervised([points(9), points(9), points(9)], epochs=2, batch_size=64)
    assert task.steps == 2
    assert len(fitted(task, network())) == 2


@pytest.mark.slow
def test_data_sets_are_compressed_as_objects_and_by_a_factory(tmp_path: Path) -> None:
    how: dict[str, Any] = {**QUICK, "density": 0.5, "rounds": 1, "granularity": "unstructured", "target": "pytorch"}
    net = compress(network(), tmp_path / "net.dwindle", Watcher(), data=splits(), **how)
    assert net.origin["task"]["task"] == "object:dwindle.models.supervised.Supervised"
    [manifest] = export(net, ["pytorch"])
    assert manifest.parity.samples > 1
    with pytest.raises(UsageError) as caught:
        compress(network(), net.path, Watcher(), data=[points(50), points(50), points(50)], **how)
    assert caught.value.code == "other-options"

    factory = f"{__name__}:splits"
    assert make_task({"data": factory, **QUICK}).origin["data"] == factory  # type: ignore[index]
    named = compress(network(), tmp_path / "named.dwindle", Watcher(), data=factory, rehearsal=False, **how)
    again = restore_task(named, [factory])
    assert again.evaluate(restore(named), "test") == named.metrics["test"]
