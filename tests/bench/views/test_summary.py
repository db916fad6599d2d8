from dataclasses import replace

import pytest

from dwindle.bench.result import Compare, Row
from dwindle.bench.views.summary import Goal, bench_summary, findings, main_row, next_step
from tests.bench.views.test_table import COMPRESSED, DENSE, shown

ROWS = (DENSE, COMPRESSED)
SLOWER = replace(COMPRESSED, compare=Compare("exports/onnx/dense.onnx", 1.2, (1.1, 1.3), "median"))
FASTER = replace(COMPRESSED, compare=Compare("exports/onnx/dense.onnx", 0.5, (0.48, 0.52), "median"))


def good(rows: tuple[Row, ...], goal: Goal) -> list[bool]:
    return [found.good for found in findings(rows, goal)]


@pytest.mark.parametrize(
    ("goal", "net", "expected"),
    [
        (Goal("onnx"), FASTER, [True, True, True]),
        (Goal("onnx"), COMPRESSED, [True, True, True]),
        (Goal("onnx"), SLOWER, [True, True, False]),
        (Goal("onnx", size=28_900, max_drop=0.5), FASTER, [True, False, True]),
        (Goal("onnx", size=28_899), FASTER, [False, True, True]),
        (Goal("coreml", size=1), FASTER, [True, True, True]),
        (Goal("onnx"), replace(FASTER, accuracy=None, compare=None), [True]),
    ],
)
def test_size_accuracy_and_speed_are_judged(goal: Goal, net: Row, expected: list[bool]) -> None:
    assert good((DENSE, net), goal) == expected


def test_smaller_is_than_the_dense_file_of_the_same_format() -> None:
    assert f"{331 / 28.9:.1f}× smaller" in findings(ROWS, Goal("onnx"))[0].line


def test_the_remedy_of_the_first_that_is_not_good_comes_next() -> None:
    found = findings((DENSE, COMPRESSED), Goal("onnx", size=1))
    assert next_step(found, "net.dwindle") == found[0].remedy
    assert "gate net.dwindle" in next_step(findings((DENSE, FASTER), Goal("onnx")), "net.dwindle")


def test_the_file_it_was_made_for_comes_first() -> None:
    other = replace(COMPRESSED, target="coreml")
    assert main_row((DENSE, COMPRESSED, other), "coreml") is other
    assert main_row((DENSE, COMPRESSED, other), "litert") is COMPRESSED
    assert main_row((DENSE,), "onnx") is None


def test_a_line_per_compressed_file_fits_a_terminal_of_80() -> None:
    text = shown(bench_summary((*ROWS, replace(COMPRESSED, target="executorch-coreml")), Goal("onnx"), "net"), 80)
    (line,) = [line for line in text.splitlines() if line.startswith("onnx  ")]
    figures = ["28.9", "KB", "11.5×", "96.30", "−0.70", "205", "µs", "1.012", "5.00", "ms", "4.00", "MB"]
    assert line.split()[1:] == figures
