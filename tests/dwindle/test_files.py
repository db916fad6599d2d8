"""Writes happen whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dwindle.errors import DwindleError, UsageError
from dwindle.files import (
    deflated_bytes,
    raw_bytes,
    read_toml,
    require_writable,
    sha256,
    staged,
    sweep,
    user_cache,
    walk,
)
from tests.fuzz.interruptions import interrupted_replacements


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
    before = [(place.stat().st_ino, False) for place in (path / "b", path / "c", path)]
    assert synced == [*before, (tmp_path.stat().st_ino, True)]


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


def test_a_link_is_refused_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    kept, link = tmp_path / "kept", tmp_path / "link"
    kept.write_text("old")
    link.symlink_to(kept)
    with pytest.raises(UsageError) as refused, staged(link) as scratch:
        scratch.write_text("new")
    assert (refused.value.code, refused.value.path) == ("link", link)
    assert link.is_symlink()
    assert kept.read_text() == "old"


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


def scratch_for(path: Path, random: str = "0123456z") -> Path:
    """A scratch folder as a killed write of `path` leaves it."""
    scratch = path.parent / f".dwindle-{random}"
    scratch.mkdir()
    (scratch / "for").write_text(path.name)
    return scratch


def test_a_write_killed_between_two_renames_is_ended(tmp_path: Path) -> None:
    """The folder before is out of the way, the new one, whole by then, not yet in place."""
    scratch = scratch_for(tmp_path / "a")
    for place, text in (("new/a", "new"), ("old", "old")):
        (scratch / place).mkdir(parents=True)
        (scratch / place / text).write_text("")
    sweep(tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in walk(tmp_path)] == ["a/new"]


def test_what_only_looks_like_scratch_stays(tmp_path: Path) -> None:
    for name in (".notes.abcd1234", ".dwindle-settings", ".dwindle-mynotes1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes").write_text("mine")
    (tmp_path / ".dwindle-mylinked").symlink_to(tmp_path / ".notes.abcd1234")
    (tmp_path / ".dwindle-somefile").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    sweep(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def replace_folder(path: Path, ours: Callable[[str], bool] = {"made"}.__contains__) -> None:
    with staged(path, ours) as scratch:
        scratch.mkdir()
        (scratch / "made").write_text("new")


def made_with_own_files(path: Path) -> dict[str, str]:
    """A folder with one file of dwindle's, `made`, and files of the user's, which are returned."""
    (path / "folder/inner").mkdir(parents=True)
    (path / "made").write_text("old")
    (path / "notes.txt").write_text("mine")
    (path / "folder/inner/deep.txt").write_text("mine too")
    (path / "link").symlink_to("notes.txt")
    return own_files(path)


def own_files(path: Path) -> dict[str, str]:
    return {file.relative_to(path).as_posix(): file.read_text() for file in walk(path) if file.name != "made"}


@pytest.mark.parametrize("exchange", [True, False])
def test_what_is_the_users_own_stays_in_a_folder_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr("dwindle.files._system_exchange", lambda: None)
    path = tmp_path / "a"
    own = made_with_own_files(path)
    replace_folder(path)
    assert (path / "made").read_text() == "new"
    assert own_files(path) == own
    assert (path / "link").is_symlink()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_the_users_is_never_replaced_by_one_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    made_with_own_files(path)
    with pytest.raises(DwindleError) as refused:
        replace_folder(path, lambda name: False)
    assert refused.value.code == "unwritable"
    assert (path / "made").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("exchange", [True, False])
def test_an_interrupted_replacement_loses_neither_the_old_nor_the_users_own(tmp_path: Path, exchange: bool) -> None:
    counted = interrupted_replacements(tmp_path, 50, exchange)
    assert counted.lost == 0
    assert counted.interrupted > 25


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)
    with staged(path) as scratch:
        scratch.write_text("new")
    assert path.read_text() == "new"
    with pytest.raises(DwindleError) as refused, staged(tmp_path / ("a" * 256)):
        pass
    assert refused.value.code == "unwritable"


def test_a_name_that_is_not_utf_8_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DwindleError, match="not UTF-8"), staged(tmp_path / "a\udc80"):
        pass


def test_without_a_home_folder_the_cache_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(DwindleError) as refused:
        user_cache()
    assert refused.value.code == "no-home"


@pytest.mark.parametrize("content", [b"\xff", b"a = " + b"[" * 100_000, b"a ="])
def test_what_is_no_toml_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(UsageError) as refused:
        read_toml(tmp_path / "a.toml")
    assert refused.value.code == "not-toml"
