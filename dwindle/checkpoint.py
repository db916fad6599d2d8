"""The checkpoint: what compress makes, export reads and bench judges.

NET.dwindle/
  checkpoint.json       what made it, its history of rounds, its metrics, and the hash of each file
  structure.json        widths per layer that channel surgery left (absent where nothing was cut)
  weights.safetensors   the surviving weights, pruned ones zero
  masks.safetensors     a bit per prunable weight (absent where pruning removed whole channels only)
  dense.safetensors     the trained network before pruning: what every comparison is made with
  choices.json          what `precision` mixed chose for each tensor, where it did
  samples.safetensors   samples of the data, where it was asked to keep some, so that exporting needs no data
  history.jsonl         figures as they came, a line each; nothing is read back from it
  rounds/…              while running: each round's state, from which a killed run resumes
  exports/TARGET/…      exported files beside their manifests
  bench.json            what was measured of those files
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dwindle
from dwindle.documents import REMEDY, FileName, parse, read
from dwindle.errors import CheckpointError, UsageError
from dwindle.files import refuse_link, sweep, write_json
from dwindle.lock import not_a_checkpoint
from dwindle.mask_files import unpack_masks
from dwindle.metrics import ACCURACY, named
from dwindle.notebook import table
from dwindle.preprocessing import Preprocessing
from dwindle.record import UPGRADE, Choice, Numerics, Round, Uncut, flattened, read_choices, read_structure
from dwindle.saved_rounds import ROUNDS, begun, clear
from dwindle.sealed import Tensors, check_file, members, read_sealed_json, read_tensors, seal, sealed_json
from dwindle.signature import Signature

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.task import Task

SCHEMA = 1
DOCUMENT = "checkpoint.json"
STRUCTURE = "structure.json"
CHOICES = "choices.json"
HISTORY = "history.jsonl"
STEMS = ("weights", "masks", "dense", "samples")
DENSE = "dense.safetensors"
"""The file of the dense network's weights."""
_OWN = (DOCUMENT, STRUCTURE, CHOICES, *(f"{stem}.safetensors" for stem in STEMS), HISTORY, "bench.json")
"""The names at the top of a checkpoint that nothing but dwindle writes."""
_OWN_FOLDERS = (ROUNDS, "exports", "amc")


def weights_file(path: Path) -> Path:
    """The file of weights that a path stands for: where it is a checkpoint, that of its dense network.

    >>> weights_file(Path("net.dwindle")), weights_file(Path("net.safetensors"))
    (PosixPath('net.dwindle/dense.safetensors'), PosixPath('net.safetensors'))

    Raises UsageError for a checkpoint whose compression is unfinished, CheckpointError for a damaged one.
    """
    return Checkpoint.load(path).require_done().path / DENSE if (path / DOCUMENT).is_file() else path


def preprocessing_of(weights: Path) -> Preprocessing | None:
    """What a file of weights wants its inputs to be; None unless it is that of a checkpoint's dense network.

    Raises CheckpointError where the checkpoint is damaged.
    """
    folder = weights.parent
    known = weights.name == DENSE and (folder / DOCUMENT).is_file()
    return Checkpoint.load(folder).preprocessing if known else None


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
        for name in (STRUCTURE, CHOICES, *(f"{stem}.safetensors" for stem in STEMS)):
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
    def choices(self) -> dict[str, Choice]:
        """What `precision` mixed chose for each tensor, by name; empty before, and at any other precision."""
        return saved_choices(self.path)

    @property
    def widths(self) -> dict[str, str]:
        """The precisions among `choices`, as `Target.mixing` takes them."""
        return {name: choice.precision for name, choice in self.choices.items()}

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
            f"schema {SCHEMA}: {UPGRADE}",
            code="schema",
            path=path,
        )
    found: _Document = parse(_Document, document, file, UPGRADE)
    return found


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
            clear(path)
        return found
    if path.is_dir():
        sweep(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise not_a_checkpoint(path)
    seal(path, DOCUMENT, fresh._document(), {})
    return fresh


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


def saved_choices(path: Path) -> dict[str, Choice]:
    """What `save_choices` saved in a checkpoint's folder; empty before. Raises CheckpointError where it is damaged."""
    file = path / CHOICES
    return read_choices(read_sealed_json(file, REMEDY), file) if file.exists() else {}


def save_choices(path: Path, choices: Mapping[str, Choice]) -> None:
    """Saves what `precision` mixed chose, as soon as it has, for the run to go on with."""
    write_json(path / CHOICES, _choices(choices))


def _choices(choices: Mapping[str, Choice]) -> dict[str, Any]:
    return sealed_json({"tensors": {name: asdict(choice) for name, choice in choices.items()}})


def finish(
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensors],
    structure: dict[str, Any],
    choices: Mapping[str, Choice] | None = None,
) -> Checkpoint:
    """Seals the finished network and removes the rounds' states."""
    documents = {STRUCTURE: structure} if structure else {}
    documents |= {CHOICES: _choices(choices)} if choices else {}
    seal(checkpoint.path, DOCUMENT, checkpoint._document(), tensors, documents)
    clear(checkpoint.path)
    return Checkpoint.load(checkpoint.path)


def versions() -> dict[str, str]:
    """Of the packages that decide what a run computes, as they are here."""
    return {
        "dwindle": dwindle.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision")},
    }
