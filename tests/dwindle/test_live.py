from __future__ import annotations

import io

import pytest
from rich.console import Console

from dwindle.compress.forecast import Bytes, Forecast
from dwindle.live import curve_table, loss_line
from dwindle.metrics import ACCURACY, AGREEMENT, SQNR


def test_a_loss_of_more_than_a_point_is_said_with_what_to_try() -> None:
    assert loss_line({"dense_test": 90.0, "test": 89.1}, ACCURACY) is None
    assert loss_line({"dense_test": 90.0, "test": 91.0}, ACCURACY) is None
    said = loss_line({"dense_test": 90.0, "test": 67.25}, ACCURACY)
    assert said is not None
    assert "22.75 points" in said.plain
    assert "--epochs" in said.plain
    assert said.style == "red"


def test_without_labels_a_change_is_said_and_no_loss() -> None:
    assert loss_line({"dense_test": 144.0, "test": 50.0}, SQNR) is None, "0.3% of the outputs"
    for metric, test, percent in ((SQNR, 20.0, "10.00%"), (AGREEMENT, 97.0, "3.00%")):
        said = loss_line({"dense_test": 144.0, "test": test}, metric)
        assert said is not None
        assert percent in said.plain
        assert "--max-change" in said.plain


@pytest.mark.parametrize(("losses", "said"), [((0.5, 12.25), True), ((None, None), False)])
def test_each_density_that_is_tried_says_what_calibration_alone_would_lose(
    losses: tuple[float | None, ...], said: bool
) -> None:
    size = (Bytes("onnx", 1000, 500),)
    tried = [Forecast(0.5, 3, 90, 1.0, size, (), (), untrained_loss=loss) for loss in losses]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(curve_table(tried))
    text = console.export_text()
    assert ("untrained loss" in text) is said
    assert ("12.25 points" in text) is said
