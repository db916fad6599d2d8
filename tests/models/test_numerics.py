"""What a run computes with: recorded when it begins, taken up again when it resumes, and said where it can't be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dwindle.models import numerics
from dwindle.models.precision import bf16_gains
from dwindle.record import Numerics

CPU = torch.device("cpu")
BEGUN = Numerics(1, False, "cpu", "a processor", "AVX2")
VERSIONS = {"torch": "2.9.0"}


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setenv("DWINDLE_BF16", "0")


def test_the_present_ones_are_this_process_s() -> None:
    here = numerics.present()
    assert (here.threads, here.bf16, here.ranks) == (torch.get_num_threads(), False, 1)
    assert here.kernels == torch.backends.cpu.get_cpu_capability()


def test_threads_and_bfloat16_are_those_of_the_beginning_for_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWINDLE_BF16", "0")
    before = torch.get_num_threads()
    with numerics.continued(replace(BEGUN, threads=2, bf16=True), replace(BEGUN, threads=before)):
        assert torch.get_num_threads() == 2
        assert bf16_gains(CPU)
    assert torch.get_num_threads() == before
    assert not bf16_gains(CPU)


def test_the_answer_does_not_change_within_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    here = numerics.present()
    with numerics.continued(here, here):
        monkeypatch.setenv("DWINDLE_BF16", "1")
        assert not bf16_gains(CPU)


def test_more_threads_than_cores_and_another_devices_answer_are_not_taken_up() -> None:
    before = torch.get_num_threads()
    begun = replace(BEGUN, threads=64, bf16=True, device="cuda")
    with numerics.continued(begun, replace(BEGUN, threads=before)):
        assert torch.get_num_threads() == before
        assert not bf16_gains(CPU)


def test_nothing_is_said_where_nothing_differs() -> None:
    assert numerics.differences(BEGUN, BEGUN, {**VERSIONS, "code mine:net": "1"}, VERSIONS) is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threads": 2}, "goes on as it began, with threads 1 (here 2)"),
        ({"bf16": True}, "goes on as it began, with bf16 off (here on)"),
        ({"kernels": "AVX512"}, "because it differs in kernels (AVX2 when it began, AVX512 here)"),
        ({"ranks": 4}, "because it differs in ranks (1 when it began, 4 here)"),
        ({"processor": "another"}, "because it differs in processor (a processor when it began, another here)"),
    ],
)
def test_what_differs_is_named(change: dict[str, object], named: str) -> None:
    said = numerics.differences(BEGUN, replace(BEGUN, **change), VERSIONS, VERSIONS)  # type: ignore[arg-type]
    assert said is not None
    assert named in said
    assert ";" not in said


def test_another_version_of_torch_and_too_few_cores_are_one_line() -> None:
    begun = replace(BEGUN, threads=64)
    said = numerics.differences(begun, replace(begun, threads=1, bf16=True), VERSIONS, {"torch": "2.9.1"})
    assert said is not None
    assert "bf16 off (here on)" in said
    assert "threads (64 when it began, 1 here), torch (2.9.0 when it began, 2.9.1 here)" in said
    assert "\n" not in said
