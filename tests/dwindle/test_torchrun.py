"""The whole command on two processes: what one process would make, written and said once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress
from dwindle.compress.amc.allocate import allocation

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dwindle"]
DIGITS = ["compress", "zoo:resnet8", "--data", "digits", "--density", "50%", "--rounds", "2", "--epochs", "4"]
OUT = ["--no-rehearsal", "-o", "net.dwindle"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "DWINDLE_BF16": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*TORCHRUN, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    code, out, err = run(folder, *DIGITS, *OUT, "--json")
    assert code == 0, err
    return Checkpoint.load(folder / "net.dwindle"), out, err


def test_one_rank_speaks(undisturbed: tuple[Checkpoint, str, str]) -> None:
    net, out, err = undisturbed
    assert [r["validation"] for r in json.loads(out)["history"]] == [r.validation for r in net.history]
    for index in range(3):
        assert err.count(f"round {index} of about") == 1
    assert err.count("× smaller") == 1


def test_as_good_as_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple[Checkpoint, str, str]
) -> None:
    monkeypatch.setenv("DWINDLE_BF16", "0")
    request = Request("zoo:resnet8", {"data": "digits", "epochs": 4}, density=0.5, rounds=2)
    alone, net = compress(request, tmp_path / "net.dwindle"), undisturbed[0]
    assert alone.origin == net.origin, "the same command: how many processes run it is no option of the result"
    for one, two in zip(alone.history, net.history, strict=True):
        assert one.density == two.density
        assert one.bytes == pytest.approx(two.bytes, rel=0.01)
    # Rounding is all that tells them apart, and training amplifies it to a few of the 359 samples.
    assert net.metrics["test"] == pytest.approx(alone.metrics["test"], abs=2)


def test_killed_and_resumed_is_the_same_bit_for_bit(tmp_path: Path, undisturbed: tuple[Checkpoint, str, str]) -> None:
    process = start(tmp_path, *DIGITS, *OUT)
    deadline = time.monotonic() + 200
    while not (tmp_path / "net.dwindle/rounds/001").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    torchrun = psutil.Process(process.pid)
    for each in (*torchrun.children(recursive=True), torchrun):  # torchrun's workers are in sessions of their own
        each.kill()
    process.communicate()
    assert not Checkpoint.load(tmp_path / "net.dwindle").done
    code, _, err = run(tmp_path, *DIGITS, *OUT)
    assert code == 0, err
    assert "resuming after round" in err
    resumed = Checkpoint.load(tmp_path / "net.dwindle")
    assert all(torch.equal(resumed.weights[name], value) for name, value in undisturbed[0].weights.items())


def test_a_task_that_trains_another_network_on_each_rank_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, torch\n"
        "from examples.plain_loop import Loop, net\n"
        "class Apart(Loop):\n"
        "    def fit(self, model, **options):\n"
        "        torch.manual_seed(int(os.environ['RANK']))\n"
        "        super().fit(model, **options)\n"
    )
    (tmp_path / "examples").symlink_to(Path(__file__).parents[2] / "examples")
    code, _, err = run(tmp_path, "compress", "mine:net", "--task", "mine:Apart", "--density", "50%", *OUT)
    assert code == 1
    assert "ranks disagree: the weights after round 0 on rank 1 are not those of rank 0" in err


def test_the_first_rank_searches_for_amc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It judges on the whole validation split; the rewards differ from one process's by what the training did."""
    monkeypatch.setenv("DWINDLE_BF16", "0")
    command = ["compress", "zoo:resnet8", "--data", "digits", "--density", "50%", "--rounds", "1", "--epochs", "1"]
    code, _, err = run(tmp_path, *command, "--method", "amc", "--episodes", "4", "--recalibrate", *OUT)
    assert code == 0, err
    found = allocation(tmp_path / "net.dwindle")
    assert found is not None
    assert len(found.curve) == 4
    assert all(reward * 359 == pytest.approx(round(reward * 359)) for reward in found.curve), "of all 359 samples"
    assert Checkpoint.load(tmp_path / "net.dwindle").done
