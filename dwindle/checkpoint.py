"""The checkpoint: what compress makes, export reads and bench judges.

NET.dwindle/
  checkpoint.json       what made it, its history of rounds, its metrics, and the hash of each file
  structure.json        widths per layer that channel surgery left (absent where nothing was cut)
  weights.safetensors   the surviving weights, pruned ones zero
  masks.safetensors     a bit per prunable weight (absent where pruning removed whole channels only)
  dense.safetensors     the trained network before pruning: what every comparison is made with
  history.jsonl         figures as they came, a line each; nothing is read back from it
  rounds/…              while running: each round's state, from which a killed run resumes
  exports/TARGET/…      exported files beside their manifests
  bench.json            what was measured of those files
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import dwindle
from dwindle.errors import CheckpointError, UsageError
from dwindle.files import staged, sweep
from dwindle.sealed import Tensors, read_tensors, seal, unseal

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
DOCUMENT = "checkpoint.json"
STRUCTURE = "structure.json"
PARTIAL = "partial"
HISTORY = "history.jsonl"
SAVED = "rounds/[0-9]*"
_PINNED = ("layer", "channels", "of", "reason")


@dataclass(frozen=True)
class Round:
    """One prune-and-retrain; round 0 is the dense network, trained or as it came."""

    index: int
    density: float
    """Surviving share of the prunable weights, in (0, 1]."""
    bytes: int | None
    """Size of the file the budget's target would ship; None without a byte budget."""
    validation: float
    """The task's metric on the validation split, in points: of the dense network as it is, and then of what will ship,
    its weights rounded to the precision asked for."""
    loss: float | None
    """Mean training loss over the round's last 50 steps; None where it took none, the network having come trained."""
    seconds: float
    macs: int | None = None
    """Multiply-accumulates of one inference, masked weights included."""


@dataclass(frozen=True)
class Checkpoint:
    """A compressed network, or one on its way. Open one with `Checkpoint.load`."""

    path: Path
    origin: dict[str, Any]
    """What made it: model, task and every option. A resumed run must have the same."""
    done: bool
    history: tuple[Round, ...]
    metrics: dict[str, float]
    """`dense_test`, `test`: the metric before and after, on the split that nothing was tuned on."""
    versions: dict[str, str]
    """Of the packages, and the state of the user's own code (`code PACKAGE.MODULE:FACTORY`), when the run began."""
    pinned: tuple[dict[str, str], ...] = ()
    """What channel pruning had to leave whole, and why."""

    @classmethod
    def load(cls, path: Path | str) -> Checkpoint:
        """Opens and verifies a checkpoint.

        Raises CheckpointError if it is missing, corrupt (the file whose hash differs is named) or of a
        newer schema.
        """
        path = Path(path)
        if not (path / DOCUMENT).is_file():
            raise CheckpointError(f"{path} is not a checkpoint: it has no {DOCUMENT}")
        document = unseal(path, DOCUMENT)
        if document.get("schema") != SCHEMA:
            raise CheckpointError(
                f"{path} has schema {document.get('schema')}, this dwindle {dwindle.__version__} reads "
                f"schema {SCHEMA}: use the dwindle that wrote it, or upgrade"
            )
        with _known(path / DOCUMENT):
            metrics = _field(document, "metrics", dict)
            return cls(
                path=path,
                origin=_field(document, "origin", dict),
                done=_field(document, "done", bool),
                history=tuple(map(_round, _field(document, "history", list))),
                metrics={name: _field(metrics, name, float | int) for name in metrics},
                versions=_field(document, "versions", dict),
                pinned=tuple({name: entry[name] for name in _PINNED} for entry in _field(document, "pinned", list)),
            )

    def require_done(self) -> Checkpoint:
        """Itself; raises UsageError while its compression is unfinished."""
        if not self.done:
            raise UsageError(f"{self.path} is unfinished: run the same `dwindle compress` again to resume it")
        return self

    def require_figures(self) -> Checkpoint:
        """Itself; raises CheckpointError naming what it lacks of the figures that every compression leaves."""
        there: dict[str, Any] = {"origin.target": self.origin.get("target")}
        if self.done:
            ends = self.history[:1] + self.history[-1:]
            there["history.bytes"] = ends and all(record.bytes for record in ends)
            there |= {f"metrics.{name}": name in self.metrics for name in ("test", "dense_test")}
        if missing := [name for name, found in there.items() if not found]:
            raise CheckpointError(
                f"{self.path / DOCUMENT} lacks {', '.join(missing)}: restore it from a copy or make it anew"
            )
        return self

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """State dict of the compressed network, pruned weights zero."""
        return read_tensors(self.path, "weights")

    @cached_property
    def dense_weights(self) -> dict[str, Tensor]:
        """State dict of the trained network before pruning."""
        return read_tensors(self.path, "dense")

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """Boolean mask per prunable parameter, True where the weight survives."""
        return unpack_masks(read_tensors(self.path, "masks"), self.weights)

    @cached_property
    def structure(self) -> dict[str, Any]:
        """What surgery left of the architecture (`dwindle.models.structure`); empty where nothing was cut."""
        file = self.path / STRUCTURE
        return json.loads(file.read_text()) if self.done and file.exists() else {}

    @property
    def bench_path(self) -> Path:
        return self.path / "bench.json"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    def _document(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "origin": self.origin,
            "done": self.done,
            "history": [asdict(entry) for entry in self.history],
            "metrics": self.metrics,
            "versions": self.versions,
            "pinned": list(self.pinned),
        }


