"""What the committed table of operators says: nothing wrong was ever proven, and nothing was kept uncompared."""

from __future__ import annotations

from collections import Counter

import pytest

from dwindle.export.parity import KERNELS
from studies import journal
from studies.operators.cases import CASES
from studies.operators.run import RESULTS, TARGETS, table

ROWS = [row for row in journal.read(RESULTS) if row["case"] in CASES]


@pytest.mark.parametrize("target", ["onnx", "coreml", "litert"])
def test_every_operator_is_in_the_table_once(target: str) -> None:
    assert Counter(row["case"] for row in ROWS if row["target"] == target) == Counter(list(CASES))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['target']}, {row['case']}")
def test_a_file_was_compared_or_not_kept(row: dict[str, object]) -> None:
    """`right` has both figures, what crashed ended its process, and all else was refused by an error that names it."""
    assert row["target"] in TARGETS
    assert row["outcome"] in ("right", "refused", "unproven", "crashed")
    if row["outcome"] == "right":
        assert isinstance(row["relative"], float)
        assert isinstance(row["unseen"], float)
    elif row["outcome"] == "crashed":
        assert "ended with -" in str(row["said"]), "the export says so in a sentence: tests/export/test_crash.py"
    else:
        assert row["said"]
        assert (row["code"] == "unproven") == (row["outcome"] == "unproven"), "kept only where `unproven` is given"


@pytest.mark.parametrize("target", ["onnx", "executorch", "litert"])
def test_no_kernel_is_further_off_than_tolerances_reckon_with(target: str) -> None:
    found = [row["relative"] for row in ROWS if row["target"] == target and row["outcome"] == "right"]
    assert len(found) > 100
    assert max(found) <= KERNELS


def test_the_page_is_of_these_results() -> None:
    assert RESULTS.with_suffix(".md").read_text() == table(ROWS)
