"""The checkpoint: what compress makes, export reads and bench judges.

NET.dwindle/
  checkpoint.json       what made it, its history of rounds, its metrics, and the hash of each file
  structure.json        widths per layer that channel surgery left (absent where nothing was cut)
  weights.safetensors   the surviving weights, pruned ones zero
  masks.safetensors     a bit per prunable weight (absent where pruning removed whole channels only)
  dense.safetensors     the trained network before pruning: what every comparison is made with
  samples.safetensors   samples of the data, where it was asked to keep some, so that exporting needs no data
  history.jsonl         figures as they came, a line each; nothing is read back from it
  rounds/…              while running: each round's state, from which a killed run resumes
  exports/TARGET/…      exported files beside their manifests
  bench.json            what was measured of those files
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import dwindle
from dwindle.documents import REMEDY, Count, FileName, Range, Size, parse, read
from dwindle.errors import CheckpointError, DwindleError, UsageError
from dwindle.files import refuse_link, remove, staged, sweep
from dwindle.metrics import ACCURACY, named
from dwindle.notebook import table
from dwindle.preprocessing import Preprocessing
from dwindle.sealed import Tensors, check_file, members, read_sealed_json, read_tensors, seal, unseal
from dwindle.signature import Signature

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.task import Task

SCHEMA = 1
DOCUMENT = "checkpoint.json"
STRUCTURE = "structure.json"
ROUNDS = "rounds"
ROUND = "round.json"
PARTIAL = "partial"
HISTORY = "history.jsonl"
STEMS = ("weights", "masks", "dense", "samples")
_OWN = (DOCUMENT, STRUCTURE, *(f"{stem}.safetensors" for stem in STEMS), HISTORY, "bench.json")
"""The names at the top of a checkpoint that nothing but dwindle writes."""
_OWN_FOLDERS = (ROUNDS, "exports", "amc")
_UPGRADE = "use the dwindle that wrote it, or upgrade"


@dataclass(frozen=True)
class Round:
    """One prune-and-retrain; round 0 is the dense network, trained or as it came."""

    index: Count
    density: Annotated[float, Range(0, 1)]
    """Surviving share of the prunable weights, in (0, 1]."""
    bytes: Size | None
    """Size of the file the budget's target would ship; None without a byte budget."""
    validation: float
    """The task's metric on the validation split, in points. The dense network is judged as it is, later rounds as they
    will ship, with weights rounded to the requested precision."""
    loss: float | None
    """Mean training loss over the round's last 50 steps; None where the network came trained and none were taken."""
    seconds: Annotated[float, Range(0)]
    macs: Count | None = None
    """Multiply-accumulates of one inference, masked weights included."""


@dataclass(frozen=True)
class Uncut:
    """Output channels that channel pruning could not remove: `channels` of the `of` that `layer` has, and why."""

    layer: str
    channels: Count
    of: Count
    reason: str


@dataclass(frozen=True)
class Cuts:
    """What channel pruning made of the architecture. Empty where nothing was cut."""

    structure: dict[str, Any] = field(default_factory=dict)
    """How the network differs from one built afresh: see `dwindle.models.structure.describe`."""
    uncut: tuple[Uncut, ...] = ()
    """What the last cut could not remove."""


@dataclass(frozen=True)
class Numerics:
    """What the last bits of a result depend on, beside its options and the versions of the packages."""

    threads: Annotated[int, Range(1)]
    """How many threads PyTorch shares an operation between."""
    bf16: bool
    """Whether training in bfloat16 is faster here, and so is used (`dwindle.models.precision`)."""
    device: str
    """What networks are trained on: `cpu` or `cuda`."""
    processor: str
    """The name of the CPU, or of the GPU that is trained on."""
    kernels: str
    """The instruction set that PyTorch's CPU kernels use here, such as `AVX512`."""
    ranks: Annotated[int, Range(1)] = 1
    """How many processes train together."""


@dataclass(frozen=True)
class _Document:
    """checkpoint.json without its seal."""

    schema: int
    origin: dict[str, Any]
    done: bool
    history: tuple[Round, ...]
    metrics: dict[str, float]
    versions: dict[str, str]
    pinned: tuple[Uncut, ...]
    files: dict[FileName, str]
    numerics: Numerics | None = None
    preprocessing: Preprocessing | None = None
    data_folder: str | None = None
    metric: str = ACCURACY
    signature: Signature | None = None


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


_Sizes = Count | tuple[Count, ...]


