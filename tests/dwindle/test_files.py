"""Writes happen whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwindle.errors import DwindleError
from dwindle.files import deflated_bytes, raw_bytes, require_writable, sha256, staged, sweep, walk


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail_midway() -> None:
        with staged(path) as scratch:
            scratch.write_text("half of the n")
            raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"):
        fail_midway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_a_folder_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for text in ("old", "new"):
        with staged(path) as scratch:
            scratch.mkdir()
            (scratch / text).write_text(text)
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_takes_the_place_is_on_the_disk_by_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "a", []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append((os.fstat(handle).st_ino, path.exists())))
    with staged(path) as scratch:
        scratch.mkdir()
        for name in "bc":
            (scratch / name).write_text(name)
    assert synced == [((path / name).stat().st_ino, False) for name in "bc"]


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(DwindleError, match="No space left"), staged(path):
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"


def test_what_could_not_be_written_has_the_name_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "folder"

    def fill(inner: Path) -> None:
        with staged(path) as scratch:
            scratch.mkdir()
            with staged(inner if inner.is_absolute() else scratch / inner):
                raise OSError(28, "No space left on device")

    with pytest.raises(DwindleError, match=f"^cannot write {path}: No space left on device$"):
        fill(Path("manifest.json"))
    with pytest.raises(DwindleError, match=f"^cannot write {tmp_path / 'else'}: No space"):
        fill(tmp_path / "else")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DwindleError, match="choose another place"), staged(tmp_path / "file" / "net"):
        pass


def test_a_folder_is_hashed_by_names_and_bytes(tmp_path: Path) -> None:
    for name, text in (("a", "xy"), ("b", "z")):
        (tmp_path / name).write_text(text)
    before = sha256(tmp_path)
    assert raw_bytes(tmp_path) == 3
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("yz")
    assert sha256(tmp_path) != before


def test_download_size_is_what_a_zip_makes_of_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10_000))
    assert deflated_bytes(tmp_path) < 100 < raw_bytes(tmp_path)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    kept, link = tmp_path / "kept", tmp_path / "link"
    kept.write_text("old")
    link.symlink_to(kept)
    with staged(link) as scratch:
        scratch.write_text("new")
    assert link.is_symlink()
    assert kept.read_text() == "new"


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DwindleError, match="neither a file nor a folder"), staged(pipe) as scratch:
        scratch.write_text("new")
    assert pipe.is_fifo()


def test_whether_a_place_can_be_written_is_asked_without_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    require_writable(path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DwindleError, match="cannot write"):
        require_writable(path / "b")


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process midway through a write of `tmp_path`/a, that is killed in the end."""
    script = (
        "import pathlib, sys; from dwindle.files import staged\n"
        "with staged(pathlib.Path(sys.argv[1])) as scratch: scratch.mkdir(); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_what_a_killed_write_left_goes_with_the_next(tmp_path: Path, at_work: subprocess.Popen[str]) -> None:
    path = tmp_path / "a"
    (left,) = tmp_path.iterdir()
    path.write_text("other")
    require_writable(path)
    sweep(tmp_path)
    assert left.exists(), "somebody is at work there"
    at_work.kill()
    at_work.wait()
    with staged(path) as scratch:
        scratch.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_killed_in_its_last_step_is_ended(tmp_path: Path) -> None:
    """Between the two renames: the folder before is out of the way, the new one, whole by then, not yet in place."""
    scratch = tmp_path / ".a.0123456z"
    for name, text in (("a", "new"), ("replaced", "old")):
        (scratch / name).mkdir(parents=True)
        (scratch / name / text).write_text("")
    sweep(tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in walk(tmp_path)] == ["a/new"]


def test_what_only_looks_like_scratch_stays(tmp_path: Path) -> None:
    mine, link = tmp_path / ".a.settings", tmp_path / ".a.mylinked"
    mine.mkdir()
    (mine / "b").write_text("mine")
    link.symlink_to(tmp_path)
    (tmp_path / ".a.somefile").write_text("mine")
    before = sorted(tmp_path.iterdir())
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert (mine / "b").exists()
