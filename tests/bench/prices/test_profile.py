"""A profile is a document that only fits what it was made of, and none is made of a device that changes its speed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count, cycle, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dwindle.bench.prices import profiled, timing
from dwindle.bench.prices.fit import layer_errors, whole_errors
from dwindle.bench.prices.predicting import Predictor, found, shipped
from dwindle.bench.prices.profile import SCHEMA, Profile, Timed
from dwindle.bench.prices.profiled import Profiled
from dwindle.bench.prices.table import profile_table
from dwindle.bench.process import Loaded, Slice
from dwindle.bench.result import Machine
from dwindle.bench.runtimes.runtime import load as runtime
from dwindle.compress import Request
from dwindle.compress.resolve import resolve
from dwindle.errors import RuntimeUnavailable, UsageError
from dwindle.price import Shape
from tests.bench.prices.test_fit import measured, networks, true

WIDE = Shape(64, 128, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1))


def made(**changes: Any) -> Profile:
    """A profile of ONNX files in fp32 on a board, of times that a formula has made."""
    own, wholes = measured(0.05), networks(0.05)
    alone = {str(one.shape): one.ms for one in own}
    timed = Timed("fp32", alone, tuple(wholes), layer_errors(own), whole_errors(own, wholes))
    found = Profile(
        schema=SCHEMA,
        target="onnx",
        runtime="an old phone's",
        version="1.0",
        device="ssh://pi@board",
        machine=Machine("Cortex-A76", 4, "Linux 6.1"),
        threads=1,
        clock="thread-CPU time",
        made="2026-11-28T00:00:00+00:00",
        seconds=200.0,
        drift=0.02,
        timed=(timed,),
    )
    return replace(found, **changes)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return made()


@pytest.fixture
def file(profile: Profile, tmp_path: Path) -> Path:
    profile.save(tmp_path / "board.json")
    return tmp_path / "board.json"


def test_it_is_read_as_it_was_written(profile: Profile, file: Path) -> None:
    assert Profile.load(file) == profile
    said = " ".join(profile_table(profile))
    assert "ssh://pi@board" in said
    assert f"{profile.timed[0].whole_errors.median:.1%}" in said


def test_it_prices_layers_and_networks_with_an_interval(file: Path) -> None:
    price = Profiled("onnx", "fp32", str(file))
    price.require(lambda line: pytest.fail("nothing is measured"))
    (ms,) = price.layers([WIDE], lambda line: None)
    assert ms == pytest.approx(true(WIDE), rel=0.15)

    def never() -> tuple[Path, list[np.ndarray]]:
        pytest.fail("no file is needed")

    assert price.whole(never, [WIDE] * 8) > 7 * ms
    off = Profile.load(file).timed[0].whole_errors.p90
    assert f"8 ms ({8 / (1 + off):.3g} to {8 * (1 + off):.3g})" in price.words(8.0)
    assert price.note() is None


def test_a_device_is_profiled_once(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def measured_there(*what: object, **how: object) -> Profile:
        asked.append(what)
        return profile

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(profiled, "profile_device", measured_there)
    for _ in range(2):
        price = Profiled("onnx", "fp32", "ssh://pi@board.local")
        price.require(lambda line: None)
        assert price.profile == profile
    assert asked == [("ssh://pi@board.local", "onnx", ["fp32"])]
    (kept,) = (tmp_path / "dwindle/profiles").iterdir()
    kept.write_text("{}", encoding="utf-8")
    Profiled("onnx", "fp32", "ssh://pi@board.local").require(lambda line: None)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("target", "precision", "changes", "code"),
    [
        ("litert", "fp32", {}, "other-target"),
        ("onnx", "w8a8", {}, "other-precision"),
        ("onnx", "fp32", {"runtime": "onnxruntime"}, "other-version"),
        ("onnx", "fp32", {"schema": 2}, "other-schema"),
        ("onnx", "fp32", {"timed": ()}, "other-precision"),
    ],
)
def test_a_profile_of_something_else_is_refused(
    profile: Profile, tmp_path: Path, target: str, precision: str, changes: dict[str, Any], code: str
) -> None:
    replace(profile, **changes).save(tmp_path / "other.json")
    with pytest.raises(UsageError) as refused:
        Profiled(target, precision, str(tmp_path / "other.json"))
    assert refused.value.code == code


@pytest.mark.parametrize("name", shipped())
def test_what_comes_with_dwindle_says_where_it_is_from(name: str) -> None:
    profile = found(name)
    assert profile.source
    assert profile.device == name
    assert all(timed.whole_errors.median < 0.1 and timed.whole_errors.p90 < 0.3 for timed in profile.timed)
    price = Profiled(profile.target, profile.timed[0].precision, name)
    assert price.note() == profile.source
    (ms,) = price.layers([WIDE], lambda line: None)
    assert 0 < ms < 10


def test_figures_of_others_were_not_measured_in_no_time() -> None:
    profile = found("cortex-a76")
    head, source, *_ = profile_table(profile)
    assert "measured in" not in head
    assert source == profile.source
    assert "measured in 200 s" in next(profile_table(made()))


def test_an_old_phone_is_predicted_from_whole_networks() -> None:
    timed = found("cortex-a76").at("fp32")
    assert (timed.layers, timed.layer_errors) == ({}, None)
    predictor = Predictor(found("cortex-a76"), "fp32")
    known = {one.name: predictor.network(one.shapes) for one in timed.wholes}
    assert known["mobilenet_v2"].ms == pytest.approx(43.96, rel=0.1)
    assert known["mobilenet_v2"].low < 43.96 < known["mobilenet_v2"].high


def test_no_profile_is_found_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        found("phone.json", tmp_path)
    assert (refused.value.code, refused.value.path) == ("unreadable", tmp_path / "phone.json")


def _few(document: dict[str, Any]) -> None:
    layers = document["timed"][0]["layers"]
    document["timed"][0]["layers"] = dict(list(layers.items())[:5])


def _of_no_layers(document: dict[str, Any]) -> None:
    document["timed"][0]["layers"] = {}  # and eight networks


def _no_stride(document: dict[str, Any]) -> None:
    document["timed"][0]["layers"]["64>64 14x14 k3x3 s0x0"] = 1.0


def _uneven(document: dict[str, Any]) -> None:
    document["timed"][0]["wholes"][0]["layers"]["64>64 14x14 k3x3x3"] = 1


def _without_machine(document: dict[str, Any]) -> None:
    del document["machine"]


@pytest.mark.parametrize("damage", [_few, _of_no_layers, _no_stride, _uneven, _without_machine])
def test_a_damaged_profile_is_refused(file: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(file.read_text())
    damage(document)
    file.write_text(json.dumps(document))
    with pytest.raises(UsageError) as refused:
        Profile.load(file)
    assert (refused.value.code, refused.value.path) == ("not-a-profile", file)


class Fake:
    """A worker whose reference takes as long as `speeds` say, group after group."""

    speeds: Iterator[float]
    speed: float

    def __init__(self, runtime: str, file: Path, threads: int, patience: float, command: list[str]) -> None:
        self.reference = file.name == "reference"

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def load(self, sample: list[np.ndarray]) -> Loaded:
        return Loaded("1.0", 0.0, 0.0, None)

    def time(self, iterations: int) -> Slice:
        if self.reference:
            Fake.speed = next(self.speeds)
        ns = np.full(iterations, (1.0 if self.reference else 2.0) * self.speed * 1e6)
        return Slice(ns, ns, 0)


def timed(speeds: Iterable[float], monkeypatch: pytest.MonkeyPatch) -> timing.Times:
    Fake.speeds = iter(speeds)
    monkeypatch.setattr(timing, "Worker", Fake)
    files = [(Path(str(index)), [np.zeros(1)]) for index in range(3 * timing.TOGETHER)]
    reference = Path("reference"), [np.zeros(1)]
    return timing.times(files, reference, runtime("onnxruntime"), "ssh://pi@board", 1, lambda line: None)


def test_a_device_that_throttles_is_not_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeUnavailable) as throttled:
        timed((1.0 + 0.01 * turn for turn in count()), monkeypatch)
    assert (throttled.value.code, throttled.value.name) == ("throttled", "ssh://pi@board")


def test_a_speed_that_changes_from_turn_to_turn_cancels_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed(cycle([1.0, 1.5, 1.0]), monkeypatch)
    assert found.ms == pytest.approx([2.0] * 3 * timing.TOGETHER)
    assert found.drift == 0.0


def test_a_steady_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed(repeat(1.0), monkeypatch)
    assert found.ms == [2.0] * 3 * timing.TOGETHER
    assert (found.drift, found.clock, found.version) == (0.0, "thread-CPU time", "1.0")


def test_a_latency_is_of_a_device(file: Path) -> None:
    resolved = resolve(Request("zoo:resnet8", "digits", latency="8ms", on=str(file)))
    ((granularity, budget),) = resolved.phases
    assert (granularity.kind, budget.latency, resolved.request.latency) == ("channel", 8.0, 8.0)
    for options, option in (
        ({"latency": "8ms"}, "on"),
        ({"on": str(file), "size": "30KB"}, "on"),
        ({"latency": "8ms", "on": str(file), "cost": "50%"}, "latency"),
        ({"latency": "8ms", "on": str(file.with_name("nowhere.json"))}, "on"),
    ):
        with pytest.raises(UsageError) as refused:
            resolve(Request("zoo:resnet8", "digits", **options))  # type: ignore[arg-type]
        assert refused.value.option == option