@contextmanager
def _known(file: Path) -> Iterator[None]:
    """A file's fields are looked up within; raises CheckpointError where one is missing, of another type or new."""
    try:
        yield
    except (KeyError, TypeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{file} has not the fields that this dwindle {dwindle.__version__} knows ({missing}): use "
            "the dwindle that wrote it, or upgrade"
        ) from error


def _field(document: Mapping[str, Any], name: str, kind: Any) -> Any:
    """A field of that type; raises KeyError or TypeError."""
    if not isinstance(value := document[name], kind):
        raise TypeError(f"{name} is {value!r:.40}")
    return value


def _round(entry: Any) -> Round:
    for name, kind in get_type_hints(Round).items():
        if name in entry:
            _field(entry, name, kind | int)  # a float may be written as one
    return Round(**entry)


def start(path: Path, origin: dict[str, Any], code: Mapping[str, str] | None = None) -> Checkpoint:
    """Begins a checkpoint at `path`, or opens the one there to resume it. `code` goes into its versions.

    Raises UsageError if `path` exists and is something else, or was made with other options (which are
    named), and DwindleError if it cannot be written. Of a run that ended before anything was saved nothing is lost,
    and other options take its place.
    """
    fresh = Checkpoint(path, origin, False, (), {}, {**_versions(), **(code or {})})
    if (path / DOCUMENT).exists():
        found = Checkpoint.load(path)
        was, now = flattened(found.origin), flattened(origin)
        if differences := [
            f"{key} was {was.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(was.keys() | now.keys())
            if was.get(key) != now.get(key)
        ]:
            if not (found.done or begun(path)):
                with locked(path):
                    seal(path, DOCUMENT, fresh._document(), {})
                return fresh
            raise UsageError(
                f"{path} was made with other options ({'; '.join(differences)}): repeat those to resume it, "
                "or choose another -o"
            )
        if found.done:
            _clear(path)
        return found
    if path.exists():
        raise UsageError(f"{path} exists and is not a checkpoint: choose another -o")
    with staged(path) as scratch:
        scratch.mkdir()
        seal(scratch, DOCUMENT, fresh._document(), {})
    return fresh


