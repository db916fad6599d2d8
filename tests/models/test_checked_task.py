"""A user's own task, and what can be wrong with each of its members."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import dwindle
from dwindle.errors import BudgetMissed, DwindleError, UsageError
from dwindle.models.checked_task import CheckedTask
from dwindle.models.task_members import LAST_LR, OPTIONAL
from dwindle.models.task_values import users_code
from dwindle.task import Task
from tests.tasks import PlainTask


def task(**members: Any) -> CheckedTask:
    given = PlainTask()
    vars(given).update(members)
    return CheckedTask(given)


def fitting(*losses: object) -> CheckedTask:
    return task(fit=lambda model, start, on_step: [on_step(loss) for loss in losses])


@pytest.mark.parametrize(
    "value", [3, 3.0, np.float32(3), np.float64(3), torch.tensor(3.0), nn.Parameter(torch.ones(1)) * 3]
)
def test_any_number_is_a_metric_and_a_loss(value: Any) -> None:
    assert task(evaluate=lambda model, split: value).evaluate(nn.Identity(), "test") == 3.0
    losses: list[float] = []
    fitting(value).fit(nn.Identity(), start=0.0, on_step=losses.append)
    assert [(type(loss), loss) for loss in losses] == [(float, 3.0)]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), torch.ones(2), "much"])
def test_what_is_no_metric(value: Any) -> None:
    with pytest.raises(UsageError, match="on the validation split") as raised:
        task(evaluate=lambda model, split: value).evaluate(nn.Identity(), "validation")
    assert (raised.value.code, raised.value.name) == ("bad-member", "evaluate")


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("added", [False, True])
def test_a_fit_that_leaves_other_parameters_is_told_after_its_first_step(steps: int, added: bool) -> None:
    seen: list[float] = []

    def fit(model: nn.Module, start: float, on_step: Callable[[float], None]) -> None:
        if added:
            model.scale = nn.Parameter(torch.ones(1))
        else:
            prune.l1_unstructured(model, "weight", 0.5)
        for _ in range(steps):
            on_step(1.0)

    with pytest.raises(UsageError, match="scale" if added else "the parameter weight ") as raised:
        task(fit=fit).fit(nn.Linear(2, 2), start=0.0, on_step=seen.append)
    assert (raised.value.code, raised.value.name, seen) == ("bad-member", "fit", [])


def test_what_is_no_loss() -> None:
    losses: list[float] = []
    fitting(torch.tensor(float("nan"))).fit(nn.Identity(), start=0.0, on_step=losses.append)
    assert np.isnan(losses[0]), "which the run has a message for"
    with pytest.raises(UsageError) as raised:
        fitting(None).fit(nn.Identity(), start=0.0, on_step=losses.append)
    assert (raised.value.code, raised.value.name) == ("bad-member", "fit")


@pytest.mark.parametrize("error", [ValueError("a\nb"), SystemExit(0), AssertionError("a")])
def test_what_a_member_raises_is_one_sentence_with_the_line(error: BaseException) -> None:
    sentence = r"^the task's `fit` failed \(\w+: \w; .*test_checked_task.py, line \d+\) in round 2$"
    with pytest.raises(DwindleError, match=sentence) as raised, users_code("fit", " in round 2"):
        raise error
    assert (raised.value.code, raised.value.name) == ("task-failed", "fit")
    with pytest.raises(BudgetMissed, match=r"^ours$"), users_code("fit"):
        raise BudgetMissed("ours")


@pytest.mark.parametrize("member", ["evaluate", "example_inputs", "inputs", "training_inputs", "labels", "state_dict"])
def test_whichever_member_raises_is_named(member: str) -> None:
    def fails(*_: object) -> None:
        raise OSError("disk gone")

    checked = task(**{member: fails}, **({"load_state_dict": fails} if member == "state_dict" else {}))
    arguments = {"evaluate": (nn.Identity(), "test"), "inputs": ("test",), "labels": ("test",)}.get(member, ())
    with pytest.raises(DwindleError) as raised:
        getattr(checked, member)(*arguments)
    assert (raised.value.code, raised.value.name) == ("task-failed", member)


def test_a_property_that_raises_is_named() -> None:
    class Broken(PlainTask):
        @property
        def steps(self) -> int:
            raise OSError("no data")

    with pytest.raises(DwindleError) as raised:
        _ = CheckedTask(Broken()).steps
    assert (raised.value.code, raised.value.name) == ("task-failed", "steps")


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (torch.ones(1, 3), "Tensor"),
        ([torch.ones(1, 3)], "list"),
        (None, "NoneType"),
        ((), r"\(\)"),
        ((np.ones((1, 3)),), r"\('ndarray',\)"),
        ((torch.ones(5, 3),), r"\(5, 3\)"),
        ((torch.tensor(1.0),), r"\(\)"),
    ],
)
def test_what_is_no_sample(inputs: Any, says: str) -> None:
    with pytest.raises(UsageError, match=f"returned .*{says}") as raised:
        task(example_inputs=lambda: inputs).example_inputs()
    assert (raised.value.code, raised.value.name) == ("bad-member", "example_inputs")


@pytest.mark.parametrize("inputs", [(), (torch.zeros(0, 4),), (torch.ones(3, 4), torch.ones(2, 4)), torch.ones(3, 4)])
def test_inputs_are_one_or_more_samples(inputs: Any) -> None:
    checked = task(inputs=lambda split: inputs, training_inputs=lambda: inputs)
    calls: dict[str, Callable[[], object]] = {
        "inputs": lambda: checked.inputs("test"),
        "training_inputs": checked.training_inputs,
    }
    for member, call in calls.items():
        with pytest.raises(UsageError) as raised:
            call()
        assert (raised.value.code, raised.value.name) == ("bad-member", member)


def test_what_stands_in_for_what_a_task_lacks() -> None:
    plain = task()
    (example,) = plain.example_inputs()
    assert not any(plain.has(name) for name in OPTIONAL)
    assert torch.equal(plain.inputs("train")[0], example)
    assert torch.equal(plain.training_inputs()[0], example)
    assert plain.state_dict() == {}
    plain.load_state_dict({}, nn.Identity())
    assert plain.labels("test") is None
    assert (plain.optimizer, plain.class_names, plain.normalization, plain.steps) == (None, None, None, None)
    assert (plain.classes, plain.origin, plain.metric, plain.takes_last_lr) == (None, None, "accuracy", False)
    real = task(inputs=lambda split: (torch.ones(2, 4),))
    assert len(real.training_inputs()[0]) == 2, "without training_inputs, those of the training split"


def test_a_member_that_is_none_counts_as_absent() -> None:
    for name in OPTIONAL:
        assert not task(**{name: None}).has(name)


def test_what_a_task_has_is_taken_as_it_is_by_then() -> None:
    given = PlainTask()
    checked = CheckedTask(given)
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)])
    given.optimizer = optimizer  # type: ignore[attr-defined]
    assert checked.optimizer is optimizer


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", -3),
        ("steps", 12.0),
        ("steps", "12"),
        ("steps", True),
        ("classes", 0),
        ("optimizer", {"lr": 0.1}),
        ("metric", 3),
        ("class_names", "abc"),
        ("normalization", 0.5),
        ("origin", "digits"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError) as raised:
        getattr(task(**{name: value}), name)
    assert (raised.value.code, raised.value.name) == ("bad-member", name)


def test_a_state_is_tensors_by_name() -> None:
    for wrong in ({"epoch": 3}, {"optimizer": {"state": {}}}, {1: torch.ones(1)}):
        with pytest.raises(UsageError) as raised:
            task(state_dict=lambda wrong=wrong: wrong, load_state_dict=lambda state, model: None).state_dict()
        assert (raised.value.code, raised.value.name) == ("bad-member", "state_dict")


@pytest.mark.parametrize("name", ["state_dict", "load_state_dict"])
def test_a_state_is_both_saved_and_loaded(name: str) -> None:
    with pytest.raises(UsageError) as raised:
        task(**{name: lambda *_: {}})
    assert raised.value.code == "missing-member"
    assert {raised.value.name, name} == {"state_dict", "load_state_dict"}


@pytest.mark.parametrize(("given", "takes"), [({}, False), ({"last_lr": False}, True), (None, True)])
def test_whether_fit_holds_the_last_learning_rate_is_read_off_its_signature(
    given: dict[str, object] | None, takes: bool
) -> None:
    def with_last_lr(model: nn.Module, *, start: float, on_step: object, last_lr: bool = False) -> None: ...
    def with_anything(model: nn.Module, **options: object) -> None: ...

    members = {"fit": with_anything} if given is None else {"fit": with_last_lr} if given else {}
    assert task(**members).takes_last_lr is takes


@pytest.mark.parametrize(
    ("written", "meant", "value"),
    [
        ("trainig_inputs", "training_inputs", lambda: ()),
        ("train_inputs", "training_inputs", lambda: ()),
        ("input", "inputs", lambda split: ()),
        ("lables", "labels", lambda split: ()),
        ("normalisation", "normalization", (torch.zeros(1), torch.ones(1))),
        ("n_steps", "steps", 400),
        ("optimiser", "optimizer", torch.optim.SGD([torch.ones(1, requires_grad=True)])),
    ],
)
def test_a_misspelt_member_is_named_with_what_was_meant(written: str, meant: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"did you mean `{meant}`") as raised:
        task(**{written: value})
    assert (raised.value.code, raised.value.name) == ("misspelt-member", written)
    task(**{f"_{written}": value})


@pytest.mark.parametrize(
    ("own", "value"),
    [
        ("step", lambda: None),  # a method, where `steps` is a number
        ("optimizers", []),
        ("metrics", {"accuracy": 90.0}),
        ("class_name", "Digits"),
        ("data", {}),
    ],
)
def test_a_members_of_the_users_own_is_no_misspelling(own: str, value: object) -> None:
    task(**{own: value})


def test_a_name_near_a_member_that_is_there_is_the_users_own() -> None:
    task(inputs=lambda split: (), input=lambda split: ())


@pytest.mark.parametrize("name", ["fit", "evaluate", "example_inputs"])
def test_a_required_member_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(UsageError) as raised:
        task(**{name: None})
    assert (raised.value.code, raised.value.name) == ("missing-member", name)
    with pytest.raises(UsageError, match=f"`{name}s`"):
        task(**{name: None, f"{name}s": lambda: None})


def test_the_protocol_documents_every_optional_member_and_the_table_declares_them() -> None:
    documented = Task.__doc__ or ""
    for name in (*OPTIONAL, LAST_LR):
        assert f"- `{name}" in documented or f"`{name}(" in documented, name
        assert (
            name == LAST_LR or callable(getattr(CheckedTask, name)) or isinstance(getattr(CheckedTask, name), property)
        )


def test_what_an_absence_costs_is_a_sentence() -> None:
    assert task().without("load_state_dict").startswith("the task has no `load_state_dict`: ")


def test_nobody_else_looks_a_tasks_members_up() -> None:
    """`CheckedTask` is the one place that asks whether a task has a member."""
    root = Path(dwindle.__file__).parent.parent
    lookup = re.compile(r"\b(getattr|hasattr)\((\w+\.)*task,")
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for room in ("dwindle", "models", "compress", "export", "bench")
        for path in (root / room).rglob("*.py")
        for line in path.read_text().splitlines()
        if lookup.search(line)
    ]
    assert not found
