"""The GitHub Action, as far as it can be run without GitHub: its own steps, by bash, on a repository with a remote."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from dwindle.bench import bench
from dwindle.bench.history import read_history
from dwindle.bench.part import read_parts
from dwindle.checkpoint import Checkpoint
from dwindle.grammar import Grammar
from dwindle.manifest import Manifest

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = [step for step in ACTION["runs"]["steps"] if "run" in step]
MODEL = """
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, num_classes))
"""


class Runner:
    """GitHub's, in small: expressions of inputs and outputs, an environment, the files that steps write to."""

    def __init__(self, repository: Path, temp: Path, base_ref: str) -> None:
        self.repository, self.base_ref = repository, base_ref
        self.summary, self.output = temp / "summary.md", temp / "output"
        self.log = ""
        temp.mkdir()
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RUNNER_TEMP": str(temp),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_ACTION_PATH": str(ROOT),
        }
        self.values: dict[str, str] = {"github.base_ref": base_ref}

    def run(self, *, without: tuple[str, ...] = ("Install dwindle",), **inputs: str) -> int:
        """Runs the action's bash steps but for those named; returns the exit code of the one that failed, or 0."""
        known = ACTION["inputs"]
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        assert given.keys() <= known.keys()
        for name, spec in known.items():
            assert name in given or not spec.get("required")
            self.values[f"inputs.{name}"] = given.get(name, self.filled(spec.get("default", "")))
        for step in STEPS:
            if step["name"] in without or not self.runs(step.get("if")):
                continue
            assert "${{" not in step["run"]  # what a user types comes through the environment, never into the script
            environment = {name: self.filled(value) for name, value in step.get("env", {}).items()}
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],  # GitHub's `shell: bash`
                cwd=self.repository, env={**self.environment, **environment}, capture_output=True, text=True,
            )  # fmt: skip
            self.log += done.stdout + done.stderr
            written = self.output.read_text().splitlines() if self.output.exists() else []
            for name, _, value in (line.partition("=") for line in written):
                self.values[f"steps.{step.get('id')}.outputs.{name}"] = value
            self.output.unlink(missing_ok=True)
            if done.returncode:
                return done.returncode
        return 0

    def runs(self, condition: str | None) -> bool:
        """A step's `if`, of the one form that the action's own steps have."""
        if condition is None:
            return True
        name, compared, nothing = condition.split()
        assert (compared, nothing) == ("!=", "''")
        return self.values[name] != ""

    def filled(self, text: str) -> str:
        return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: self.values.get(found[1], ""), str(text))


def git(folder: Path, *arguments: str) -> None:
    named = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *named, *arguments], cwd=folder, check=True, capture_output=True)


def compress(repository: Path, size: str) -> None:
    command = [
        sys.executable, "-m", "dwindle", "compress", "mine:net", "--data", "digits", "--size", size, "--epochs", "3",
        "--granularity", "unstructured", "--rounds", "1", "--no-rehearsal", "-o",
        "net.dwindle",
    ]  # fmt: skip
    subprocess.run(command, cwd=repository, check=True, capture_output=True)


def published(folder: Path) -> Path:
    """A clone of an empty remote."""
    git(folder, "init", "--bare", "origin.git")
    git(folder, "clone", "origin.git", "work")
    return folder / "work"


def publish(repository: Path) -> None:
    git(repository, "add", ".")
    git(repository, "commit", "-m", "a checkpoint")
    git(repository, "push", "origin", "HEAD:main")


needs_git = pytest.mark.needs("git")


