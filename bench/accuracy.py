"""The accuracy of a file, computed by its own runtime, and how far its answers agree with the dense file's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from dwindle.bench.pictures import picture
from dwindle.bench.result import DENSE, Accuracy, Agreement, McNemar, Outputs, Picture, Row, Share
from dwindle.bench.stats import accuracy_interval, mcnemar, wilson
from dwindle.metrics import SQNR, decibels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.bench.process import Worker
    from dwindle.models.checked_task import CheckedTask
    from dwindle.preprocessing import Preprocessing
    from dwindle.signature import Signature

TOP = 5
EXAMPLES = 10
"""How many samples that changed class are listed."""
HELD = 64_000_000
"""The bytes of outputs that are held of a file, to compare another's with: as many of the first samples as fit."""


@dataclass(frozen=True)
class Answers:
    """The classes that a file chose for the samples of a split, in the order in which the task sent them."""

    classes: np.ndarray
    """The index of the largest output: shape (samples,), int64."""
    labels: np.ndarray
    """The classes that they are of, as `classes`."""
    inputs: bytes
    """A digest of all inputs."""
    pictures: dict[int, str]
    """The first samples that another file puts in another class, by their place, as `picture` draws them."""

    @property
    def right(self) -> np.ndarray:
        """Whether each class is the sample's label: shape (samples,), bool."""
        right: np.ndarray = self.classes == self.labels
        return right


@dataclass(frozen=True)
class Judged:
    """The accuracy of one file, with what it takes to compare it with another file."""

    accuracy: Accuracy
    missing: dict[str, str]
    """Why a figure of a row is None, by its name."""
    answers: Answers | None
    """None where it isn't known that outputs are class scores."""
    held: tuple[list[np.ndarray], ...] = ()
    """The outputs of the first samples, where there are no `answers`."""
    inputs: bytes = b""
    """A digest of all inputs."""


def with_accuracy(
    task: CheckedTask,
    rows: Sequence[Row],
    starts: Mapping[str, Callable[[], Worker]],
    sample: list[np.ndarray],
    progress: Callable[[str], None],
    also: Callable[[Row, Worker], Row] = lambda row, worker: row,
    signature: Signature | None = None,
    preprocessing: Preprocessing | None = None,
) -> list[Row]:
    """Adds accuracy and agreement to the rows of a dense file and of others beside it, in one runtime.

    starts: what starts a worker on each file, by its path. sample: what the files are loaded with. also: adds what
    else a loaded worker tells to the file's row. signature: the files'. preprocessing: how their images became inputs,
    by which samples that change class are kept as pictures. A row that already has
    a reason for lacking accuracy is left as it is, since its file doesn't run.
    """
    done, judged = list(rows), dict[str, Judged]()
    baseline = next(row.artifact.path for row in rows if row.role == DENSE)
    for index, row in enumerate(rows):
        if "accuracy" in row.reasons:
            continue
        path = row.artifact.path
        progress(f"{row.runtime.name}: accuracy of {path}")
        try:
            with starts[path]() as worker:
                worker.load(sample)
                before = judged[baseline].answers if baseline in judged else None
                judged[path] = found = judge(task, worker, signature, before, preprocessing)
                row = also(row, worker)
        except Exception as error:  # a user's own task may ask more of a model than outputs
            why = f"evaluating it raised {type(error).__name__}: {error}"
            done[index] = replace(row, reasons={**row.reasons, "accuracy": why, "agreement": why})
        else:
            done[index] = replace(row, accuracy=found.accuracy, reasons={**row.reasons, **found.missing})
    for index, row in enumerate(done):
        if row.role != DENSE and row.accuracy and baseline in judged:
            row = replace(row, outputs=_outputs(judged[row.artifact.path], judged[baseline], baseline, signature))
            done[index] = row
        if row.role == DENSE and row.accuracy:
            done[index] = replace(row, reasons={**row.reasons, "agreement": "it is the baseline"})
        elif row.accuracy and baseline not in judged:
            done[index] = replace(row, reasons={**row.reasons, "agreement": "the dense file could not be evaluated"})
        elif row.accuracy:
            found_agreement, why = agreement(judged[row.artifact.path], judged[baseline], baseline)
            reasons = {**row.reasons, **({"agreement": why} if why else {})}
            done[index] = replace(row, agreement=found_agreement, reasons=reasons)
    return done


