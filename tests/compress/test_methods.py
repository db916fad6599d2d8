from __future__ import annotations

import pytest

from dwindle.compress.methods import METHODS, Method, method
from dwindle.errors import UsageError


def test_four_methods_differ_in_what_is_restored_and_where_the_schedule_starts() -> None:
    assert METHODS["lr-rewind"] == Method(start=0.0)
    assert METHODS["weight-rewind"].restore
    assert METHODS["lottery-ticket"] == Method(start=0.0, restore=True)
    assert METHODS["finetune"].last_lr
    assert not METHODS["finetune"].restore


def test_the_point_to_rewind_to_is_settable() -> None:
    assert method("weight-rewind", 0.3) == Method(start=0.3, restore=True)


@pytest.mark.parametrize(
    ("name", "to", "says"),
    [
        ("lr-rewin", None, "did you mean 'lr-rewind'"),
        ("lr-rewind", 1.0, "outside"),
        ("weight-rewind", -0.1, "outside"),
        ("lottery-ticket", 0.5, "use --method weight-rewind"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, to: float | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        method(name, to)
