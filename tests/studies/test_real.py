"""The table of networks with real weights."""

from __future__ import annotations

from studies.real import decoding, finetune
from studies.real.run import ROWS, table


def test_the_table_says_what_a_file_lost() -> None:
    row = {
        "network": "a", "target": "onnx", "precision": "int8", "metric": "accuracy", "density": 0.5, "bytes": 250_000,
        "dense_bytes": 1_000_000, "dense": 90.0, "file": 88.5, "samples": 1000,
    }  # fmt: skip
    printed = table([row, {**row, "network": "b", "metric": "output SQNR in dB"}])
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert all(" ".join(each.key) in printed for each in ROWS), "those that are not made are named"
    assert lines[-2].startswith("| a | onnx int8 | 50% | 1.00 MB | 250 KB | 25.0% | accuracy, 1,000 samples |")
    assert lines[-2].endswith("| 90.00% | 88.50% | 1.50 |")
    assert lines[-1].endswith("| 90.00 dB | 88.50 dB |  |")


def test_the_row_of_the_plain_way_has_the_ratio_of_each_turn() -> None:
    printed = decoding.row("a step", [(0.1, 0.2), (0.3, 0.3), (0.2, 0.1)], "ms", 1000)
    assert printed == "| a step | 200 ms (100–300) | 200 ms (100–300) | 1.00 (0.50–2.00) |"


def test_the_row_of_a_fine_tuned_network_has_its_bytes_and_both_accuracies() -> None:
    row = {
        "photographs": 1500, "across": 128, "epochs": 5, "rounds": 3, "score": "lamp", "density": 0.2,
        "dense_bytes": 14_000_000, "bytes": 5_000_000, "parity": 2e-5, "tolerance": 1e-4, "dense_test": 81.25,
        "test": 80.0,
    }  # fmt: skip
    last = finetune.table([row]).splitlines()[-1]
    figures = "| 20% | 14,000,000 | 5,000,000 | 2.0e-05 | 1.0e-04 | 81.25 | 80.00 |"
    assert last == f"| 1,500 | 128 | 5 | 3 | lamp {figures}"
