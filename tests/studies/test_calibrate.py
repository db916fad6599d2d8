from __future__ import annotations

from typing import Any

from studies.calibrate.run import WAYS, cases
from studies.calibrate.table import table


def row(way: str, seed: int, test: float) -> dict[str, Any]:
    key = {"network": "zoo:resnet8", "seed": seed, "what": "weights", "share": 0.1, "way": way}
    return {**key, "dense": 90.0, "test": test, "int8": test - 1, "cpu_seconds": 6.0}


def test_a_line_holds_the_means_over_seeds_against_each_seeds_own_dense_network() -> None:
    rows = [row("magnitude", 0, 20.0), row("least squares", 0, 88.0), row("least squares", 1, 89.0)]
    line = next(line for line in table(rows, list(WAYS)).splitlines() if "resnet8 | weights" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "resnet8", "weights", "10%", "-70.00 (-71.00)", "", "-1.50 (-2.50)", "", "", "2",
    ]  # fmt: skip


def test_every_case_is_one_of_its_own() -> None:
    assert len(set(cases())) == len(cases())
