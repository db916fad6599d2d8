"""Growth that is meant: up to its value, for its reason, shown, and expired once the limit holds again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dwindle.bench import gate
from dwindle.bench.views.junit import write_junit
from dwindle.bench.views.markdown import markdown
from dwindle.errors import UsageError

LIMITS = (
    '[gate]\nmax_size = {size}\n[[gate.allow]]\nfigure = "{figure}"\n{of}up_to = {up_to}\nreason = "two | classes"\n'
)


@pytest.fixture
def size(onnx_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    shutil.copy(onnx_files[1], tmp_path / "net.onnx")
    shutil.copy(onnx_files[1], tmp_path / "other.onnx")
    monkeypatch.chdir(tmp_path)
    return (tmp_path / "net.onnx").stat().st_size


def limits(size: int, up_to: int, of: str = "", figure: str = "max_size") -> str:
    Path("budget.toml").write_text(LIMITS.format(size=size, up_to=up_to, of=of, figure=figure))
    return "budget.toml"


def test_up_to_its_value(size: int, tmp_path: Path) -> None:
    verdict = gate("net.onnx", limits=limits(size - 1, size))
    assert (verdict.exit_code, verdict.rows[0].allowed, verdict.notes) == (0, "two | classes", ())
    assert "two \\| classes" in markdown(verdict, "net.onnx")
    write_junit(verdict, "net.onnx", tmp_path / "gate.xml")
    assert "<failure" not in (tmp_path / "gate.xml").read_text()
    beyond = gate("net.onnx", limits=limits(size - 2, size - 1))
    assert (beyond.exit_code, beyond.rows[0].allowed, beyond.notes) == (3, None, ())


def test_of_one_file(size: int) -> None:
    verdict = gate(["net.onnx", "other.onnx"], limits=limits(size - 1, size, 'of = "net.onnx"\n'))
    assert [(row.target, row.passed) for row in verdict.rows] == [("net.onnx", True), ("other.onnx", False)]


def test_it_expires(size: int) -> None:
    verdict = gate("net.onnx", limits=limits(size, 2 * size))
    assert (verdict.exit_code, verdict.rows[0].allowed, len(verdict.notes)) == (0, None, 1)
    assert not gate("net.onnx", limits=limits(size, 2 * size, 'of = "another.onnx"\n')).notes


def test_no_figure_is_no_pass(size: int) -> None:
    verdict = gate("net.onnx", min_accuracy=90, limits=limits(size, 1, figure="min_accuracy"))
    assert verdict.exit_code == 5


def test_growth_by_either_name(size: int) -> None:
    shutil.copy("net.onnx", "before.onnx")
    with Path("net.onnx").open("ab") as file:
        file.write(b"\x32\x40" + b"x" * 64)  # a longer doc_string
    for figure in ("max_growth", "max_growth.size"):
        Path("budget.toml").write_text(
            f'[gate]\nmax_growth = "0%"\n[[gate.allow]]\nfigure = "{figure}"\nup_to = "1%"\nreason = "text"\n'
        )
        verdict = gate("net.onnx", limits="budget.toml", baseline="before.onnx")
        assert verdict.passed
        assert [row.allowed for row in verdict.rows if row.name == "max_growth.size"] == ["text"]


@pytest.mark.parametrize(
    "text",
    [
        'allow = 1',
        'allow = ["max_size"]',
        '[[gate.allow]]\nfigure = "max_size"\nup_to = 1',
        '[[gate.allow]]\nfigure = "max_size"\nup_to = 1\nreason = " "',
        '[[gate.allow]]\nfigure = "max_sise"\nup_to = 1\nreason = "x"',
        '[[gate.allow]]\nfigure = "max_size"\nup_to = "much"\nreason = "x"',
        '[[gate.allow]]\nfigure = "max_size"\nup_to = 1\nreason = "x"\nuntil = "May"',
    ],
)  # fmt: skip
def test_what_is_no_approval(size: int, text: str) -> None:
    Path("budget.toml").write_text(f"[gate]\nmax_size = 1\n{text}\n")
    with pytest.raises(UsageError) as refused:
        gate("net.onnx", limits="budget.toml")
    assert refused.value.code == "approval"