def judge(
    task: CheckedTask,
    worker: Worker,
    signature: Signature | None = None,
    before: Answers | None = None,
    preprocessing: Preprocessing | None = None,
) -> Judged:
    """Evaluates the task on the test split, with every sample sent through the loaded file.

    signature: the file's; None where its network takes its inputs one after the other and gives one tensor. before: the
    answers of another file; the first samples that change class are kept as pictures, drawn by `preprocessing`.

    Raises WorkerFailed if the worker dies, and whatever the task's `evaluate` raises.
    """
    model, seen = _as_module(worker, signature, _Changed(None if before is None else before.classes, preprocessing))
    value = task.evaluate(model, "test")
    n, metric = seen.samples, task.metric
    missing, top1, top5, answers = {}, None, None, None
    interval = accuracy_interval(value, n) if metric != SQNR else None
    if interval is None:
        missing["accuracy.interval"] = f"{metric} is not a share of samples"
    labels, why = _labels(task, seen)
    if labels is not None:
        ranked = np.concatenate(seen.ranked)
        right = ranked[:, 0] == labels
        top1 = _share(right)
        if metric == "accuracy" and abs(top1.value - value) > 1e-3:
            why = f"by the task's labels {top1.value:.2f}% are right, its evaluate says {value:.2f}: other order?"
            top1 = None
        else:
            answers = Answers(ranked[:, 0], labels, seen.digest.digest(), seen.changed.pictures)
            top5 = _share((ranked == labels[:, None]).any(1)) if seen.scores > TOP else None
    if top5 is None:
        missing["accuracy.top5"] = why or f"{seen.scores} classes"
    if answers is None:
        missing |= {"accuracy.top1": why, "agreement": why}
    accuracy = Accuracy(metric, value, n, interval, "test", top1, top5)
    return Judged(accuracy, missing, answers, () if answers else tuple(seen.held), seen.digest.digest())


def agreement(file: Judged, dense: Judged, baseline: str) -> tuple[Agreement | None, str]:
    """Compares a file's classes with the dense file's, whose path is `baseline`; or None and why that can't be done."""
    answers, reference = file.answers, dense.answers
    if answers is None or reference is None:
        return None, (dense if answers else file).missing["agreement"]
    if answers.inputs != reference.inputs:
        return None, "the task fed the two files different samples, or in another order"
    same = answers.classes == reference.classes
    lost, won = int((reference.right & ~answers.right).sum()), int((answers.right & ~reference.right).sum())
    changed = np.flatnonzero(~same)
    share, test = _share(same), McNemar(lost, won, mcnemar(lost, won))
    examples = tuple(int(index) for index in changed[:EXAMPLES])
    pictures = tuple(
        Picture(place, png, *(int(each[place]) for each in (answers.labels, reference.classes, answers.classes)))
        for place, png in answers.pictures.items()
    )
    return Agreement(baseline, share.value, share.interval, len(same), len(changed), examples, test, pictures), ""


