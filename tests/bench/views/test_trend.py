"""The page of a gate's history: each figure, run by run, self-contained, whatever the names are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dwindle.bench.history import Entry, append, read_history
from dwindle.bench.verdict import Check, Verdict
from dwindle.bench.views.trend import LAST, write_trend
from dwindle.bench.views.trend_chart import Point, trend_chart
from dwindle.cli import main


def entry(size: float, *, name: str = "net.onnx", passed: bool = True, **more: float) -> Entry:
    return Entry(1, "2026-05-04T03:02:01+00:00", "0123456789abcdef", "0.1", passed, {name: {"size": size, **more}})


def checked(name: str = "net.onnx", limit: float = 2000) -> Verdict:
    row = Check("max_size", name, limit, 1500, True, None)
    return Verdict((row,), figures={name: {"size": 1500}}, subjects={name: Path(name)})


def test_a_chart_for_each_figure_and_a_row_for_each_run(tmp_path: Path) -> None:
    entries = [entry(1000, cost=1e6), entry(3000, passed=False), entry(1500, cost=2e6, accuracy=91.5)]
    page = write_trend(tmp_path / "page.html", entries, checked()).read_text()
    assert page.count("<svg") == 3 * 2
    assert page.count("<tr>") == 1 + 3
    assert "limit 2.00 KB" in page
    assert "91.50" in page
    assert page.count("missed a limit") == 2 + 1  # a point in the wide and the narrow chart, and the note
    for beyond in ("http:", "https:", "<script", "src="):
        assert beyond not in page


def test_names_are_text(tmp_path: Path) -> None:
    name = "<img src=x>&.onnx"
    page = write_trend(tmp_path / "page.html", [entry(1, name=name)], checked(name)).read_text()
    assert "<img" not in page


def test_what_is_no_longer_checked_is_named(tmp_path: Path) -> None:
    page = write_trend(tmp_path / "page.html", [entry(1, name="old.onnx"), entry(2)], checked()).read_text()
    assert "No longer checked: old.onnx" in page
    assert page.count("<svg") == 2


def test_long_histories_are_cut(tmp_path: Path) -> None:
    page = write_trend(tmp_path / "page.html", [entry(size) for size in range(1, 3 * LAST)], checked()).read_text()
    assert page.count("<circle") == 2 * LAST


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [1.0, 1.0], [1e9, 1.0, 5e8]])
def test_every_point_is_within_the_picture(values: list[float]) -> None:
    points = [Point("2026-01-01", "abc", value, True) for value in values]
    chart = trend_chart(points, None, str, 400, 200, "c")
    heights = [float(piece.split('"')[0]) for piece in chart.split('cy="')[1:]]
    assert len(heights) == len(values)
    assert all(0 < height < 200 for height in heights)


def test_on_the_command_line(onnx_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(onnx_files[1], tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    append(Path("gate.jsonl"), {"net.onnx": {"size": 30_000}}, passed=True)
    given = ["gate", "net.onnx", "--max-size", "1MB", "--page", "trend.html"]
    assert main(given) == 2
    assert main([*given, "--history", "gate.jsonl"]) == 0
    page = Path("trend.html").read_text()
    assert page.count("<circle") == 2 * len(read_history(Path("gate.jsonl"))) == 4
    assert "What the bytes of net.onnx are" in page
