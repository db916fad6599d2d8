"""One thread for everything: more threads than free cores makes OpenMP's busy wait dominate."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Read as PyTorch is imported, which isn't here: xdist's first process reads this file too, and runs no test.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Nothing waits for the disk: the suite writes thousands of checkpoints, and cuts no power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a measurement quick and useless: for tests that look at everything but the times."""
    monkeypatch.setattr("dwindle.bench.measure.SLICE_SECONDS", 0.0005)
    monkeypatch.setattr("dwindle.bench.measure.LEAD_SECONDS", 0.0005)
    monkeypatch.setattr("dwindle.bench.measure.WARM_UP_SECONDS", 0.01)
    monkeypatch.setattr("dwindle.bench.measure.PROCESSES", 1)  # to start one is most of the work
    monkeypatch.setattr("dwindle.bench.measure.LOADS", 2)