def flattened(origin: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """An origin's options by dotted names: `{"task": {"epochs": 3}}` as `{"task.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for key, value in origin.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def begun(path: Path) -> bool:
    """Whether a run has saved anything of its training there."""
    return any(path.glob("rounds/*/round.json"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps every other run out of a checkpoint; the system lets go of it when this process ends, however it does.

    Raises UsageError where another run holds it.
    """
    import fcntl

    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every network's file system has locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"another run is at work in {path}: wait for its end, or choose another -o") from error
        yield
    finally:
        os.close(handle)


def save_round(
    path: Path,
    record: Round,
    before: tuple[Round, ...],
    structure: dict[str, Any],
    tensors: Mapping[str, Tensors],
    *,
    keep: int | None = None,
) -> None:
    """Saves one round's whole state at once, then drops those that nothing needs now.

    `before` is the history up to this round; it is saved with it. What stays are round 0, which is the dense network,
    the last two, and `keep`, if that is still to be gone back to.
    """
    document = {"history": [asdict(entry) for entry in (*before, record)], "structure": structure}
    with staged(_round_folder(path, record.index)) as scratch:
        scratch.mkdir()
        seal(scratch, "round.json", document, tensors)
    stay = {_round_folder(path, index) for index in (0, record.index - 1, record.index, keep) if index is not None}
    for folder in set(path.glob(SAVED)) - stay:
        shutil.rmtree(folder, ignore_errors=True)


def save_partial(path: Path, index: int, document: dict[str, Any], tensors: Mapping[str, Tensors]) -> None:
    """Saves the state of a round under way, in place of the one saved before it."""
    with staged(path / "rounds" / PARTIAL) as scratch:
        scratch.mkdir(parents=True)
        seal(scratch, "round.json", {**document, "index": index}, tensors)


def partial_round(path: Path, index: int) -> tuple[dict[str, Any], Path] | None:
    """The saved state of round `index` (its document, the folder of its tensors), if it was cut off midway."""
    folder = path / "rounds" / PARTIAL
    if not (folder / "round.json").exists():
        return None
    document = unseal(folder, "round.json")
    return (document, folder) if document["index"] == index else None


def last_round(path: Path) -> tuple[tuple[Round, ...], dict[str, Any], Path] | None:
    """The newest saved round: the history up to it, its structure, the folder of its tensors. None before the first."""
    indices = [int(folder.name) for folder in path.glob(SAVED)]
    return read_round(path, max(indices)) if indices else None


def read_round(path: Path, index: int) -> tuple[tuple[Round, ...], dict[str, Any], Path]:
    """A saved round, as `last_round` gives the newest. Raises CheckpointError where it is missing or damaged."""
    folder = _round_folder(path, index)
    document = unseal(folder, "round.json")
    with _known(folder / "round.json"):
        history = tuple(map(_round, _field(document, "history", list)))
        return history, _field(document, "structure", dict), folder


def dense_round(path: Path) -> Path:
    """The folder that holds round 0 of a running checkpoint."""
    return _round_folder(path, 0)


def finish(checkpoint: Checkpoint, tensors: Mapping[str, Tensors], structure: dict[str, Any]) -> Checkpoint:
    """Seals the finished network and removes the rounds' states."""
    documents = {STRUCTURE: structure} if structure else {}
    seal(checkpoint.path, DOCUMENT, checkpoint._document(), tensors, documents)
    _clear(checkpoint.path)
    return Checkpoint.load(checkpoint.path)


def _clear(path: Path) -> None:
    """Removes what a finished run needs no more, and the scratch of writes that were killed."""
    shutil.rmtree(path / "rounds", ignore_errors=True)
    sweep(path)


def pack_masks(masks: Tensors) -> dict[str, Tensor]:
    """A bit per weight, first weight in the lowest bit; the shape is that of the weight of the same name."""
    import numpy as np
    import torch

    return {
        name: torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little"))
        for name, mask in masks.items()
    }


def unpack_masks(packed: Tensors, weights: Tensors) -> dict[str, Tensor]:
    """Inverse of `pack_masks`, given tensors that have the masks' names and shapes."""
    import numpy as np
    import torch

    return {
        name: torch.from_numpy(np.unpackbits(bits.numpy(), bitorder="little", count=weights[name].numel()))
        .bool()
        .reshape(weights[name].shape)
        for name, bits in packed.items()
    }


def _round_folder(path: Path, index: int) -> Path:
    return path / "rounds" / f"{index:03d}"


def _versions() -> dict[str, str]:
    return {
        "dwindle": dwindle.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision")},
    }