@pytest.mark.slow
@needs_git
@pytest.mark.usefixtures("short_slices")
def test_the_gate_is_told_of_the_baseline_that_the_branch_has(
    checkpoint: Checkpoint, export: Callable[..., Manifest], onnx_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """All steps but the one that measures: that has been done."""
    export("onnx", *onnx_files)
    found = bench(checkpoint)
    (tmp_path / "git").mkdir()
    repository = published(tmp_path / "git")
    (repository / "budget with spaces.toml").write_text('[gate.onnx]\nmax_size = "1MB"\n')
    nested = repository / "nets"  # the action's paths are relative to where it runs
    nested.mkdir()
    shutil.copytree(checkpoint.path, nested / "net.dwindle", ignore=shutil.ignore_patterns("bench.json"))
    publish(repository)

    def runner(name: str, base_ref: str = "main") -> Runner:
        shutil.copy(checkpoint.bench_path, nested / "net.dwindle")
        return Runner(repository, tmp_path / name, base_ref)

    inputs = {"checkpoint": "nets/net.dwindle", "limits": "budget with spaces.toml", "max_growth": "2%"}
    without = ("Install dwindle", "Measure")
    first = runner("first")
    assert first.run(without=without, **inputs) == 0, first.log
    assert "::notice::main has no nets/net.dwindle/bench.json" in first.log
    assert first.values.get("steps.baseline.outputs.path") is None
    assert "max growth" not in first.summary.read_text()

    earlier = replace(
        found, rows=tuple(replace(r, artifact=replace(r.artifact, bytes=r.artifact.bytes - 1000)) for r in found.rows)
    )
    earlier.save(nested / "net.dwindle/bench.json")
    publish(repository)
    second = runner("second")
    assert second.run(without=without, **inputs) == 3, second.log
    assert "❌ miss | max growth of size" in second.summary.read_text()
    assert second.values["steps.gate.outputs.exit-code"] == "3"
    assert runner("third").run(without=without, **{**inputs, "max_growth": "20%"}) == 0
    pushed = runner("pushed", base_ref="")  # no pull request, nothing to grow from
    assert pushed.run(without=without, **inputs) == 0, pushed.log
    absent = runner("fourth")
    assert absent.run(without=without, **inputs, options="--target coreml --max-size 1MB") == 5, absent.log


@pytest.mark.slow
@needs_git
def test_model_files_are_held_to_those_of_the_branch_without_being_measured(
    onnx_files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "git").mkdir()
    repository = published(tmp_path / "git")
    for folder in ("app one", "other"):
        (repository / folder).mkdir()
        shutil.copy(onnx_files[1], repository / folder / "net.onnx")  # two of one name
    publish(repository)
    with (repository / "other/net.onnx").open("ab") as file:
        file.write(bytes.fromhex("3203616263"))  # a longer doc string
    shutil.copy(onnx_files[0], repository / "app one")
    inputs = {"files": "**/*.onnx", "options": "--max-size 1MB", "max_growth": "0"}
    request = Runner(repository, tmp_path / "request", base_ref="main")
    assert request.run(**inputs) == 3, request.log
    assert "::notice::main has no app one/dense.onnx" in request.log
    (verdict,) = read_parts(Path(request.values["steps.gate.outputs.part"]))
    grown = {row.target: row.measured for row in verdict.rows if row.name == "max_growth.size"}
    assert grown.pop("other/net.onnx") == pytest.approx(5 / onnx_files[1].stat().st_size)
    assert grown == {"app one/net.onnx": 0}
    assert not (repository / "dwindle-report.html").exists()
    (repository / "other/net.onnx").rename(repository / "other/renamed.onnx")
    renamed = Runner(repository, tmp_path / "renamed", base_ref="main")
    assert renamed.run(**{**inputs, "files": "other/*.onnx"}) == 3, renamed.log
    (verdict,) = read_parts(Path(renamed.values["steps.gate.outputs.part"]))
    assert [row.name for row in verdict.rows if not row.passed] == ["max_growth.size"]
    (repository / "other/renamed.onnx").rename(repository / "other/net.onnx")
    shutil.copy(onnx_files[1], repository / "net[1].onnx")
    publish(repository)
    bracketed = Runner(repository, tmp_path / "bracketed", base_ref="main")
    assert bracketed.run(**{**inputs, "files": "net[1].onnx"}) == 0, bracketed.log
    assert "max growth of size" in bracketed.summary.read_text()
    again = Runner(repository, tmp_path / "again", base_ref="")
    assert again.run(files="other/*.onnx", options="--max-size 1MB") == 0, again.log
    names = {one.values["steps.gate.outputs.part-name"] for one in (request, again)}
    assert len(names) == 2  # jobs of a matrix upload each their own
    assert all(name.startswith("dwindle-comment-") for name in names)


@pytest.mark.parametrize(
    ("inputs", "installed"),
    [
        ({"files": "*.onnx"}, str(ROOT)),
        ({"checkpoint": "net.dwindle"}, f"{ROOT}[all]"),
        ({}, None),
        ({"files": "*.onnx", "checkpoint": "net.dwindle"}, None),
    ],
)
def test_what_is_installed(inputs: dict[str, str], installed: str | None, tmp_path: Path) -> None:
    """By a double of Python that says what it was asked for."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "bin/python").chmod(0o755)
    runner = Runner(tmp_path, tmp_path / "temp", base_ref="")
    runner.environment["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    others = tuple(step["name"] for step in STEPS if step["name"] != "Install dwindle")
    assert runner.run(without=others, **inputs) == (0 if installed else 2)
    assert (runner.log.split()[-1] == installed) if installed else "::error::" in runner.log


@needs_git
@pytest.mark.slow
def test_a_pull_request_is_measured_and_held_against_what_main_has(tmp_path: Path) -> None:
    """The whole of it on a network that is trained here: main's without a baseline yet, then a larger one."""
    repository = published(tmp_path)
    (repository / "mine.py").write_text(MODEL)
    (repository / "budget.toml").write_text('[gate.onnx]\nmax_size = "12KB"\nmin_accuracy = 20\n')
    compress(repository, "9KB")
    publish(repository)
    inputs = {
        **{"checkpoint": "net.dwindle/", "limits": "budget.toml", "targets": "onnx", "max_growth": "2%"},
        **{"code": "--model mine:net"},
    }
    first = Runner(repository, tmp_path / "first", base_ref="main")
    assert first.run(**inputs) == 0, first.log
    assert "Every limit holds" in first.summary.read_text()
    assert (repository / "dwindle-report.html").read_text().startswith("<!doctype html>")
    publish(repository)

    git(repository, "checkout", "-b", "larger")
    shutil.rmtree(repository / "net.dwindle")
    compress(repository, "11KB")
    request = Runner(repository, tmp_path / "request", base_ref="main")
    assert request.run(**inputs, options="--max-download 50KB") == 3, request.log
    suite = ElementTree.parse(repository / "dwindle-gate.xml").getroot()[0]
    assert {case.attrib["name"]: [child.tag for child in case] for case in suite} == {
        "max size": ["system-out"],
        "max download": ["system-out"],
        "min accuracy": ["system-out"],
        "max growth of size": ["failure"],
    }


def test_the_example_uses_inputs_that_exist() -> None:
    workflow = yaml.safe_load((ROOT / "examples/budget.yml").read_text())
    (step,) = [step for step in workflow["jobs"]["budget"]["steps"] if "dwindle@" in step["uses"]]
    assert step["with"].keys() <= ACTION["inputs"].keys()
    assert len(step["with"].keys() & {"files", "checkpoint"}) == 1


def test_the_second_workflow_takes_the_artifacts_of_the_first() -> None:
    first, second = (yaml.safe_load((ROOT / f"examples/{name}.yml").read_text()) for name in ("budget", "comment"))
    assert second[True]["workflow_run"]["workflows"] == [first["name"]]  # YAML 1.1 reads `on` as true
    assert first["permissions"] == {"contents": "read"}
    taken, _, _, posted = second["jobs"]["comment"]["steps"]
    (uploaded,) = [step for step in ACTION["runs"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert uploaded["with"]["name"] == "${{ steps.gate.outputs.part-name }}"
    assert taken["with"]["pattern"] == "dwindle-comment-*"
    assert posted["run"].startswith(f"python -m dwindle.bench.pull_request {taken['with']['path']}")
    assert not any("checkout" in step.get("uses", "") for step in second["jobs"]["comment"]["steps"])


def test_the_gitlab_example_uses_options_that_exist() -> None:
    job = yaml.safe_load((ROOT / "examples/gitlab.yml").read_text())["budget"]
    (line,) = [line for line in job["script"] if line.startswith("dwindle ")]
    given = Grammar().parse(shlex.split(line)[1:])
    assert str(given.part.parent) == "parts"
    assert str(given.junit) == job["artifacts"]["reports"]["junit"]
    assert any("pull_request parts" in line for line in job["after_script"])


def test_every_expression_names_something() -> None:
    """GitHub makes an empty string of a misspelled one."""
    outputs = {f"steps.{step['id']}.outputs" for step in STEPS if "id" in step}
    for name in re.findall(r"\$\{\{ *([\w.-]+) *\}\}", (ROOT / "action.yml").read_text()):
        kind, _, rest = name.partition(".")
        assert (
            name == "github.base_ref"
            or (kind == "inputs" and rest in ACTION["inputs"])
            or (name.rpartition(".")[0] in outputs)
        ), name


@pytest.mark.slow
@needs_git
def test_the_history_is_kept_in_a_branch(onnx_files: tuple[Path, Path], tmp_path: Path) -> None:
    """The example's own steps, in a clone for each of three commits, the last of which breaks a limit."""
    job = yaml.safe_load((ROOT / "examples/history.yml").read_text())["jobs"]["history"]
    steps = {step["id"]: step["run"] for step in job["steps"] if "id" in step}
    first = published(tmp_path)
    (first / "app").mkdir()
    shutil.copy(onnx_files[1], first / "app/net.onnx")
    (first / "budget.toml").write_text("[gate]\nmax_size = 30000\n")
    publish(first)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GITHUB_SHA": "abc"}
    codes = []
    for number in range(3):
        folder = tmp_path / f"run {number}"
        git(tmp_path, "clone", "--branch", "main", "origin.git", str(folder))
        if number == 2:
            (folder / "budget.toml").write_text("[gate]\nmax_size = 1\n")
        for name in ("fetch", "gate", "keep"):
            command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", steps[name]]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert name == "gate" or done.returncode == 0, done.stderr
            codes += [done.returncode] if name == "gate" else []
    assert codes == [0, 0, 3]
    git(tmp_path, "clone", "--branch", "dwindle-history", "origin.git", "kept")
    assert [entry.passed for entry in read_history(tmp_path / "kept/gate.jsonl")] == [True, True, False]
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {".git", "gate.jsonl", "index.html"}
    log = subprocess.run(["git", "log", "--oneline"], cwd=tmp_path / "kept", capture_output=True, text=True, check=True)
    assert len(log.stdout.splitlines()) == 3
