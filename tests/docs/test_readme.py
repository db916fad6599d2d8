"""The README takes ten minutes, and leads to pages and files that are there."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT

TEXT = (ROOT / "README.md").read_text("utf-8")
LINKS = re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXT)


def test_it_takes_ten_minutes() -> None:
    assert len(TEXT.splitlines()) <= 150


def test_its_links_lead_somewhere() -> None:
    assert len(LINKS) > 15
    assert [link for link in LINKS if not (ROOT / link).exists()] == []


@pytest.mark.needs("docs")
def test_what_it_says_of_pruning_is_what_the_targets_say() -> None:
    from docs.hooks import gains

    assert gains() in TEXT


def test_its_table_is_the_studys() -> None:
    """Bytes and points as `studies/smallest/results.md` has them."""
    study = (ROOT / "studies/smallest/results.md").read_text("utf-8").splitlines()
    for target, title in {"onnx": "ONNX", "coreml": "Core ML", "executorch": "ExecuTorch"}.items():
        (line,) = [line for line in TEXT.splitlines() if line.startswith(f"| {title} |")]
        told = re.findall(r"[\d.]+ KB", line)
        cells = [[cell.strip() for cell in each.split("|")] for each in study]
        measured = {row[2]: row for row in cells if row[1:2] == [target]}
        assert {f"{int(row[3].replace(',', '')) / 1000:.1f} KB" for row in measured.values()} == set(told)
        assert measured["dwindle"][7].replace("-", "−") in line
