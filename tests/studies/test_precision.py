from __future__ import annotations

from typing import Any

from studies.precision import arm64, mixed, photos, ratios
from studies.precision.run import cases, table


def row(training: str, seed: int, test: float) -> dict[str, Any]:
    return {
        "network": "zoo:resnet8", "seed": seed, "target": "onnx", "precision": "w8a8", "training": training,
        "dense": 90.0, "float": 90.0, "test": test, "bytes": 12_340,
    }  # fmt: skip


def test_a_file_has_a_line_and_what_was_not_run_is_named() -> None:
    printed = table([row("none", 0, 89.0), row("none", 1, 90.5), row("qat", 0, 90.0)])
    assert "| resnet8 | w8a8, onnx | 12.3 | 89.75 (-0.25, -1.00 to +0.50) |  | 90.00 (+0.00) | 2 |" in printed
    assert "resnet8 seed 2" in printed
    assert "resnet8 seed 1" in printed  # in part


def test_each_target_is_tried_without_training() -> None:
    assert {target for target, precision, training in cases() if (precision, training) == ("w8a8", "none")} == {
        "onnx", "litert", "executorch", "coreml",
    }  # fmt: skip
    assert len(cases()) == len(set(cases()))


def test_files_of_one_size_stand_in_one_line() -> None:
    rows = [
        {
            "network": "zoo:resnet8", "seed": seed, "share": 0.3, "precision": precision, "dense": 90.0,
            "test": test, "bytes": size, "limit": 20_000,
        }
        for precision, seed, test, size in (
            ("int8", 0, 88.0, 19_000), ("mixed", 0, 89.0, 20_000), ("mixed", 1, 90.0, 20_001)
        )
    ]  # fmt: skip
    line = "| resnet8 | 20.0 (30%) | 88.00 (-2.00) |  |  |  | 89.50 (-0.50, -1.00 to +0.00) (over the size) | 2 |"
    assert line in mixed.table(rows)


def test_instructions_are_over_those_of_the_float_file_of_the_same_runtime() -> None:
    rows = [
        {
            "network": "zoo:resnet20", "shape": [3, 32, 32], "target": target, "precision": precision,
            "runtime": target, "instructions": {"all": count}, "relative": 0.0,
        }
        for target, precision, count in (
            ("onnx", "fp32", 40_000_000), ("executorch", "w8a8", 5_000_000), ("onnx", "w8a8", 10_000_000)
        )
    ]  # fmt: skip
    printed = arm64.table(rows)
    assert "| zoo:resnet20 3×32×32 | w8a8 | onnx | 10.00 | 0.250 | 0e+00 |" in printed
    assert "| zoo:resnet20 3×32×32 | w8a8 | executorch | 5.00 |  | 0e+00 |" in printed  # whose float file is not there
    assert "Not counted yet: zoo:mobilenetv2" in printed


def test_a_ratio_is_that_of_the_largest_of_the_seeds_files() -> None:
    rows = [
        {
            "network": "resnet20", "seed": seed, "dense_bytes": 1_000_000, "bytes": size, "density": 0.1, "rounds": 2,
            "test": test, "dense": 89.0, "dense_trained_on": 89.5,
        }
        for seed, size, test in ((0, 30_000, 88.5), (1, 32_000, 89.0))
    ]  # fmt: skip
    line = "| 1000.0 | 32.0 | 31.2 | 10.0% | 2 | 88.75 | -0.25, -0.50 to +0.00 | -0.75, -1.00 to -0.50 | 2 |"
    assert line in ratios.table(rows)


def test_files_of_photographs_stand_beside_the_float_network() -> None:
    rows = [{"case": "a net", "target": "onnx", "precision": "w8a8", "dense": 90.0, "test": 89.5}]
    assert "| a net | 90.00 |  | 89.50 (-0.50) |  |  |" in photos.table(rows)
