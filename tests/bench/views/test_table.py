from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from dwindle.bench.result import (
    Accuracy,
    Agreement,
    Artifact,
    Bench,
    Compare,
    Latency,
    Machine,
    McNemar,
    Noise,
    Row,
    RuntimeUsed,
    Share,
)
from dwindle.bench.rows import untried
from dwindle.bench.verdict import Check, Verdict
from dwindle.bench.views.table import bench_table, gate_table
from dwindle.bench.views.wording import gaps, signed
from dwindle.quantities import format_ms

DENSE = Row(
    target="onnx",
    role="dense",
    precision="fp32",
    encoding="dense",
    artifact=Artifact("exports/onnx/dense.onnx", "0", "onnx", 331_000, 304_000),
    runtime=RuntimeUsed("onnxruntime", "1.32.0", 1),
    compression=1.0,
    latency=Latency(5.0, 2.0, 0.2, 0.21, 0.25, 0.19, 0.205, 6, 4, 240),
    accuracy=Accuracy("accuracy", 97.0, 360, (94.7, 98.3), "test"),
    memory_bytes=4_000_000,
    noise=Noise(True, (), 0.99, 0.01, 20.0, 0.01, 0.5),
)
COMPRESSED = replace(
    DENSE,
    role="compressed",
    artifact=Artifact("exports/onnx/net.onnx", "1", "onnx", 28_900, 25_000),
    compression=11.45,
    compare=Compare("exports/onnx/dense.onnx", 1.012, (1.005, 1.019), "median"),
    accuracy=replace(DENSE.accuracy, value=96.3) if DENSE.accuracy else None,
    noise=Noise(False, ("had the CPU for 80% of the time only",), 0.8, 0.01, 20.0, 0.01, 0.5),
)


def shown(renderable: Any, width: int = 200) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(renderable)
    return console.export_text()


def test_the_bench_table_has_every_headline() -> None:
    missing = untried(replace(COMPRESSED, target="coreml", latency=None, compare=None, accuracy=None), "no Mac")
    text = shown(bench_table(Bench((DENSE, COMPRESSED, missing), Machine("CPU", 2, "Linux"), 0, "now", "0.1")))
    line, below = text.split("  compressed")[1].splitlines()[:2]
    assert line.split() == ["28.9", "KB", "25.0", "KB", "11.5×", "96.30", "−0.70", "205", "µs", "1.012"]
    assert below.split() == ["94.7–98.3", "200", "µs", "1.005–1.019"]
    assert "onnx in onnxruntime 1.32.0" in text
    figures = "latency, latency ratio, accuracy, agreement, memory, noise"
    assert f"not measured: {figures} of coreml compressed: no Mac" in text
    assert "noisy: onnx compressed in onnxruntime: had the CPU for 80% of the time only" in text


def test_below_the_files_stands_what_became_of_the_classes() -> None:
    assert DENSE.accuracy
    five = Share(99.5, (98.1, 99.9))
    agreement = Agreement("exports/onnx/dense.onnx", 98.6, (96.8, 99.4), 360, 5, (14, 122), McNemar(4, 1, 0.375))
    rows = (
        replace(DENSE, accuracy=replace(DENSE.accuracy, top5=five)),
        replace(COMPRESSED, agreement=agreement),
        replace(COMPRESSED, target="coreml", agreement=replace(agreement, changed=0, samples=())),
    )
    text = " ".join(shown(bench_table(Bench(rows, Machine("CPU", 2, "Linux"), 0, "now", "0.1"))).split())
    assert "onnx dense in onnxruntime: top-5 99.50 (98.1–99.9)" in text
    assert "onnx compressed in onnxruntime: 5 of 360 samples in another class" in text
    assert "98.60%, 96.8–99.4; samples 14, 122, …): 4 now wrong, 1 now right, McNemar's exact p = 0.38" in text
    assert "every one of 360 samples in the dense file's class" in text


def test_the_bench_table_fits_a_terminal_of_80() -> None:
    text = shown(bench_table(Bench((DENSE, COMPRESSED), Machine("CPU", 2, "Linux"), 0, "now", "0.1")), 80)
    assert "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (Check("max_size", "onnx", 30_000, 28_900, True, None), ("pass", "30.0 KB (30,000)", "every limit holds")),
        (
            Check("max_drop", "onnx", 1.0, 1.5, False, "95 against 96.5"),
            ("miss", "1.50 points", "1 of 1 limits missed"),
        ),
        (Check("max_drop", "onnx", 1.0, None, False, "no Mac"), ("unmeasured", "no Mac", "not a pass")),
    ],
)
def test_the_gate_table_says_each_outcome_in_words(row: Check, words: tuple[str, ...]) -> None:
    text = shown(gate_table(Verdict((row,))))
    assert all(word in text for word in words)


def test_figures_read_well() -> None:
    assert [format_ms(value) for value in (0.0099, 0.1806, 0.9996, 4.526, 99.96, 1200)] == [
        "9.90 µs", "181 µs", "1.00 ms", "4.53 ms", "100 ms", "1.20 s",
    ]  # fmt: skip
    assert [signed(value) for value in (-0.7, 0.2, 0.0, -0.001)] == ["−0.70", "+0.20", "0.00", "0.00"]


def test_a_reason_is_said_once_for_all_that_share_it() -> None:
    rows = [untried(row, "no Mac") for row in (DENSE, COMPRESSED)]
    ((files, figures, reason),) = gaps(rows)
    assert (files, reason) == ("onnx", "no Mac")
    assert figures == "latency, accuracy, memory, noise, latency ratio, agreement"
    ((files, _, _),) = gaps([untried(COMPRESSED, "no Mac")])
    assert files == "onnx compressed"
