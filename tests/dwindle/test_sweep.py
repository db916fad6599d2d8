"""Sweeps: the trials of a file, and that a bad one stops none of the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dwindle.checkpoint import Checkpoint
from dwindle.errors import UsageError
from dwindle.sweep import Outcome, finished, sweep, trials

BASE = 'model = "zoo:resnet8"\ndata = "digits"\nepochs = 1\nrounds = 1\n'


def write(at: Path, axes: str) -> Path:
    at.write_text(BASE + axes)
    return at


def test_trials_are_every_combination(tmp_path: Path) -> None:
    file = write(tmp_path / "sweep.toml", '[sweep]\nsize = ["20KB", "40KB"]\nseed = [0, 1]\ngranularity = ["2:4"]\n')
    found = trials(file)
    assert [each.name for each in found] == [
        f"size={size},seed={seed},granularity=2-4" for size in ("20KB", "40KB") for seed in (0, 1)
    ]
    assert found[1].options["seed"] == 1
    assert found[1].options["granularity"] == "2:4"
    assert found[1].options["model"] == "zoo:resnet8"


@pytest.mark.parametrize(
    "axes",
    ["", "[sweep]\n", "[sweep]\nseed = 3\n", "[sweep]\nseed = []\n", "[sweep]\nepochs = [1, 2]\n",
     "[sweep]\nseed = [1, 1]\n", '[sweep]\nout = ["a"]\n'],
)  # fmt: skip
def test_a_file_without_lists_to_combine_is_refused(tmp_path: Path, axes: str) -> None:
    with pytest.raises(UsageError):
        trials(write(tmp_path / "sweep.toml", axes))


def test_a_bad_trial_stops_none_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], *, stdout: Any, **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        bad = "lr=-1" in command[-1]
        stdout.write("dwindle: `lr` is -1\n" if bad else "net.dwindle: smaller\n")
        return subprocess.CompletedProcess(command, 2 if bad else 0)

    monkeypatch.setattr("dwindle.sweep.subprocess.run", run)
    said: list[str] = []
    outcomes = sweep(write(tmp_path / "sweep.toml", "[sweep]\nlr = [0.1, -1, 0.2]\n"), tmp_path / "out", said.append)
    assert [each.exit_code for each in outcomes] == [0, 2, 0]
    assert outcomes[1].said == "dwindle: `lr` is -1"
    assert [path.name for path in finished(outcomes)] == ["lr=0.1.dwindle", "lr=0.2.dwindle"]
    assert len(ran) == len(said) == 3


@pytest.mark.slow
def test_a_sweep_draws_its_frontier_and_resumes(tmp_path: Path) -> None:
    file = write(tmp_path / "sweep.toml", 'rehearsal = false\n[sweep]\ndensity = ["50%", "20%", "200%"]\n')
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dwindle", "sweep", str(file), "-o", str(out), "--jobs", "2"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 1, first.stderr
    assert "2 of 3 trials" in first.stdout
    assert (out / "frontier.html").stat().st_size > 1000
    made = [Checkpoint.load(path) for path in sorted(out.glob("*.dwindle"))]
    assert [each.done for each in made] == [True, True]
    times = [path.stat().st_mtime_ns for path in sorted(out.glob("*.dwindle/checkpoint.json"))]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert times == [path.stat().st_mtime_ns for path in sorted(out.glob("*.dwindle/checkpoint.json"))]


@pytest.mark.needs("ray")
@pytest.mark.slow
def test_a_ray_cluster_runs_the_trials_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "sweep.toml", 'rehearsal = false\n[sweep]\ndensity = ["50%", "20%", "200%"]\n')
    command = [sys.executable, "-m", "dwindle", "sweep", "sweep.toml", "-o", "out", "--jobs", "2", "--ray", "local"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 1, first.stderr
    assert "2 of 3 trials" in first.stdout
    assert "density=200-" in first.stdout
    out = tmp_path / "out"
    assert (out / "frontier.html").stat().st_size > 1000
    assert [Checkpoint.load(path).done for path in sorted(out.glob("*.dwindle"))] == [True, True]
    times = [path.stat().st_mtime_ns for path in sorted(out.glob("*.dwindle/checkpoint.json"))]
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 1
    assert times == [path.stat().st_mtime_ns for path in sorted(out.glob("*.dwindle/checkpoint.json"))]


@pytest.mark.needs("ray")
def test_a_cluster_that_is_not_there_is_said(tmp_path: Path) -> None:
    file = write(tmp_path / "sweep.toml", "[sweep]\nseed = [0, 1]\n")
    with pytest.raises(UsageError) as caught:
        sweep(file, tmp_path / "out", print, ray="auto")
    assert (caught.value.code, caught.value.option, caught.value.name) == ("unreachable", "ray", "auto")
    assert not list((tmp_path / "out").glob("*.log"))


def test_a_trial_that_a_cluster_lost_is_an_outcome_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cluster(run: Any, over: list[Any], address: str, cpus: int) -> Any:
        yield 1, "its machine was lost"
        yield 0, Outcome(over[0].name, Path("/there/net.dwindle"), 0, "smaller")

    monkeypatch.setattr("dwindle.sweep.as_finished", cluster)
    file = write(tmp_path / "sweep.toml", "[sweep]\nseed = [0, 1]\n")
    outcomes = sweep(file, tmp_path / "out", lambda line: None, ray="auto")
    assert [(each.exit_code, each.path.name) for each in outcomes] == [(0, "seed=0.dwindle"), (1, "seed=1.dwindle")]
    assert outcomes[1].said == "its machine was lost"
