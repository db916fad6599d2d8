from __future__ import annotations

from dwindle.live import loss_line
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
