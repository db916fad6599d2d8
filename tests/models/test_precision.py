from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dwindle.models import precision
from dwindle.models.precision import bf16_gains

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DWINDLE_BF16")


def _measuring(monkeypatch: pytest.MonkeyPatch, gain: float) -> list[float]:
    """Replaces the measurement, whose result no test can know; the list grows with each."""
    asked: list[float] = []

    def measured() -> float:
        asked.append(gain)
        return gain

    monkeypatch.setattr(precision, "measured_gain", measured)
    return asked


@pytest.mark.parametrize(("gain", "answer"), [(1.5, True), (1.05, False), (0.4, False)])
def test_measured_once_then_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gain: float, answer: bool
) -> None:
    asked = _measuring(monkeypatch, gain)
    assert bf16_gains(CPU) is answer
    assert bf16_gains(CPU) is answer
    assert len(asked) == 1
    ((machine, entry),) = json.loads((tmp_path / "cache/dwindle/bf16.json").read_text()).items()
    assert f"torch {torch.__version__}" in machine
    assert entry["gain"] == gain


def test_another_machines_answer_is_kept_and_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = tmp_path / "cache/dwindle/bf16.json"
    cache.parent.mkdir(parents=True)
    cache.write_text('{"another": {"gain": 9.0}}')
    _measuring(monkeypatch, 0.5)
    assert not bf16_gains(CPU)
    assert len(json.loads(cache.read_text())) == 2


@pytest.mark.parametrize("content", ["", "[]", "3", '{"torch'])
def test_a_spoilt_cache_is_written_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    cache = tmp_path / "cache/dwindle/bf16.json"
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    _measuring(monkeypatch, 2.0)
    assert bf16_gains(CPU)
    assert len(json.loads(cache.read_text())) == 1


def test_without_a_cache_the_answer_is_float32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    _measuring(monkeypatch, 9.0)
    assert not bf16_gains(CPU)


def test_the_override_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _measuring(monkeypatch, 1.0)
    for value, answer in (("1", True), ("0", False)):
        monkeypatch.setenv("DWINDLE_BF16", value)
        assert bf16_gains(CPU) is answer
    assert not asked


def test_the_measurement_itself_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    assert precision.measured_gain(repeats=1) > 0
    assert torch.equal(before, torch.get_rng_state())


def test_other_devices_stay_in_float32() -> None:
    assert not bf16_gains(torch.device("mps"))
