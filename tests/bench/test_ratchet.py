"""`dwindle gate --update`: limits go down to what is measured, and all else in the file stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dwindle.bench import gate
from dwindle.bench.ratchet import Lowered, lower_limits
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import UsageError
from dwindle.manifest import Manifest

BUDGET = Path("budget.toml")


@pytest.fixture
def models(onnx_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with dense.onnx and net.onnx, which is where the process is."""
    for path in onnx_files:
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lower(text: str, *files: str, **flags: str) -> list[Lowered]:
    BUDGET.write_text(text)
    return lower_limits(BUDGET, gate(list(files), limits=BUDGET, **flags), but=flags)  # type: ignore[arg-type]


def test_a_limit_goes_down_and_the_rest_stays(models: Path) -> None:
    size = Path("net.onnx").stat().st_size
    text = '# ours\n[gate.file."net.onnx"]  # the app\'s\nmax_zeros = "99%"\nmax_size = "1MB"  # agreed\n'
    (found,) = lower(text, "net.onnx")
    assert (found.table, found.name, found.before) == ("gate.file.net.onnx", "max_size", 1_000_000)
    assert size <= found.now <= 1.03 * size
    assert BUDGET.read_text() == text.replace('"1MB"', str(found.now))
    assert gate([], limits=BUDGET).rows[1].limit == found.now
    before = BUDGET.read_bytes()
    assert lower(before.decode(), "net.onnx") == []
    assert BUDGET.read_bytes() == before


def test_a_shared_limit_fits_the_largest_file(models: Path) -> None:
    (found,) = lower('[gate]\nmax_size = "1MB"\n', "*.onnx")
    assert found.now >= max(path.stat().st_size for path in Path().glob("*.onnx"))
    assert gate("*.onnx", limits=BUDGET).passed


def test_no_limit_is_raised(models: Path) -> None:
    assert lower('[gate]\nmax_size = "1KB"\n', "net.onnx") == []


@pytest.mark.parametrize("limit", ["max_cost", "max_drop"])
def test_what_was_not_measured_or_varies_is_left(models: Path, limit: str) -> None:
    assert lower(f"[gate]\n{limit} = 1000000\n", "net.onnx") == []


def test_a_table_whose_files_were_not_all_checked_is_left(models: Path) -> None:
    text = '[gate.file."*.onnx"]\nmax_size = "1MB"\n'
    assert lower(text, "net.onnx") == []
    assert len(lower(text)) == 1


def test_a_limit_that_an_option_replaced_is_left(models: Path) -> None:
    assert lower('[gate]\nmax_size = "1MB"\n', "net.onnx", max_size="2MB") == []


def test_the_last_table_that_names_a_file_counts(models: Path) -> None:
    text = '[gate.file."net.*"]\nmax_size = "1MB"\n[gate.file."net.onnx"]\nmax_size = "900KB"\n'
    assert [found.table for found in lower(text, "net.onnx")] == ["gate.file.net.onnx"]


def test_the_limits_of_a_checkpoint_s_target(
    checkpoint: Checkpoint, export: Callable[..., Manifest], onnx_files: tuple[Path, Path], tmp_path: Path
) -> None:
    export("onnx", *onnx_files)
    budget = tmp_path / "budget.toml"
    budget.write_text('[gate]\nmax_size = "2MB"\n[gate.onnx]\nmax_size = "1MB"\n')
    assert [found.table for found in lower_limits(budget, gate(checkpoint, limits=budget))] == ["gate.onnx"]
    assert "2MB" in budget.read_text()


def test_a_first_file_of_limits_is_kept_up_to_date(models: Path) -> None:
    small, large = sorted(Path().glob("*.onnx"), key=lambda path: path.stat().st_size)
    assert main(["gate", str(large), "--init", "budget.toml"]) == 0
    size = small.stat().st_size
    shutil.copy(small, large)
    assert main(["gate", "--limits", "budget.toml", "--update"]) == 0
    assert f"# {size:,} today" in BUDGET.read_text()
    assert gate([], limits=BUDGET).rows[0].limit <= 1.03 * size
    assert main(["gate", "net.onnx", "--max-size", "1MB", "--update"]) == UsageError.exit_code
