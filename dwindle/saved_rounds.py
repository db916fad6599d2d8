"""The rounds of a run that is not finished, each with its whole state, from which a killed run resumes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.documents import Count, FileName, parse
from dwindle.files import remove, staged, sweep
from dwindle.record import UPGRADE, Cuts, Round, Uncut, read_structure
from dwindle.sealed import Tensors, members, seal, unseal

if TYPE_CHECKING:
    pass


ROUNDS = "rounds"
ROUND = "round.json"
PARTIAL = "partial"


@dataclass(frozen=True)
class _SavedRound:
    """round.json of a finished round, without its seal."""

    history: tuple[Round, ...]
    structure: dict[str, Any]
    files: dict[FileName, str]
    pinned: tuple[Uncut, ...] = ()


@dataclass(frozen=True)
class _PartialRound:
    """round.json of an unfinished round, without its seal."""

    index: Count
    files: dict[FileName, str]
    structure: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    pinned: tuple[Uncut, ...] = ()


def begun(path: Path) -> bool:
    """Whether a run has saved anything of its training there."""
    return any(path.glob("rounds/*/round.json"))


def save_round(
    path: Path,
    record: Round,
    before: tuple[Round, ...],
    cuts: Cuts,
    tensors: Mapping[str, Tensors],
    *,
    keep: int | None = None,
) -> None:
    """Saves the whole state of one round at once, then deletes the rounds that are no longer needed.

    before: the history up to this round, which is saved with it. keep: a round to keep beside round 0, which is the
    dense network, and the last two.
    """
    document = {"history": [asdict(entry) for entry in (*before, record)]}
    _seal_round(_round_folder(path, record.index), document, cuts, tensors)
    stay = {index for index in (0, record.index - 1, record.index, keep) if index is not None}
    for index, folder in _saved(path).items():
        if index not in stay:
            remove(folder, members(folder, ROUND))


def save_partial(path: Path, index: int, progress: dict[str, Any], cuts: Cuts, tensors: Mapping[str, Tensors]) -> None:
    """Saves the state of an unfinished round, in place of the one saved before it."""
    _seal_round(path / ROUNDS / PARTIAL, {"index": index, "progress": progress}, cuts, tensors)


def _seal_round(folder: Path, document: dict[str, Any], cuts: Cuts, tensors: Mapping[str, Tensors]) -> None:
    kept = {"structure": cuts.structure, "pinned": [asdict(entry) for entry in cuts.uncut]}
    with staged(folder, members(folder, ROUND).__contains__) as scratch:
        scratch.mkdir()
        seal(scratch, ROUND, {**document, **kept}, tensors)


def _cuts(document: _SavedRound | _PartialRound, file: Path) -> Cuts:
    return Cuts(read_structure(document.structure, file), document.pinned)


def partial_round(path: Path, index: int) -> tuple[dict[str, Any], Cuts, Path] | None:
    """The saved state of round `index` (its progress, its cuts, the folder of its tensors) if it was interrupted,
    else None."""
    folder = path / ROUNDS / PARTIAL
    if not (folder / ROUND).exists():
        return None
    found: _PartialRound = parse(_PartialRound, unseal(folder, ROUND), folder / ROUND, UPGRADE)
    return (found.progress, _cuts(found, folder / ROUND), folder) if found.index == index else None


def _saved(path: Path) -> dict[int, Path]:
    """The folders of the finished rounds that are there, by their index."""
    found = (path / ROUNDS).glob(f"*/{ROUND}")
    return {int(file.parent.name): file.parent for file in found if re.fullmatch(r"[0-9]{3,9}", file.parent.name)}


def last_round(path: Path) -> tuple[tuple[Round, ...], Cuts, Path] | None:
    """The newest saved round: the history up to it, its cuts, the folder of its tensors. None before the first."""
    saved = _saved(path)
    return read_round(path, max(saved)) if saved else None


def read_round(path: Path, index: int) -> tuple[tuple[Round, ...], Cuts, Path]:
    """A saved round, as `last_round` gives the newest. Raises CheckpointError where it is missing or damaged."""
    folder = _round_folder(path, index)
    document: _SavedRound = parse(_SavedRound, unseal(folder, ROUND), folder / ROUND, UPGRADE)
    return document.history, _cuts(document, folder / ROUND), folder


def dense_round(path: Path) -> Path:
    """The folder that holds round 0 of a running checkpoint."""
    return _round_folder(path, 0)


def clear(path: Path) -> None:
    """Removes what a finished run no longer needs, and what killed writes left behind; nothing else."""
    rounds = path / ROUNDS
    for folder in (*_saved(path).values(), rounds / PARTIAL):
        sweep(rounds)
        remove(folder, members(folder, ROUND))
    remove(rounds, ())
    sweep(path)


def _round_folder(path: Path, index: int) -> Path:
    return path / ROUNDS / f"{index:03d}"
