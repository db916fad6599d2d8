from __future__ import annotations

from studies.calibrate import cost, crepe, efficientnet, others, update


def test_a_rate_has_a_line_with_and_without_the_update() -> None:
    row = {"epochs": 2, "rate": 0.4, "seed": 0, "rounds": 5, "validation": 1.0, "test": 0.5}
    line = update.table([{**row, "update": None}, {**row, "update": update.UPDATES[1], "test": 0.75}]).splitlines()[-1]
    assert line == "| 10% of the weights | 2 | 40% | 5 | 10 | +0.50 (+1.00) | +0.75 (+1.00) | 1 |"


def test_costs_are_sorted_by_samples() -> None:
    one = {"cpu_seconds": 90.0, "solving_seconds": 60.0, "megabytes": 2000.0}
    rows = [{**one, "samples": count} for count in (16, 8)]
    assert cost.table(rows).splitlines()[-2:] == [
        "| 8 | 90 | 60 | 0.00 GB | 2.00 GB |",
        "| 16 | 90 | 60 | 0.01 GB | 2.00 GB |",
    ]


def test_precisions_share_the_line_of_their_network() -> None:
    key = {"share": 0.4, "way": efficientnet.SQUARES, "seen": 2, "unseen": 3, "photographs": "5 of a", "sqnr": 20.0}
    rows = [{**key, "precision": "fp32", "agreement": 90.0}, {**key, "precision": "int4, nearest", "agreement": 60.0}]
    line = efficientnet.table(rows).splitlines()[-1]
    assert line == "| 60% | least squares | 90.0% (20.0 dB) |  |  | 60.0% (20.0 dB) |  |"


def test_a_tool_that_fails_has_what_it_said_in_its_cell_and_channels_are_of_macs() -> None:
    key = {"share": 0.5, "seen": 2, "unseen": 3, "photographs": "5 of a", "precision": "fp32"}
    failed = {**key, "way": others.LAYERWISE, "fails": "TypeError: no such argument"}
    cut = {**key, "way": others.CHANNELS, "agreement": 40.0, "sqnr": 3.0}
    found = {line.split("|")[2].strip(): line for line in efficientnet.table([failed, cut]).splitlines() if "|" in line}
    assert "| 50% |" in found[others.LAYERWISE]
    assert "fails: TypeError: no such argument" in found[others.LAYERWISE]
    assert "| 50% of the MACs |" in found[others.CHANNELS]


def test_a_pitch_trackers_precisions_share_a_line() -> None:
    key = {"share": 0.4, "way": crepe.SQUARES, "cpu_seconds": 7.0, "sqnr": 20.0}
    rows = [{**key, "precision": kind, "near": 90.0 - place} for place, kind in enumerate(crepe.PRECISIONS)]
    line = crepe.table(rows).splitlines()[-1]
    assert line == "| 60% | least squares | 90.0% (20.0 dB) | 89.0% (20.0 dB) | 88.0% (20.0 dB) | 7 |"
