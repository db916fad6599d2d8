"""What targets say of zeros: each claim has a ground, and the studies it names are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle import registry
from dwindle.export import targets
from dwindle.export.zeros import Effect, Effects, Kind, Speed, Unit, block_rows

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
        assert speed.unit in effects(name).units


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
    speed = effect.speed(unit, 0.1)
    assert (effect.smaller, speed.faster, speed.basis) == (smaller, faster, basis)


@pytest.mark.parametrize(
    ("name", "density", "rows", "precision", "gains"),
    [
        ("mnn", 0.1, 1, "fp32", {"CPU": "both", "GPU": "smaller, faster?"}),
        ("mnn", 0.1, 4, "int8", {"CPU": "smaller", "GPU": "smaller, faster?"}),
        ("mnn", 0.5, 1, "fp32", {"CPU": "neither", "GPU": "faster?"}),
        ("mnn", 0.35, 2, "fp32", {"CPU": "smaller, faster?", "GPU": "smaller, faster?"}),
        ("litert", 0.3, 1, "fp32", {"CPU": "both", "GPU": "smaller, faster?", "NPU": "smaller, faster?"}),
        ("litert", 0.5, 1, "fp32", {"CPU": "smaller", "GPU": "smaller, faster?", "NPU": "smaller, faster?"}),
        ("coreml", 0.25, 1, "fp16", {"CPU": "smaller, faster?", "GPU": "smaller, faster?", "NPU": "both"}),
        ("coreml", 0.6, 1, "fp16", {"CPU": "smaller, faster?", "GPU": "smaller, faster?", "NPU": "smaller, faster?"}),
        ("coreml", 0.6, 2, "fp16", {"CPU": "smaller, faster?", "GPU": "smaller, faster?", "NPU": "both"}),
        ("executorch", 0.1, 1, "fp32", {"CPU": "neither"}),
    ],
)
def test_a_verdict_is_of_a_density_a_pattern_and_a_unit(
    name: str, density: float, rows: int, precision: str, gains: dict[Unit, str]
) -> None:
    verdict = effects(name).verdict(name, precision, "weights", density, rows)
    assert {speed.unit: verdict.gain(speed.unit) for speed in verdict.speeds} == gains
    assert all(speed.verdict in verdict.sentence() for speed in verdict.speeds if speed.faster is not None)


def test_two_of_four_is_faster_where_apple_says_so() -> None:
    verdict = effects("coreml").verdict("coreml", "fp16", "n:m", 0.5)
    assert [verdict.gain(unit) for unit in ("CPU", "NPU")] == ["both", "both"]


@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 2**16))
def test_the_rows_that_masks_prune_together_are_found(out: int, inner: int, rows: int, seed: int) -> None:
    blocks = torch.rand(-(-out // rows), inner, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask = blocks.repeat_interleave(rows, 0)[:out]
    if out % rows == 0:
        assert block_rows({"weight": mask}) % rows == 0
    scattered = torch.tensor([[True], [False]] * 16)
    assert block_rows({"weight": mask, "other": scattered}) == 1


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
    assert Effects().weights.speed("NPU", 0.5).basis == "unknown"
