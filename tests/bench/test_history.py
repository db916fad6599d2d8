"""The gate's history: what is usual, two jobs at once, damaged lines; and a first file of limits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from dwindle.bench import gate
from dwindle.bench.history import LEAST, append, read_history, usual
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import DwindleError, UsageError
from dwindle.manifest import Manifest


@pytest.fixture
def models(onnx_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(onnx_files[1], tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_usual_is_the_median_of_the_last_that_passed(tmp_path: Path) -> None:
    path = tmp_path / "gate.jsonl"
    for size, passed in ((1, True), (100, True), (1_000_000, False), *((size, True) for size in range(90, 100))):
        append(path, {"a/b.onnx": {"size": size, "cost": 2.0 * size}, "other": {"size": 5}}, passed=passed)
    entries = read_history(path)
    assert len(entries) == 13
    found = usual(entries, "a/b.onnx", "onnx")
    assert found is not None
    assert (found.bytes, found.cost) == ({"onnx": 94}, {"onnx": 189.0})
    assert usual(entries[: LEAST - 1], "a/b.onnx", "onnx") is None
    assert usual(entries, "unheard of", "onnx") is None
    assert entries[0].dwindle


def test_growth_over_a_history(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["gate", "net.onnx", "--history", "gate.jsonl", "--max-growth", "5%", "--max-size", "1MB"]
    for run in range(1, LEAST + 1):
        assert main(arguments) == 0
        assert len(read_history(Path("gate.jsonl"))) == run
        assert "not checked" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "not checked" not in capsys.readouterr().err
    model = onnx.load("net.onnx")
    model.doc_string = "longer" * 1000
    onnx.save(model, "net.onnx")
    assert main(arguments) == 3
    assert [entry.passed for entry in read_history(Path("gate.jsonl"))] == [True] * (LEAST + 1) + [False]


def test_a_checkpoint_has_a_history_too(
    checkpoint: Checkpoint, export: Callable[..., Manifest], onnx_files: tuple[Path, Path], tmp_path: Path
) -> None:
    export("onnx", *onnx_files)
    verdict = gate(checkpoint, max_size="1MB", max_growth=0)
    assert verdict.exit_code == 5
    name = f"{checkpoint.path} as onnx"
    assert verdict.figures == {name: {"size": onnx_files[1].stat().st_size}}
    for _ in range(LEAST):
        append(tmp_path / "gate.jsonl", verdict.figures, passed=True)
    rows = gate(checkpoint, max_growth=0, history=tmp_path / "gate.jsonl").rows
    assert [(row.name, row.measured, row.passed) for row in rows] == [("max_growth.size", 0, True)]


@pytest.mark.parametrize(
    ("earlier", "allowed", "passed"),
    [
        ((0.9, 1.0, 1.1), 1.0, True),  # the deviation is a tenth of the size
        ((1.0, 1.0, 1.0), 3.0, True),
        ((0.98, 0.98, 0.98), 3.0, False),  # 2% more, where sizes never varied: 20 times the least deviation
        ((0.98, 0.98, 0.98), 21.0, True),
    ],
)
def test_deviations_over_a_history(models: Path, earlier: tuple[float, ...], allowed: float, passed: bool) -> None:
    path, history = models / "net.onnx", models / "gate.jsonl"
    for share in earlier:
        append(history, {str(path): {"size": round(share * path.stat().st_size)}}, passed=True)
    (row,) = gate(path, max_deviations=allowed, history=history).rows
    assert (row.name, row.passed) == ("max_deviations", passed)


def test_deviations_need_a_history(models: Path) -> None:
    assert gate(models / "net.onnx", max_deviations=3).exit_code == 5


def test_jobs_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gate.jsonl"
    program = (
        "import sys; from pathlib import Path; from dwindle.bench.history import append\n"
        "for run in range(20): append(Path(sys.argv[1]), {sys.argv[2] * 3000: {'size': run}}, passed=True)"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "abc"]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    entries = read_history(path)
    for name in "abc":
        sizes = [entry.figures[name * 3000]["size"] for entry in entries if name * 3000 in entry.figures]
        assert sizes == list(range(20))


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "gate.jsonl"
    append(path, {"a": {"size": 1}}, passed=True)
    path.write_text(path.read_text() + '{"schema": 1, "ma')
    append(path, {"a": {"size": 2}}, passed=True)
    lines = path.read_text().splitlines()
    assert [json.loads(lines[at])["figures"]["a"]["size"] for at in (0, 2)] == [1, 2]
    with pytest.raises(DwindleError, match="line 2") as refused:
        read_history(path)
    assert refused.value.code == "damaged"


@pytest.mark.parametrize(
    ("line", "code"), [('{"schema": 2, "more": 1}', "newer"), ("[]", "field"), ('{"schema": 1}', "field")]
)
def test_what_is_no_history_of_this_version(models: Path, line: str, code: str) -> None:
    Path("gate.jsonl").write_text(line + "\n")
    with pytest.raises(DwindleError) as refused:
        gate("net.onnx", max_growth=0, history="gate.jsonl")
    assert refused.value.code == code
    assert main(["gate", "net.onnx", "--max-size", "1MB", "--history", "gate.jsonl"]) == 1
    assert Path("gate.jsonl").read_text() == line + "\n"


def test_a_first_file_of_limits(models: Path) -> None:
    Path("ci").mkdir()
    assert main(["gate", "net.onnx", "--init", "ci/budget.toml"]) == 0
    (row,) = gate([], limits="ci/budget.toml").rows
    assert (Path(row.target).resolve(), row.name, row.passed) == (models / "net.onnx", "max_size", True)
    assert row.measured is not None
    assert row.measured <= row.limit <= 1.03 * row.measured
    assert main(["gate", "net.onnx", "--init", "ci/budget.toml"]) == UsageError.exit_code