@dataclass(frozen=True)
class _Structure:
    """structure.json: see `dwindle.models.structure.describe`."""

    attributes: dict[str, dict[str, _Sizes]] = field(default_factory=dict)
    shapes: dict[str, tuple[Count, ...]] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A network on disk, compressed or still being compressed. Tensors are read when they are first used.

    >>> net = Checkpoint.load("net.dwindle")
    >>> format_share(round(net.history[-1].density, 3)), round(net.metrics["test"], 2)
    ('5.6%', 98.89)
    >>> net.masks["conv.weight"].shape
    torch.Size([16, 1, 3, 3])
    """

    path: Path
    origin: dict[str, Any]
    """The model, the task and every option that made it. A resumed run must have the same."""
    done: bool
    history: tuple[Round, ...]
    metrics: dict[str, float]
    """The task's metric in points on the test split, which nothing was tuned on: `dense_test` before, `test` after."""
    versions: dict[str, str]
    """The versions of packages, and the state of the user's own code (`code PACKAGE.MODULE:FACTORY`), when the run
    began."""
    uncut: tuple[Uncut, ...] = ()
    """The channels that pruning could not remove, and why: `pinned` in checkpoint.json."""
    numerics: Numerics | None = None
    """What the run computed with when it began, and goes on with when it resumes; None where an older version of
    dwindle began it."""
    preprocessing: Preprocessing | None = None
    """How an image becomes an input of the network; None while unfinished, and where its task doesn't say."""
    data_folder: str | None = None
    """The path from this folder to that of the images which it was trained on; None while unfinished, and where they
    are in no folder."""
    metric: str = ACCURACY
    """The name of the task's metric, once finished."""
    signature: Signature | None = None
    """What the network takes and gives; None while unfinished, and where an older version of dwindle made it."""
    model: nn.Module | None = field(default=None, repr=False, compare=False)
    """A network of the same architecture that the caller gave as an object, and that the saved weights are loaded into
    a copy of; None where the network is built by its name. It is in no file."""
    task: Task | None = field(default=None, repr=False, compare=False)
    """The task that the caller gave as an object; None where it is made by its name. It is in no file."""

    @classmethod
    def load(cls, path: Path | str, *, model: nn.Module | None = None, task: Task | None = None) -> Checkpoint:
        """Opens the checkpoint in the folder `path`, and checks the hash of every file that it vouches for.

        model, task: those of a checkpoint that was made of objects, which no name leads to. `export` and `bench` need
        them; what `compress` returns has them.

        Raises CheckpointError if it is missing, damaged (the file whose hash differs is named) or of another schema.
        """
        path = Path(path)
        document = read_document(path)
        for file, expected in document.files.items():
            check_file(path, file, expected)
        for name in (STRUCTURE, *(f"{stem}.safetensors" for stem in STEMS)):
            if document.done and name not in document.files and (path / name).exists():
                raise CheckpointError(
                    f"{path / name} is not among the files that {DOCUMENT} vouches for: {REMEDY}",
                    code="unsealed",
                    path=path / name,
                )
        return cls(
            path=path,
            origin=document.origin,
            done=document.done,
            history=document.history,
            metrics=document.metrics,
            versions=document.versions,
            uncut=document.pinned,
            numerics=document.numerics,
            preprocessing=document.preprocessing,
            data_folder=document.data_folder,
            metric=document.metric,
            signature=document.signature,
            model=model,
            task=task,
        )

    def require_done(self) -> Checkpoint:
        """Returns this checkpoint; raises UsageError while its compression is unfinished."""
        if not self.done:
            raise UsageError(
                f"{self.path} is unfinished: run the same `dwindle compress` again to resume it",
                code="unfinished",
                path=self.path,
            )
        return self

    def require_figures(self) -> Checkpoint:
        """Returns this checkpoint; raises CheckpointError naming the figures of a compression that it lacks."""
        there: dict[str, Any] = {"origin.target": self.origin.get("target")}
        if self.done:
            ends = self.history[:1] + self.history[-1:]
            there["history.bytes"] = ends and all(record.bytes for record in ends)
            there |= {f"metrics.{name}": name in self.metrics for name in ("test", "dense_test")}
        if missing := [name for name, found in there.items() if not found]:
            raise CheckpointError(
                f"{self.path / DOCUMENT} lacks {', '.join(missing)}: {REMEDY}",
                code="field",
                path=self.path / DOCUMENT,
                name=missing[0],
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
        file = self.path / "masks.safetensors"
        return unpack_masks(read_tensors(self.path, "masks"), self.weights, file)

    @cached_property
    def structure(self) -> dict[str, Any]:
        """What surgery left of the architecture (`dwindle.models.structure`); empty where nothing was cut."""
        file = self.path / STRUCTURE
        return read_structure(read(file), file) if self.done and file.exists() else {}

    @cached_property
    def samples(self) -> dict[str, Tensor]:
        """Inputs of its task by split and position (`validation.0`), of which it keeps some; else empty."""
        return read_tensors(self.path, "samples") if (self.path / "samples.safetensors").exists() else {}

    @property
    def bench_path(self) -> Path:
        return self.path / "bench.json"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    def _repr_html_(self) -> str:
        """A table of what it is and what became of it, for a notebook."""
        model = self.origin.get("model")
        rows = {
            "model": model.get("spec") if isinstance(model, dict) else model,
            "finished": "yes" if self.done else "no",
        }
        if self.history:
            first, last = self.history[0], self.history[-1]
            rows |= {"surviving weights": f"{last.density:.1%}", "validation": f"{last.validation:.2f}"}
            rows["dense validation"] = f"{first.validation:.2f}"
            if first.bytes and last.bytes:
                rows["bytes"] = f"{first.bytes:,} → {last.bytes:,}"
        rows |= {named(name, self.metric): f"{value:.2f}" for name, value in self.metrics.items()}
        return table(self.path, rows.items())

    def _document(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "origin": self.origin,
            "done": self.done,
            "history": [asdict(entry) for entry in self.history],
            "metrics": self.metrics,
            "versions": self.versions,
            "pinned": [asdict(entry) for entry in self.uncut],
            "numerics": asdict(self.numerics) if self.numerics else None,
            **({"preprocessing": asdict(self.preprocessing)} if self.preprocessing else {}),
            **({"data_folder": self.data_folder} if self.data_folder else {}),
            **({"metric": self.metric} if self.metric != ACCURACY else {}),
            **({"signature": asdict(self.signature)} if self.signature else {}),
        }


def read_document(path: Path) -> _Document:
    """Reads checkpoint.json and checks its own seal, but not the files that it vouches for.

    Raises CheckpointError where it is missing, damaged or of another schema.
    """
    file = path / DOCUMENT
    try:
        is_there = file.is_file()
    except OSError as error:  # a name that is too long, or a folder that may not be looked into
        raise CheckpointError(f"{path} can't be read: {error.strerror}", code="unreadable", path=path) from error
    if not is_there:
        raise CheckpointError(
            f"{path} is not a checkpoint: it has no {DOCUMENT}; give a NET.dwindle folder that `dwindle compress` made",
            code="no-checkpoint",
            path=path,
        )
    document = read_sealed_json(file, REMEDY)
    if document.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path} has schema {document.get('schema')!s:.40}, this dwindle {dwindle.__version__} reads "
            f"schema {SCHEMA}: {_UPGRADE}",
            code="schema",
            path=path,
        )
    found: _Document = parse(_Document, document, file, _UPGRADE)
    return found


