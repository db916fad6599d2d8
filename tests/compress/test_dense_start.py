"""Trained networks are told from others, and judged as they were trained, before anything is pruned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress
from dwindle.compress.dense_start import Start, check_weights, judged
from dwindle.compress.watcher import Watcher
from dwindle.errors import UsageError
from dwindle.models.checked_task import CheckedTask
from dwindle.models.tasks import make_task
from dwindle.models.zoo import resnet8

pytestmark = pytest.mark.usefixtures("one_model")


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWINDLE_BF16", "0")


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """Weights that were trained on pixels from 0 to 1."""
    torch.manual_seed(7)
    model = resnet8(in_channels=1)
    options = {"data": "digits", "epochs": 4, "normalize": "0.9/0.05", "seed": 7}
    make_task(options).fit(model, start=0.0, on_step=lambda _: None)
    return model.state_dict()


def _start(trained: dict[str, Tensor], normalize: str | None) -> tuple[CheckedTask, nn.Module, Start]:
    model = resnet8(in_channels=1)
    model.load_state_dict(trained)
    task = make_task({"data": "digits", "epochs": 1, "normalize": normalize})
    return task, model, judged(task, model)


def test_as_they_were_trained(trained: dict[str, Tensor]) -> None:
    task, model, start = _start(trained, "0.9/0.05")
    assert start.is_trained
    assert start.validation == task.evaluate(model, "validation")
    said = check_weights(task, model, start, start.validation, chosen=True)
    assert "warning" not in said


def test_weights_that_score_less_than_they_are_known_to(trained: dict[str, Tensor]) -> None:
    task, model, start = _start(trained, "0.9/0.05")
    with pytest.raises(UsageError) as refused:
        check_weights(task, model, start, start.validation + 1.5, chosen=True)
    assert (refused.value.code, refused.value.option) == ("implausible-weights", "expect_accuracy")


@pytest.mark.slow
def test_another_normalisation_by_which_they_are_far_better(trained: dict[str, Tensor]) -> None:
    torch.manual_seed(7)
    model = resnet8(in_channels=1)
    by_data = make_task({"data": "digits", "epochs": 4, "seed": 7})
    by_data.fit(model, start=0.0, on_step=lambda _: None)
    task = make_task({"data": "digits", "epochs": 1, "normalize": "0.9/0.05"})
    start = judged(task, model)
    with pytest.raises(UsageError) as refused:
        check_weights(task, model, start, None, chosen=False)
    assert (refused.value.code, refused.value.option) == ("implausible-weights", "normalize")
    assert refused.value.name == "data"
    check_weights(task, model, start, None, chosen=True)  # chosen is chosen


def test_weights_no_better_than_chance_are_warned_of() -> None:
    torch.manual_seed(0)
    task, model = make_task({"data": "digits", "epochs": 1}), resnet8(in_channels=1)
    start = judged(task, model)
    assert start.chance == 10
    assert not start.is_trained
    for found, warned in ((10.5, True), (30.0, True), (40.0, False)):
        said = check_weights(task, model, Start("accuracy", found, 10.0), None, chosen=False)
        assert ("warning" in said) == warned


def test_a_score_without_a_known_chance_says_nothing() -> None:
    assert not Start("IoU", 80.0, None).is_trained


class _Notes(Watcher):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.mark.slow
@pytest.mark.parametrize("train_dense", [False, True])
def test_a_factory_that_returns_a_trained_network(
    tmp_path: Path, trained: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, train_dense: bool
) -> None:
    torch.save(trained, tmp_path / "trained.pt")
    (tmp_path / "of_a_trained_network.py").write_text(
        "import torch\nfrom dwindle.models.zoo import resnet8\n"
        "def net():\n    made = resnet8(in_channels=1)\n"
        f"    made.load_state_dict(torch.load({str(tmp_path / 'trained.pt')!r}))\n    return made\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = {"data": "digits", "epochs": 1, "normalize": "0.9/0.05"}
    notes = _Notes()
    request = Request("of_a_trained_network:net", task, density=0.5, rounds=1, train_dense=train_dense)
    done: Checkpoint = compress(request, tmp_path / "net.dwindle", notes)
    assert (done.history[0].loss is None) is not train_dense
    assert any("came trained" in note for note in notes.notes) is not train_dense
    assert torch.equal(done.dense_weights["conv.weight"], trained["conv.weight"]) is not train_dense
    assert done.preprocessing is not None
    assert done.preprocessing.mean == (0.9,)
    assert Checkpoint.load(tmp_path / "net.dwindle").preprocessing == done.preprocessing