def _outputs(file: Judged, dense: Judged, baseline: str, signature: Signature | None) -> Outputs | None:
    """How near each output of numbers is to the dense file's, whose path is `baseline`; None where there is none, where
    classes are compared instead, or where the task fed the two files different samples."""
    from dwindle.models.signature import ALONE

    names = [each.name for each in signature.outputs] if signature else [ALONE]
    pairs = list(zip(dense.held, file.held, strict=False)) if file.inputs == dense.inputs else []
    ratios: dict[str, float] = {}
    for place, name in enumerate(names if pairs else ()):
        exact, other = (np.concatenate([np.ravel(each[place]) for each in side]) for side in zip(*pairs, strict=True))
        if exact.dtype.kind == "f":
            finite = np.isfinite(exact)  # an infinity, as in a causal mask, is no signal
            exact, other = exact[finite].astype(np.float64), other[finite].astype(np.float64)
            ratios[name] = decibels(float(np.square(exact).sum()), float(np.square(exact - other).sum()))
    return Outputs(baseline, ratios, len(pairs)) if ratios else None


def _labels(task: CheckedTask, seen: _Seen) -> tuple[np.ndarray | None, str]:
    """The test split's labels where the outputs are class scores for them; or None and why they are not."""
    found = task.labels("test")
    if found is None:
        return None, "the task has no `labels` (see dwindle/task.py)"
    labels = found.numpy()
    if not seen.scores:
        return None, "the outputs are not one row of class scores per sample"
    if labels.shape != (seen.samples,):
        return None, f"the task's labels have the shape {labels.shape}, and it evaluated {seen.samples} samples"
    return labels, ""


def _share(hits: np.ndarray) -> Share:
    low, high = wilson(int(hits.sum()), len(hits))
    return Share(100 * float(hits.mean()), (100 * low, 100 * high))


@dataclass
class _Changed:
    """The first samples that change class, as pictures."""

    before: np.ndarray | None
    """The class of each sample until now; None where nothing is compared."""
    preprocessing: Preprocessing | None
    pictures: dict[int, str] = field(default_factory=dict)

    def take(self, place: int, sample: list[np.ndarray], now: int) -> None:
        if self.before is None or place >= len(self.before) or self.before[place] == now:
            return
        if len(self.pictures) < EXAMPLES and (png := picture(sample, self.preprocessing)):
            self.pictures[place] = png


class _Seen:
    """A record of what has passed through a file: the best classes of each sample, and a digest of the inputs."""

    def __init__(self, changed: _Changed) -> None:
        self.changed = changed
        self.samples = 0
        self.scores = -1
        """The width of every output so far; 0 once one wasn't a single row."""
        self.ranked: list[np.ndarray] = []
        """(1, up to TOP) class indices per sample, the largest score first."""
        self.digest = blake2b(digest_size=16)
        self.held: list[list[np.ndarray]] = []

    def take(self, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> None:
        self.samples += 1
        for array in inputs:
            self.digest.update(np.ascontiguousarray(array).data)
        row = outputs[0] if len(outputs) == 1 else np.empty(0)
        width = row.shape[1] if row.ndim == 2 and row.shape[0] == 1 else 0
        self.scores = width if self.scores in (-1, width) else 0
        if self.samples * sum(output.nbytes for output in outputs) <= HELD:
            self.held.append(outputs)
        if self.scores:
            # Stable, so that the first of equal scores wins, as in argmax.
            self.ranked.append(np.argsort(-row, axis=1, kind="stable")[:, :TOP])
            self.changed.take(self.samples - 1, inputs, int(self.ranked[-1][0, 0]))


def _as_module(worker: Worker, signature: Signature | None, changed: _Changed) -> tuple[nn.Module, _Seen]:
    """The worker as a module that a task can evaluate, and the record of what passes through it."""
    import torch

    from dwindle.models.inputs import as_fed
    from dwindle.models.signature import Answering

    seen = _Seen(changed)

    def infer(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        """Files have a batch of one: samples go one at a time."""
        answers = []
        for index in range(len(inputs[0])):
            sample = [as_fed(batch[index : index + 1]).numpy() for batch in inputs]
            answers.append(worker.infer(sample))
            seen.take(sample, answers[-1])
        columns = zip(*answers, strict=True)
        return [torch.cat([torch.from_numpy(np.atleast_1d(one)) for one in column]) for column in columns]

    return Answering(infer, signature), seen
