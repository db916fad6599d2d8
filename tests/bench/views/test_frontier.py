"""Several checkpoints on one page: every round of each, a series per method, their files by target."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.bench import Bench, frontier_report
from dwindle.bench.result import Accuracy, Machine, RuntimeUsed
from dwindle.bench.rows import blank_rows
from dwindle.bench.views.methods_chart import Series, best, methods, methods_chart
from dwindle.checkpoint import Checkpoint, finish, start
from dwindle.cli import main
from dwindle.errors import CheckpointError, DwindleError, UsageError
from dwindle.manifest import Manifest, manifests
from dwindle.record import Round

Rounds = list[tuple[float, int | None, float]]


def series(name: str, method: str, rounds: Rounds) -> Series:
    made = (Round(i, density, size, score, 0.1, 1.0) for i, (density, size, score) in enumerate(rounds))
    return Series(name, method, tuple(made))


@pytest.fixture
def other(checkpoint: Checkpoint) -> Checkpoint:
    """Of the same task by another method."""
    history = tuple(
        replace(one, bytes=(one.bytes or 0) * 2, validation=one.validation - 1) for one in checkpoint.history
    )
    fresh = start(checkpoint.path.with_name("other.dwindle"), {**checkpoint.origin, "method": "amc"})
    weights = {"weights": {}, "dense": {}, "masks": {}}
    return finish(replace(fresh, done=True, history=history), weights, {})


def test_every_round_of_each_is_on_the_page(
    checkpoint: Checkpoint, other: Checkpoint, export: Callable[..., Manifest], onnx_files: tuple[Path, Path]
) -> None:
    export("onnx", *onnx_files)
    pairs = blank_rows(checkpoint.path, manifests(checkpoint.exports))
    ran = RuntimeUsed("onnxruntime", "1", 1)
    rows = tuple(
        replace(row, runtime=ran, accuracy=Accuracy("accuracy", 96.3, 360, None, "test"))
        for pair in pairs
        for row in pair
    )
    Bench(rows, Machine("CPU", 2, "Linux"), 0, "now", "0").save(checkpoint.bench_path)
    page = checkpoint.path.with_name("page.html")
    assert frontier_report([checkpoint, other.path], page) == page
    html = page.read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))
    assert "2 checkpoints by 2 methods" in text
    assert "unnamed method: net" in text
    assert "amc: other" in text
    for one in (checkpoint, other):
        for record in one.history:
            assert f"{record.bytes:,} {record.validation:.2f}" in text
    assert "Sizes are of the onnx file" in text
    assert re.search(r"net unnamed method 20\.9 KB 96\.30%", text) or "96.30%" in text
    assert "Not exported: other." in text
    assert "<script" not in html
    assert "src=" not in html


def test_the_command_takes_one_or_several(
    checkpoint: Checkpoint, other: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(checkpoint.path), str(other.path)]) == 0
    assert (tmp_path / "frontier.html").exists()
    assert not (checkpoint.path / "report.html").exists()
    assert main(["report", str(checkpoint.path)]) == 0
    assert (checkpoint.path / "report.html").exists()


def test_what_cannot_stand_on_one_page_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    origin = {**checkpoint.origin, "task": {"data": "digits"}}
    elsewhere = finish(
        replace(start(tmp_path / "b.dwindle", origin), done=True, history=checkpoint.history),
        {"weights": {}, "dense": {}, "masks": {}},
        {},
    )
    with pytest.raises(UsageError, match=r"is of blobs:Blobs and .* of digits: their accuracies can't be compared"):
        frontier_report([checkpoint, elsewhere], page)
    with pytest.raises(UsageError, match="has no finished round yet"):
        frontier_report([checkpoint, start(tmp_path / "c.dwindle", checkpoint.origin)], page)
    with pytest.raises(UsageError, match="one checkpoint is named twice"):
        frontier_report([checkpoint, checkpoint.path], page)
    with pytest.raises(CheckpointError):
        frontier_report([checkpoint, tmp_path / "nothing.dwindle"], page)
    assert not page.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(DwindleError, match="cannot write"):
        frontier_report([checkpoint], tmp_path / "file" / "page.html")


def test_a_method_has_one_colour_and_shape_whoever_used_it() -> None:
    rounds: Rounds = [(1.0, 1000, 90.0), (0.5, 500, 89.0)]
    drawn = [series("a", "lr-rewind", rounds), series("b", "amc", rounds), series("c", "lr-rewind", rounds)]
    assert methods(drawn) == ["lr-rewind", "amc"]
    marks = [
        one.attrib
        for one in ElementTree.fromstring(methods_chart(drawn, 900, 400, "a")).iter("path")
        if "class" in one.attrib
    ]
    assert [mark["class"] for mark in marks] == ["mark k0"] * 2 + ["mark k1"] * 2 + ["mark k0"] * 2
    assert "a" in marks[0]["d"]  # an arc: a circle
    assert "h" in marks[2]["d"]  # a square


def test_each_run_has_a_band_in_its_methods_colour() -> None:
    rounds: Rounds = [(1.0, 1000, 90.0), (0.5, 500, 89.0)]
    drawn = [series("a", "lr-rewind", rounds), series("b", "amc", rounds), series("c", "fine-tune", rounds)]
    judged = [replace(one, history=tuple(replace(each, samples=100) for each in one.history)) for one in drawn[:2]]
    bands = ElementTree.fromstring(methods_chart([*judged, drawn[2]], 900, 400, "a")).iter("polygon")
    assert [band.attrib["class"] for band in bands] == ["band k0", "band k1"]


def test_without_bytes_everywhere_it_shows_densities() -> None:
    svg = methods_chart([series("a", "x", [(1.0, 10, 1.0)]), series("b", "y", [(1.0, None, 1.0)])], 400, 300, "a")
    assert "density: share of the weights left" in svg


scores = st.floats(0, 100, allow_nan=False)
histories = st.lists(st.tuples(st.floats(0.001, 1.0), st.integers(1, 10**8), scores), min_size=1, max_size=6)


@given(st.lists(histories, min_size=1, max_size=3))
def test_nothing_on_the_frontier_is_beaten_and_everything_else_is(drawn: list[Rounds]) -> None:
    every = [series(str(number), "x", rounds) for number, rounds in enumerate(drawn)]
    points = {(one.name, r.index): (r.bytes or 0, r.validation) for one in every for r in one.history}
    front = best(every)
    assert front

    def beats(left: tuple[int, float], right: tuple[int, float]) -> bool:
        return left != right and left[0] <= right[0] and left[1] >= right[1]

    for key, point in points.items():
        assert (key in front) != any(beats(points[other], point) for other in front)


def test_runs_of_one_method_are_told_apart_by_what_differs_but_not_by_seed_or_budget(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    weights = {"weights": {}, "dense": {}, "masks": {}}
    options = [
        {"granularity": "channel", "seed": 0, "size": 9, "gradual": 0.3},
        {"granularity": "channel", "seed": 1, "size": 7, "gradual": 0.3},
        {"granularity": "unstructured", "seed": 0, "size": 9, "gradual": None},
    ]
    paths = []
    for at, option in enumerate(options):
        fresh = start(tmp_path / f"{at}.dwindle", {**checkpoint.origin, "method": "lr-rewind", **option})
        paths.append(finish(replace(fresh, done=True, history=checkpoint.history), weights, {}))
    html = frontier_report(paths, tmp_path / "page.html").read_text()
    assert "lr-rewind, gradual 0.3, granularity channel: 0, 1" in html
    assert "lr-rewind, granularity unstructured: 2" in html
