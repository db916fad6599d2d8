from __future__ import annotations

from pathlib import Path

import pytest

from dwindle.compress import Request, compress
from dwindle.compress.methods import METHODS, Method, method
from dwindle.compress.resolve import resolve
from dwindle.errors import UsageError
from dwindle.models.classify import ImageClassification


def test_four_methods_differ_in_what_is_restored_and_where_the_schedule_starts() -> None:
    assert METHODS["lr-rewind"] == Method(start=0.0)
    assert METHODS["weight-rewind"].restore
    assert METHODS["lottery-ticket"] == Method(start=0.0, restore=True)
    assert METHODS["finetune"].last_lr
    assert not METHODS["finetune"].restore


def test_the_point_to_rewind_to_is_settable() -> None:
    assert method("weight-rewind", 0.3) == Method(start=0.3, restore=True)


@pytest.mark.parametrize(
    ("name", "to", "option", "code"),
    [
        ("lr-rewin", None, "method", "unknown-name"),
        ("lr-rewind", 1.0, "rewind_to", "out-of-range"),
        ("weight-rewind", -0.1, "rewind_to", "out-of-range"),
        ("lottery-ticket", 0.5, "rewind_to", "conflict"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, to: float | None, option: str, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        method(name, to)
    assert (refused.value.option, refused.value.code) == (option, code)


def test_fine_tuning_takes_a_schedule_that_leaves_a_rate_to_tune_with() -> None:
    """The data set's own is a cosine, which ends at 0; to find that out after the dense training costs all of it."""
    asked = resolve(Request("zoo:resnet8", "digits", density=0.5, method="finetune"))
    assert asked.task_options["schedule"] == "step"
    asked = resolve(Request("zoo:resnet8", {"data": "digits", "schedule": "imagenet"}, density=0.5, method="finetune"))
    assert asked.task_options["schedule"] == "imagenet"


@pytest.mark.parametrize("options", [{"task": {"data": "digits", "schedule": "cosine"}}, {"recipe": "best"}], ids=str)
def test_a_cosine_asked_for_leaves_none(options: dict[str, object]) -> None:
    request = Request("zoo:resnet8", **{"task": "digits", "density": 0.5, "method": "finetune", **options})  # type: ignore[arg-type]
    with pytest.raises(UsageError) as refused:
        resolve(request)
    assert refused.value.option == "schedule"


def test_a_task_that_cannot_hold_the_rate_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(self: ImageClassification, model: object, *, start: float, on_step: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(ImageClassification, "fit", fit)
    with pytest.raises(UsageError) as refused:
        compress(Request("zoo:resnet8", "digits", density=0.5, method="finetune"), tmp_path / "net.dwindle")
    assert refused.value.option == "method"
    assert not (tmp_path / "net.dwindle").exists()
