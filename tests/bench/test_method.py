"""What bench promises of its times, held to on an idle machine: on any other these say why they don't run."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dwindle.bench.measure import measure
from dwindle.bench.process import Worker
from dwindle.bench.result import Noise
from dwindle.bench.stats import milliseconds, noise
from dwindle.export.fold import deployable
from dwindle.export.targets import load
from dwindle.models.build import ModelSpec, build
from studies.latency.repeats import IDLE, neighbours, others_work, settled

SHAPE = (3, 32, 32)


def need_an_idle_machine() -> None:
    with others_work() as busy:
        time.sleep(2)
    if busy[0] > IDLE:
        pytest.skip(f"needs an idle machine: something else takes {busy[0]:.2f} cores of this one")
    settled()  # what ran before it is still in the load average, which bench judges by


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-20, some milliseconds."""
    path = tmp_path_factory.mktemp("method") / "net.onnx"
    inputs = (torch.randn(1, *SHAPE),)
    torch.manual_seed(0)
    network = build(ModelSpec("zoo:resnet20", 10, SHAPE)).eval()
    load("onnx").write(deployable(network, inputs), inputs, path, pack=False)
    return path


def timed(file: Path, seed: int) -> tuple[float, Noise]:
    """The headline, in milliseconds, and what bench says of the noise."""
    sample = [np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)]
    samples, surroundings = measure({"file": partial(Worker, "onnxruntime", file)}, sample, seed=seed)
    headline = milliseconds(samples["file"])[0].typical
    assert headline is not None
    return headline, noise(samples["file"], surroundings)


@pytest.mark.slow
@pytest.mark.needs("idle machine")
def test_two_runs_on_the_same_idle_file_agree_within_2_percent(file: Path) -> None:
    need_an_idle_machine()
    (first, quiet), (second, still) = timed(file, 1), timed(file, 2)
    if not (quiet.quiet and still.quiet):
        need_an_idle_machine()  # whoever came meanwhile may still be here
        pytest.skip(f"the machine was idle before and not meanwhile: {'; '.join(quiet.reasons + still.reasons)}")
    assert abs(first / second - 1) <= 0.02


@pytest.mark.slow
@pytest.mark.needs("idle machine")
@pytest.mark.parametrize("count", [1, os.cpu_count() or 1, 2 * (os.cpu_count() or 1)])
def test_beside_neighbours_it_agrees_within_5_percent_or_says_that_it_was_noisy(file: Path, count: int) -> None:
    need_an_idle_machine()
    alone, quiet = timed(file, 1)
    if not quiet.quiet:
        pytest.skip(f"the machine was idle before and not meanwhile: {'; '.join(quiet.reasons)}")
    with neighbours(count):
        beside, judged = timed(file, 2)
    assert not judged.quiet or abs(beside / alone - 1) <= 0.05
    if count > (os.cpu_count() or 1):  # every core is taken twice over: nobody could have missed that
        assert not judged.quiet
