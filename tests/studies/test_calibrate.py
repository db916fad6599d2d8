from __future__ import annotations

from typing import Any

from studies.calibrate import rounding
from studies.calibrate.run import WAYS, cases
from studies.calibrate.table import table


def row(way: str, seed: int, test: float) -> dict[str, Any]:
    key = {"network": "zoo:resnet8", "seed": seed, "what": "weights", "share": 0.1, "way": way}
    return {**key, "dense": 90.0, "test": test, "int8": test - 1, "cpu_seconds": 6.0}


def test_a_line_holds_the_means_over_seeds_against_each_seeds_own_dense_network() -> None:
    rows = [row("magnitude", 0, 20.0), row("least squares", 0, 88.0), row("least squares", 1, 89.0)]
    line = next(line for line in table(rows, list(WAYS)).splitlines() if "resnet8 | weights" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "resnet8", "weights", "10%", "-70.00 (-71.00)", "", "-1.50 (-2.50)", "", "", "", "2",
    ]  # fmt: skip


def test_every_case_is_one_of_its_own() -> None:
    assert len(set(cases())) == len(cases())


def test_both_roundings_of_a_network_share_a_line() -> None:
    key = {"network": "zoo:resnet8", "share": 0.1, "precision": "int4", "cpu_seconds": 2.0, "sqnr": 20.0}
    rows = [
        {**key, "rounding": "nearest", "lost": 2.0, "bytes": 10_000},
        {**key, "rounding": "calibrated", "lost": 0.5, "bytes": 10_010},
    ]
    line = rounding.table(rows).splitlines()[-1]
    assert line == "| resnet8 | 10% | int4 | -2.00 (20.0 dB) | -0.50 (20.0 dB) | 10,000, +0.10% | 2 |"
