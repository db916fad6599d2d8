"""`plan` says beforehand what compress then does."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dwindle.cli import main
from dwindle.compress import Request, compress, curve, plan
from dwindle.compress.forecast import SHARES
from dwindle.compress.resolve import resolve
from dwindle.errors import BudgetMissed, UsageError
from dwindle.export import targets

pytestmark = pytest.mark.usefixtures("one_model")


@pytest.mark.slow
def test_a_plan_foretells_bytes_density_and_rounds(tmp_path: Path) -> None:
    request = Request("zoo:resnet8", {"data": "digits", "epochs": 1}, size=60_000)
    forecast = plan(request)
    done = compress(request, tmp_path / "net.dwindle")
    assert forecast.bytes[0].dense == pytest.approx(done.history[0].bytes, rel=0.01)
    assert forecast.bytes[0].compressed == pytest.approx(done.history[-1].bytes, rel=0.01)
    assert forecast.share == pytest.approx(done.history[-1].density, rel=0.05)
    assert abs(forecast.rounds - (len(done.history) - 1)) <= 1
    assert forecast.steps == 16 * (forecast.rounds + 1)
    assert forecast.seconds is not None
    assert forecast.seconds > 0


@pytest.mark.slow
def test_without_a_budget_several_are_forecast() -> None:
    found = curve(Request("zoo:resnet8", {"data": "digits", "epochs": 1}, targets=("coreml",)))
    assert [round(forecast.share, 2) for forecast in found] == list(SHARES)
    for earlier, later in pairwise(found):
        assert later.rounds > earlier.rounds
        assert all(
            after.compressed < before.compressed for before, after in zip(earlier.bytes, later.bytes, strict=True)
        )
        assert later.seconds is not None
        assert earlier.seconds is not None
        assert later.seconds > earlier.seconds
    assert [size.target for size in found[0].bytes] == ["onnx", "coreml"]


@pytest.mark.slow
def test_a_plan_refuses_what_compress_would() -> None:
    with pytest.raises(BudgetMissed, match="cannot be reached"):
        plan(Request("zoo:resnet8", "digits", size=2_000))


@pytest.mark.slow
def test_fewer_bits_leave_more_weights_for_the_same_bytes() -> None:
    whole, small = (
        plan(Request("zoo:resnet8", {"data": "digits", "epochs": 1}, size=30_000, precision=precision))
        for precision in (None, "int8")
    )
    assert small.bytes[0].dense < 0.3 * whole.bytes[0].dense
    assert small.share > 3 * whole.share
    assert small.bytes[0].compressed == pytest.approx(30_000, rel=0.02)


def test_the_precision_is_part_of_what_made_a_checkpoint() -> None:
    def origin(precision: str | None) -> dict[str, object]:
        return resolve(Request("zoo:resnet8", "digits", size=30_000, precision=precision)).origin

    assert origin(None) == origin("fp32") != origin("int8")
    with pytest.raises(UsageError) as refused:
        origin("int3")
    assert (refused.value.code, refused.value.option) == ("unknown-precision", "precision")


@pytest.mark.slow
def test_of_auto_every_precision_is_forecast_with_what_it_would_lose_untrained(
    trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert targets.possible("onnx")[:3] == ("fp32", "fp16", "int8")
    monkeypatch.setattr(targets, "possible", lambda name: ("fp32", "int8", "palette2"))
    asked: dict[str, Any] = {"method": "calibrate", "weights": trained, "size": "30KB", "rehearsal": False}
    found = plan("zoo:resnet8", data="digits", precision="auto", **asked)
    assert [each.precision for each in found.precisions] == ["fp32", "int8", "palette2"]
    plain, eight, two = found.precisions
    assert plain.density < eight.density < two.density == 1  # whose dense file is within the budget
    for each in found.precisions:
        assert each.bytes <= 30_000
        assert each.untrained_loss is not None
    assert found.untrained_loss == pytest.approx(plain.untrained_loss)
    assert [of for of, _ in found.facts].count("int8") == 1


@pytest.mark.slow
def test_the_command_forecasts_every_precision_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(targets, "possible", lambda name: ("fp32", "int8"))
    command = ["plan", "zoo:resnet8", "--data", "digits", "--size", "30KB", "--precision", "auto", "--no-rehearsal"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["precisions"]
    assert [each["precision"] for each in found] == ["fp32", "int8"]


def test_auto_is_no_precision_to_compress_at(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        compress("zoo:resnet8", tmp_path / "net.dwindle", data="digits", size="30KB", precision="auto")
    assert (refused.value.code, refused.value.option) == ("not-before-export", "precision")
    with pytest.raises(UsageError) as unbudgeted:
        curve("zoo:resnet8", data="digits", precision="auto")
    assert unbudgeted.value.option == "precision"
