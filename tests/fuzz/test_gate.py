"""What a gate says of documents that were damaged or forged: never a pass that is wrong, never a traceback.

More of the same by hand: `python -m studies.trust.gate 100000`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dwindle.errors import CheckpointError
from studies.trust.gate import count


@pytest.mark.parametrize("cases", [150, pytest.param(1_000, marks=pytest.mark.slow)])
def test_no_forgery_passes_and_none_is_a_traceback(cases: int) -> None:
    counts = count(cases)
    assert counts.cases == cases
    assert counts.wrong == []
    assert counts.tracebacks == []
    assert counts.ended["refused"] > cases
    assert counts.ended["missed"] > cases / 10
    assert counts.ended["passed"], "or else a wrong pass could not be seen either"


@pytest.mark.slow
def test_a_gate_that_believes_unsealed_documents_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsealed(path: Path, remedy: str) -> dict[str, Any]:
        try:
            return {key: value for key, value in json.loads(path.read_bytes()).items() if key != "sha256"}
        except ValueError as error:
            raise CheckpointError("damaged") from error

    monkeypatch.setattr("dwindle.bench.result.read_sealed_json", unsealed)
    assert count(300).wrong


def test_a_gate_that_believes_a_documents_sizes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwindle.bench.figures.raw_bytes", lambda path: 9_000)
    assert count(40).wrong


@pytest.mark.slow
def test_a_gate_that_believes_any_number_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwindle.bench.result._implausible", lambda row: iter(()))
    assert count(300).wrong
