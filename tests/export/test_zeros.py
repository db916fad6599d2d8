"""What targets say of zeros: each claim has a ground, and the studies it names are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from dwindle import registry
from dwindle.export import target as targets
from dwindle.export.zeros import Effect, Effects, Kind, Speed, Unit

ROOT = Path(__file__).parents[2]
KINDS: tuple[Kind, ...] = get_args(Kind)


def effects(name: str) -> Effects:
    found: Effects = registry.resolve(targets.GROUP, name, "target").effects
    return found


@pytest.mark.parametrize("name", registry.names(targets.GROUP))
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_measured_is_in_the_study_that_is_named(name: str, kind: Kind) -> None:
    effect = effects(name).of(kind)
    for speed in effect.speeds:
        if speed.basis == "measured":
            assert (ROOT / speed.source).is_file()
        assert speed.unit in get_args(Unit)
    assert len({speed.unit for speed in effect.speeds}) == len(effect.speeds)


@pytest.mark.parametrize("name", registry.names(targets.GROUP))
def test_removed_channels_make_every_file_smaller(name: str) -> None:
    assert effects(name).channel.smaller


@pytest.mark.parametrize(
    ("name", "smaller", "unit", "faster", "basis"),
    [
        ("onnx", True, "CPU", False, "measured"),
        ("litert", True, "CPU", True, "measured"),
        ("mnn", True, "CPU", True, "measured"),
        ("coreml", True, "NPU", True, "vendor"),
        ("coreml", True, "CPU", None, "unknown"),
        ("executorch-coreml", True, "NPU", True, "vendor"),
        ("executorch", False, "CPU", False, "measured"),
        ("pytorch", False, "GPU", None, "unknown"),
    ],
)
def test_scattered_zeros(name: str, smaller: bool, unit: Unit, faster: bool | None, basis: str) -> None:
    effect = effects(name).weights
    speed = effect.speed(unit)
    assert (effect.smaller, speed.faster, speed.basis) == (smaller, faster, basis)


def test_a_delegate_of_core_ml_is_core_ml() -> None:
    assert effects("executorch-coreml") is effects("coreml")


@pytest.mark.parametrize(
    "claim",
    [
        {"faster": True, "basis": "unknown"},
        {"faster": None, "basis": "measured", "source": "a study"},
        {"faster": True, "basis": "vendor"},
        {"faster": None, "basis": "unknown", "source": "a document"},
    ],
)
def test_no_claim_without_a_ground(claim: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs a basis"):
        Speed("CPU", **claim)


def test_a_target_that_says_nothing_claims_nothing() -> None:
    assert Effects().weights == Effects().n_of_m == Effect(False, Effects().weights.storage, ())
    assert Effects().weights.speed("NPU").basis == "unknown"
