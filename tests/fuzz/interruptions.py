"""Ctrl-C at any line of a folder's replacement, and what is left by then."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import dwindle.files
from dwindle.files import staged, sweep


@dataclass
class Counted:
    """What came of the trials."""

    interrupted: int = 0
    """In how many the interruption came before the replacement had ended by itself."""
    lost: int = 0
    """In how many the folder was neither the old nor the new one, or lacked a file of the user's."""
    left_behind: int = 0
    """In how many a scratch folder was there after the next write."""


class _Interrupter:
    """Raises KeyboardInterrupt at the given lines, counted as they are run, of all Python code."""

    def __init__(self, at: set[int]) -> None:
        self.at, self.lines = at, 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> _Interrupter:
        if event == "line":
            self.lines += 1
            if self.lines in self.at:
                raise KeyboardInterrupt
        return self


def lines_of(action: Callable[[], None], at: set[int]) -> int:
    """How many lines `action` ran, interrupted at those in `at`; raises KeyboardInterrupt as it does."""
    interrupter, before = _Interrupter(at), sys.gettrace()
    sys.settrace(interrupter)
    try:
        action()
    finally:
        sys.settrace(before)
    return interrupter.lines


def interrupted_replacements(folder: Path, count: int, exchange: bool = True, seed: int = 0) -> Counted:
    """Replaces a folder `count` times in `folder`, each time interrupted at a random line, every other time twice.

    Without `exchange` the two steps are taken that a file system without an atomic exchange needs.
    """
    path, counted, generator = folder / "net", Counted(), random.Random(seed)
    possible = dwindle.files._system_exchange
    if not exchange:
        dwindle.files._system_exchange = lambda: None  # type: ignore[assignment]
    try:
        _arrange(path)
        whole = lines_of(lambda: _replace(path), set())
        for trial in range(count):
            _arrange(path)
            first = generator.randint(1, whole)
            at = {first, first + generator.randint(1, 12)} if trial % 2 else {first}
            try:
                lines_of(lambda: _replace(path), at)
            except KeyboardInterrupt:
                counted.interrupted += 1
            if len(at) == 1 and not _is_whole(path):  # after a second one, the next write makes it good
                counted.lost += 1
                continue
            sweep(folder)
            counted.lost += not _is_whole(path)
            counted.left_behind += any(entry != path for entry in folder.iterdir())
    finally:
        dwindle.files._system_exchange = possible
        shutil.rmtree(path, ignore_errors=True)
    return counted


def _arrange(path: Path) -> None:
    for entry in path.parent.iterdir():
        shutil.rmtree(entry)
    (path / "notes").mkdir(parents=True)
    for name in ("made", "made too"):
        (path / name).write_text("old")
    (path / "notes/mine.txt").write_text("mine")
    (path / "mine.txt").write_text("mine")


def _replace(path: Path) -> None:
    with staged(path, {"made", "made too"}.__contains__) as scratch:
        scratch.mkdir()
        for name in ("made", "made too"):
            (scratch / name).write_text("new")


def _is_whole(path: Path) -> bool:
    try:
        made = {(path / name).read_text() for name in ("made", "made too")}
        mine = [(path / name).read_text() for name in ("notes/mine.txt", "mine.txt")]
    except OSError:
        return False
    return made in ({"old"}, {"new"}) and mine == ["mine", "mine"]
