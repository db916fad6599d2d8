"""Prices in instructions: each layer counted once, the same among others as by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dwindle.bench.devices import emulator, sysroot
from dwindle.bench.missing import Missing
from dwindle.bench.prices.counted import Counted
from dwindle.bench.prices.one_layer import written
from dwindle.errors import RuntimeUnavailable, UsageError
from dwindle.price import Shape, load

WIDE = Shape(32, 64, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if not request.node.get_closest_marker("needs"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def silent(line: str) -> None:
    pass


@pytest.mark.slow
def test_a_layer_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def fake(files: Sequence[Any], target: str, **options: Any) -> list[dict[str, int]]:
        counted.append(len(files))
        return [{"all": 1000 + sample[0].size} for _, sample in files]

    monkeypatch.setattr(emulator, "count_each", fake)
    price = Counted("onnx", "fp32")
    first = price.layers([WIDE, WIDE], silent)
    assert first == [32 * 14 * 14 - 8] * 2
    assert price.layers([WIDE], silent) == first[:1]
    assert counted == [2]  # the layer, and one that is next to nothing
    (kept,) = (Path(price._cache).parent).glob("onnx-fp32-*.json")
    kept.write_text("[1", encoding="utf-8")
    assert price.layers([WIDE], silent) == first[:1]
    assert counted == [2, 2]


def test_targets_and_machines_that_cannot_be_counted_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError) as refused:
        load("cost", "coreml", "fp16")
    assert (refused.value.option, refused.value.name) == ("cost", "coreml")
    monkeypatch.setattr(sysroot, "missing", lambda: Missing("the ARM64 emulation is not set up", sysroot.SETUP))
    with pytest.raises(RuntimeUnavailable) as missing:
        load("cost", "onnx", "fp32").require(silent)
    assert missing.value.exit_code == 5


@pytest.mark.slow
@pytest.mark.needs("arm64")
@pytest.mark.parametrize("target", ["onnx", "mnn", "litert", "executorch"])
def test_many_files_in_one_process_count_as_each_by_itself(target: str, tmp_path: Path) -> None:
    files = written(
        [Shape(8, 8, ()), WIDE, Shape(32, 8, (14, 14), (1, 1), (1, 1), (0, 0), (1, 1))], target, "fp32", tmp_path
    )
    together = emulator.count_each(files, target)
    alone = emulator.count(files[1][0], target, files[1][1])  # whose output is larger than one write
    assert together[1]["all"] == pytest.approx(alone.instructions["all"], rel=0.01)
    assert alone.instructions["all"] > WIDE.macs / 16
    assert together[0]["all"] < together[2]["all"] < together[1]["all"]