def read_structure(value: Any, file: Path) -> dict[str, Any]:
    """Checks a description of what surgery left against the form that `models.structure` writes, and returns it.

    Raises CheckpointError naming the `file` and the field.
    """
    parse(_Structure, value, file, _UPGRADE)
    return dict(value)


def start(
    path: Path, origin: dict[str, Any], code: Mapping[str, str] | None = None, numerics: Numerics | None = None
) -> Checkpoint:
    """Begins a checkpoint at `path`, or opens the one there to resume it.

    A new one records `code` among its versions, and `numerics`; the one there keeps what it recorded.
    Call it while `locked(path)` is held, so that no other run begins there at the same time. A run that ended before
    it saved anything is replaced, whatever its options were.
    Raises UsageError if `path` exists and is something else, or was made with other options (which are
    named), and DwindleError if it cannot be written.
    """
    fresh = Checkpoint(path, origin, False, (), {}, {**versions(), **(code or {})}, numerics=numerics)
    for name in (*_OWN, *_OWN_FOLDERS):
        refuse_link(path / name)
    if (path / DOCUMENT).exists():
        found = Checkpoint.load(path)
        if not (found.done or begun(path)):
            seal(path, DOCUMENT, fresh._document(), {})
            return fresh
        was, now = flattened(found.origin), flattened(origin)
        if differences := [
            f"{key} was {was.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(was.keys() | now.keys())
            if was.get(key) != now.get(key)
        ]:
            raise UsageError(
                f"{path} was made with other options ({'; '.join(differences)}): repeat those to resume it, "
                "or choose another -o",
                code="other-options",
                option="out",
                path=path,
            )
        if found.done:
            _clear(path)
        return found
    if path.is_dir():
        sweep(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise _not_a_checkpoint(path)
    seal(path, DOCUMENT, fresh._document(), {})
    return fresh


def _not_a_checkpoint(path: Path) -> UsageError:
    return UsageError(
        f"{path} exists and is not a checkpoint: choose another -o", code="not-a-checkpoint", option="out", path=path
    )


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
    """Locks a checkpoint's folder, which is made if it isn't there, against every other run.

    The system releases the lock when this process ends, even if it is killed. A folder that is still empty at the end
    is removed.

    Raises UsageError where another run holds it, or a file is there, and DwindleError where it cannot be written.
    """
    handle = _lock(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.rmdir()  # the system refuses unless it is empty
        os.close(handle)


def _lock(path: Path) -> int:
    import fcntl

    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except (FileExistsError, NotADirectoryError) as error:
            if path.exists():
                raise _not_a_checkpoint(path) from error
            raise _unwritable(path, error) from error
        except FileNotFoundError:  # another run that came to nothing has just removed it
            if path.is_symlink():
                raise _not_a_checkpoint(path) from None
            continue
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise UsageError(
                f"another run is at work in {path}: wait for its end, or choose another -o",
                code="locked",
                option="out",
                path=path,
            ) from error
        except OSError:  # not every network's file system has locks
            return handle
        with suppress(OSError):  # what was locked may have been removed between the two calls
            if os.path.samestat(path.stat(), os.fstat(handle)):
                return handle
        os.close(handle)


def _unwritable(path: Path, error: OSError) -> DwindleError:
    return DwindleError(
        f"cannot write {path}: {error.strerror}; choose another place", code="unwritable", option="out", path=path
    )


def require_not_sealed(path: Path) -> None:
    """Raises UsageError where a report or another output would be written over a part of a checkpoint.

    Beside its own files a checkpoint's folder may hold outputs, such as report.html; inside `exports/` and `rounds/`
    none may be written.
    """
    whole = path.absolute()
    for folder in whole.parents:
        if not (folder / DOCUMENT).exists():
            continue
        first = whole.relative_to(folder).parts[0]
        if first in _OWN_FOLDERS or first in (*_OWN, *members(folder, DOCUMENT)):
            raise UsageError(
                f"{path} is a part of the checkpoint {folder}, which would be destroyed: choose another place",
                code="sealed",
                option="out",
                path=path,
            )


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
    found: _PartialRound = parse(_PartialRound, unseal(folder, ROUND), folder / ROUND, _UPGRADE)
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
    document: _SavedRound = parse(_SavedRound, unseal(folder, ROUND), folder / ROUND, _UPGRADE)
    return document.history, _cuts(document, folder / ROUND), folder


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
    """Removes what a finished run no longer needs, and what killed writes left behind; nothing else."""
    rounds = path / ROUNDS
    for folder in (*_saved(path).values(), rounds / PARTIAL):
        sweep(rounds)
        remove(folder, members(folder, ROUND))
    remove(rounds, ())
    sweep(path)


def pack_masks(masks: Tensors) -> dict[str, Tensor]:
    """Packs masks into a bit per weight, the first weight in the lowest bit; their shapes are not kept."""
    import numpy as np
    import torch

    return {
        name: torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little"))
        for name, mask in masks.items()
    }


def unpack_masks(packed: Tensors, weights: Tensors, file: Path | None = None) -> dict[str, Tensor]:
    """Undoes `pack_masks`, given tensors that have the masks' names and shapes.

    Raises CheckpointError, with the `file` they came from, for a mask without a weight or of another length.
    """
    import numpy as np
    import torch

    for name, bits in packed.items():
        needed = (weights[name].numel() + 7) // 8 if name in weights else None
        if bits.dtype != torch.uint8 or tuple(bits.shape) != (needed,):
            found = f"{bits.dtype} of shape {list(bits.shape)}"
            wanted = f"{needed} bytes are needed" if needed is not None else "there is no such weight"
            raise CheckpointError(
                f"{file or 'the masks'}: the mask of {name} is {found}, and {wanted}; {REMEDY}",
                code="mask",
                path=file,
                name=name,
            )
    return {
        name: torch.from_numpy(np.unpackbits(bits.numpy(), bitorder="little", count=weights[name].numel()))
        .bool()
        .reshape(weights[name].shape)
        for name, bits in packed.items()
    }


def _round_folder(path: Path, index: int) -> Path:
    return path / ROUNDS / f"{index:03d}"


def versions() -> dict[str, str]:
    """Of the packages that decide what a run computes, as they are here."""
    return {
        "dwindle": dwindle.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision")},
    }
