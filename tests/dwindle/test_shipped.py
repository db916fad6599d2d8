from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from dwindle.errors import CheckpointError
from dwindle.manifest import NAME, File, Manifest, Parity
from dwindle.shipped import shipped, shipped_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export whose files are 1,000 and 5,000 bytes."""
    folder = tmp_path / "exports" / "onnx"
    folder.mkdir(parents=True)
    (folder / "net.onnx").write_bytes(bytes(1000))
    (folder / "dense.onnx").write_bytes(bytes(5000))
    parity = Parity(0.0, 0.0, 1e-4, 1.0, 1, 1)
    file, reference = (File.of(folder / name) for name in ("net.onnx", "dense.onnx"))
    Manifest("onnx", "int8", "Golomb-Rice + int8 survivors", file, reference, parity, {}).write(folder)
    return folder


def test_files_and_their_sizes(folder: Path) -> None:
    (found,), damaged = shipped(folder.parent)
    assert (found.path, found.bytes, found.dense_bytes) == (folder / "net.onnx", 1000, 5000)
    assert found.download < 50
    assert (found.altered, damaged) == ((), [])
    console = Console(file=io.StringIO(), width=120)
    console.print(shipped_table([found]))
    row = console.file.getvalue().splitlines()[1].split()  # type: ignore[attr-defined]
    assert " ".join(row) == f"onnx/net.onnx Golomb-Rice + int8 survivors 1.00 KB {found.download} B 5.0×"


def test_a_tolerance_that_was_widened_is_said(folder: Path) -> None:
    assert shipped(folder.parent)[0][0].doubts == ()
    wide = Parity(0.0, 2e-3, 1e-2, 1.0, 1, 1, explained=1e-4)
    Manifest(**{**vars(Manifest.read(folder)), "parity": wide}).write(folder)
    (found,), _ = shipped(folder.parent)
    assert found.doubts == (wide.widened,)
    assert wide.widened is not None


def test_what_a_file_computes_in_is_said(folder: Path) -> None:
    assert shipped(folder.parent)[0][0].compute is None
    Manifest(**{**vars(Manifest.read(folder)), "compute": "fp16", "fp32": ("Pow _3",)}).write(folder)
    (found,), _ = shipped(folder.parent)
    assert (found.compute, found.fp32) == ("fp16", ("Pow _3",))


def test_a_compressed_file_is_what_is_downloaded(folder: Path) -> None:
    (folder / "net.onnx.zst").write_bytes(b"z")
    manifest = Manifest.read(folder)
    Manifest(**{**vars(manifest), "download": File.of(folder / "net.onnx.zst")}).write(folder)
    (found,), _ = shipped(folder.parent)
    assert (found.download, found.download_name) == (1, "net.onnx.zst")


def test_a_file_whose_weights_were_unpacked_is_told_from_one_that_was_altered(folder: Path) -> None:
    (folder / "net.onnx").write_bytes(bytes(4000))
    (folder / "dense.onnx").write_bytes(bytes(5001))
    ((found,), _) = shipped(folder.parent)
    inflated, other = found.altered
    assert inflated.startswith(
        f"{folder}/net.onnx is not the file its manifest describes: it was exported with 1.00 KB"
    )
    assert "has 4.00 KB now, as if a tool that folds constants had unpacked its weights" in inflated
    assert other == f"{folder}/dense.onnx is not the file its manifest describes: run `dwindle export` again"
    with pytest.raises(CheckpointError, match="as if a tool that folds constants"):
        Manifest.read(folder)


def test_what_is_missing_or_damaged_is_said(folder: Path) -> None:
    (folder / "net.onnx").unlink()
    ((found,), _) = shipped(folder.parent)
    assert found.altered == (f"{folder}/net.onnx is missing: run `dwindle export` again",)
    (folder / NAME).write_text("{")
    found_now, damaged = shipped(folder.parent)
    assert found_now == []
    (sentence,) = damaged
    assert sentence.startswith(f"{folder}/{NAME} is damaged")
    assert sentence.endswith("run `dwindle export` again")
    assert shipped(folder / "nowhere") == ([], [])
