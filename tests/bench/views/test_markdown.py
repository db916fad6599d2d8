from pathlib import Path

import pytest

from dwindle.bench.verdict import Check, Verdict
from dwindle.bench.views.markdown import append_markdown, markdown
from dwindle.errors import DwindleError

VERDICT = Verdict(
    (
        Check("max_size", "onnx", 25_000, 24_901, True, None),
        Check("max_ratio", "onnx", 0.8, 0.75, True, "a | b\n<script>"),
        Check("max_growth.size", "coreml", 0.02, None, False, "no Mac"),
    )
)


def test_the_summary_is_a_table_with_a_row_per_limit() -> None:
    lines = markdown(VERDICT, "net.dwindle").splitlines()
    assert lines[0] == "### dwindle gate: net.dwindle"
    assert "**1 of 3 limits could not be measured: not a pass.**" in lines
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 3
    assert table[2] == "| ✅ pass | max size | onnx | 25.0 KB (25,000) | 24.9 KB (24,901) |  |"
    assert table[4] == "| ⚠️ unmeasured | max growth of size | coreml | +2.00% | – | no Mac |"


def test_what_a_reason_says_stays_in_its_cell() -> None:
    (line,) = [line for line in markdown(VERDICT, "n").splitlines() if "max ratio" in line]
    assert line.endswith("| a \\| b &lt;script> |")


def test_steps_of_a_job_share_a_summary(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "summary.md"
    append_markdown(VERDICT, "a", path)
    append_markdown(VERDICT, "b", path)
    assert path.read_text() == markdown(VERDICT, "a") + markdown(VERDICT, "b")
    with pytest.raises(DwindleError, match="cannot write"):
        append_markdown(VERDICT, "a", path / "below")


def test_a_missed_limit_is_said_before_those_that_could_not_be_measured() -> None:
    missed = Check("max_size", "onnx", 20_000, 24_901, False, None)
    said = Verdict((*VERDICT.rows, missed)).sentence
    assert said.index("1 of 4 limits missed") < said.index("1 could not be measured")
