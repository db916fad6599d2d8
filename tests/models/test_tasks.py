from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dwindle import checkpoint
from dwindle.errors import CheckpointError, UsageError
from dwindle.models.classify import ImageClassification
from dwindle.models.spec import DATA_SET_OPTIONS
from dwindle.models.tasks import make_task, restore_task

OWN_TASK = """
class Own:
    def __init__(self, epochs=1): self.epochs = epochs
    def fit(self, model, *, start, on_step): pass
    def evaluate(self, model, split): return 0.0
    def example_inputs(self): return ()
def seeded(seed): return Own(seed)
def half(): return object()
"""


def test_defaults_of_the_data_and_what_overrides_them() -> None:
    task = make_task({"data": "digits", "epochs": 3, "lr": None}).given
    assert isinstance(task, ImageClassification)
    assert task.spec.epochs == 3
    assert task.spec.flip is False
    assert task.spec.lr == DATA_SET_OPTIONS["digits"]["lr"]
    assert task.spec.weight_decay == 2e-4


def test_origin_survives_json_and_names_no_path_of_this_machine() -> None:
    task = make_task({"data": "digits"}).given
    assert isinstance(task, ImageClassification)
    text = json.dumps(task.origin)
    assert "/" not in text
    again = make_task(json.loads(text)).given
    assert isinstance(again, ImageClassification)
    assert again.origin == task.origin


def test_restored_from_a_checkpoint(tmp_path: Path) -> None:
    task = make_task({"data": "digits", "epochs": 7}).given
    assert isinstance(task, ImageClassification)
    found = checkpoint.start(tmp_path / "net.dwindle", {"task": task.origin})
    restored = restore_task(checkpoint.Checkpoint.load(found.path)).given
    assert isinstance(restored, ImageClassification)
    assert restored.spec == task.spec

    other = replace(found, origin={"task": {**task.origin, "fingerprint": "0" * 64}})
    with pytest.raises(UsageError, match=r"the data 'digits' has changed since the training: .* was 000000000000"):
        restore_task(other)
    for origin in ({}, {"task": None}, {"task": {}}):
        with pytest.raises(CheckpointError) as raised:
            restore_task(replace(found, origin=origin))
        assert (raised.value.code, raised.value.name) == ("field", "origin.task")


def test_a_users_own_task(users_module: Callable[[str], str]) -> None:
    name = users_module(OWN_TASK)
    assert make_task({"task": f"{name}:Own", "epochs": 5, "seed": 3}).given.epochs == 5  # type: ignore[attr-defined]
    assert make_task({"task": f"{name}:seeded", "seed": 3}).given.epochs == 3  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="has no parameter epochs, lr") as raised:
        make_task({"task": f"{name}:seeded", "seed": 3, "epochs": 1, "lr": 1})
    assert (raised.value.code, raised.value.option) == ("unknown-name", "epochs")
    with pytest.raises(UsageError) as raised:
        make_task({"task": f"{name}:half"})
    assert (raised.value.code, raised.value.name) == ("missing-member", "fit")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({}, "there is no data to train on"),
        ({"data": "digits", "epoch": 3}, "unknown task option 'epoch': did you mean 'epochs'"),
        ({"data": "digit"}, "unknown data set 'digit'"),
        ({"task": "no_module_of_that_name:f"}, "task 'no_module_of_that_name:f' can't be imported"),
    ],
)
def test_what_is_wrong_with_a_task(spec: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        make_task(spec)


def test_the_package_itself_imports_nothing_heavy() -> None:
    code = "import sys, dwindle.models; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
