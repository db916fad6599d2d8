"""The gate: which files are checked against which limits, and one verdict on all of them."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.bench.approvals import approved, read_approvals
from dwindle.bench.files.contents import contents, is_model_file
from dwindle.bench.history import read_history
from dwindle.bench.judging import Asked, of_checkpoint, of_file
from dwindle.bench.limits import LimitsFile, Quantity, matching, quantity, read_limits
from dwindle.bench.verdict import Verdict, joined
from dwindle.checkpoint import Checkpoint
from dwindle.errors import UsageError

if TYPE_CHECKING:
    from dwindle.bench.outputs import Expected

Subject = Checkpoint | Path | str
"""A checkpoint, opened or by its path, or the path of a model file, or a pattern of paths such as `models/*.onnx`."""


def gate(
    files: Subject | Sequence[Subject],
    *,
    max_size: Quantity | None = None,
    max_download: Quantity | None = None,
    max_drop: Quantity | None = None,
    min_accuracy: Quantity | None = None,
    max_cost: Quantity | None = None,
    max_ratio: Quantity | None = None,
    max_growth: Quantity | None = None,
    max_deviations: Quantity | None = None,
    max_zeros: Quantity | None = None,
    max_undelegated: Quantity | None = None,
    max_signature_changes: Quantity | None = None,
    max_difference: Quantity | None = None,
    limits: Path | str | None = None,
    baseline: Path | str | None = None,
    reference: Path | str | None = None,
    inputs: Path | str | None = None,
    target: str | None = None,
    history: Path | str | None = None,
    why: bool = False,
    download: bool = False,
) -> Verdict:
    """Checks exported files, or model files of any origin, against limits.

        >>> gate("net.dwindle", max_size="25KB", max_drop=1.0).exit_code
        0
        >>> gate("app/models/*.tflite", max_size="5MB", baseline="main/models").exit_code
        0
        >>> gate("app/net.tflite", reference="net.onnx", inputs="samples.npz", max_difference="1%").exit_code
        0

    Sizes are taken from the files on the disk; those of a checkpoint have to be what their manifest describes.
    Accuracy, latency and cost are bench's, in the worst of the runtimes; where one of them tried and failed, there is
    no figure, and of a model file there is none. PyTorch isn't imported, and nothing is run but, for `reference`, the
    files themselves, each in a process of its own.

    Args:
        files: a checkpoint or a model file (.onnx, .tflite, .mlpackage, .mlmodel, .pte, .pt2 or .mnn), or several; by
            their paths or by patterns. None of them: those that `limits` names.
        max_size: installed bytes that the compressed file may have.
        max_download: bytes that a device downloads: the file deflated, or the `.zst` beside it where that is smaller.
        max_drop: points of the task's metric on the test split that it may lose against the dense file in the
            same runtime.
        min_accuracy: points of the metric that it must reach.
        max_cost: ARM64 instructions that one inference may execute.
        max_ratio: its time over the dense file's; the upper end of the 95% interval counts, and a noisy run
            measures nothing.
        max_growth: share by which its installed size, and its cost where both have one, may exceed the baseline's.
        max_deviations: standard deviations by which its installed size may exceed the median in `history`.
        max_zeros: share of its weights that may be zeros which take as many bytes as any other.
        max_undelegated: calls of operators in it that no delegate takes.
        max_signature_changes: inputs and outputs whose name, type or shape may differ from the baseline's. Where a
            model file has a baseline and nothing else is said, 0.
        max_difference: the most that a number of an output may differ from that of `reference` on one of the `inputs`,
            over the largest value of that output, as a share; of whole numbers, the share that differ. Where a
            reference is given and nothing else is said, 0.001. Without a runtime here for both files, there is no
            figure.
        limits: a TOML file with these in its table `[gate]`, or `[gate.TARGET]` for one target, or `[gate.file."NAME"]`
            for one model file or checkpoint, whose name or pattern begins at the folder of the TOML file. What is given
            as an argument comes first. `[gate.device.NAME]` has limits on what ran on one device (`host` is this
            machine): max_ratio, max_drop, min_accuracy, and max_latency, milliseconds of one inference, of which the
            upper end of the 95% interval counts, and a noisy run measures nothing. `[gate.on."PROFILE"]` has
            max_predicted_latency, milliseconds of a checkpoint's export as a profile predicts them, by its file's path
            from the TOML file's folder on or by the name of one that comes with dwindle: nothing is measured for it.
        baseline: what growth is counted from: the bench.json or the checkpoint of a checkpoint; of a model file an
            earlier version, or a folder that has one of the same path or name. One that the folder lacks is held
            against the file there that is gone and has the same inputs and outputs, as renamed; where there is none, it
            is new, its growth not checked. A note says so.
        reference: a model file, of any of the formats, whose outputs are what they should be.
        inputs: the samples on which outputs are compared, an .npz file as `numpy.savez` writes it with an array for
            each input, by its name or in order: one sample, or several along the first axis.
        target: whose files, several separated by commas; by default those that have a table of their own in
            the file of limits and, for limits of no particular target, the one it was compressed for.
        history: a file that `dwindle.bench.history.append` adds to. Without a baseline, growth is counted from the
            median of its last runs that passed; while those are too few, growth is not checked, and a note says so.
        why: also read what is in the exports of a checkpoint, and in the baseline's files, for
            `dwindle.bench.files.spent`; no limit is needed then.
        download: also take download sizes, for `Verdict.figures`.

    Raises UsageError without a limit, for an unknown target or limit, for what is not there or of an unknown format,
    and for a baseline of another network; DwindleError (CheckpointError of a checkpoint) for files or documents that
    are damaged, or were altered since they were written.
    """
    given = {
        "max_size": max_size,
        "max_download": max_download,
        "max_drop": max_drop,
        "min_accuracy": min_accuracy,
        "max_cost": max_cost,
        "max_ratio": max_ratio,
        "max_growth": max_growth,
        "max_deviations": max_deviations,
        "max_zeros": max_zeros,
        "max_undelegated": max_undelegated,
        "max_signature_changes": max_signature_changes,
        "max_difference": max_difference,
    }
    written = read_limits(Path(limits)) if limits is not None else LimitsFile()
    subjects = _subjects(files, written)
    asked = Asked(
        limits=written,
        flags={name: quantity(name, value) for name, value in given.items() if value is not None},
        baseline=Path(baseline) if baseline is not None else None,
        targets=tuple(name.strip() for name in target.split(",")) if target is not None else None,
        entries=None if history is None or baseline is not None else read_history(Path(history)),
        why=why,
        download=download,
        expected=_expected(reference, inputs),
    )
    several = len(subjects) > 1
    found = []
    for subject in subjects:
        if isinstance(subject, Checkpoint):
            verdict = of_checkpoint(subject, asked)
            found.append(verdict.named(str(subject.path)) if several else verdict)
        else:
            found.append(of_file(subject, asked))
    verdict = joined(found)
    return verdict if written.path is None else approved(verdict, read_approvals(written.path, written.allowed))


def _expected(reference: Path | str | None, inputs: Path | str | None) -> Expected | None:
    if reference is None and inputs is None:
        return None
    if reference is None or inputs is None:
        lacking, given = ("reference", "inputs") if reference is None else ("inputs", "reference")
        message = f"`{given}` is given without `{lacking}`: outputs are compared where both are"
        raise UsageError(message, code="incomplete", option=lacking)
    from dwindle.bench.outputs import Expected, read_samples

    contents(Path(reference))  # says so where it can't be read
    return Expected(Path(reference), read_samples(Path(inputs)))


def _subjects(files: Subject | Sequence[Subject], written: LimitsFile) -> list[Checkpoint | Path]:
    """What is checked, each once; what a pattern stands for is sorted by name."""
    given = [files] if isinstance(files, Checkpoint | Path | str) else [*files] or [*written.files]
    if not given:
        raise UsageError("there is nothing to check: name a checkpoint or a model file", code="no-files")
    found: dict[Path, Checkpoint | Path] = {}
    for one in given:
        if isinstance(one, Checkpoint):
            found[one.path] = one
            continue
        for path in matching(Path(), str(one)) if glob.has_magic(str(one)) else [Path(one)]:
            found[path] = path if is_model_file(path) or path.is_file() else Checkpoint.load(path)
    return list(found.values())
