"""The second stage: a checkpoint's network and its dense original, written for each target and proven equal."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.checkpoint import Checkpoint
from dwindle.errors import DwindleError, UsageError
from dwindle.export import side_by_side, target_options, targets
from dwindle.export.auto import AUTO
from dwindle.export.one_target import NO_PACKING, PACKINGS, export_one
from dwindle.export.options import ExportOptions
from dwindle.export.quantize import MIXED
from dwindle.export.target import CALIBRATED, ROUNDINGS
from dwindle.files import refuse_link, sweep
from dwindle.manifest import Manifest
from dwindle.notebook import Tables

if TYPE_CHECKING:
    from dwindle.models.trust import Trust

_log = logging.getLogger(__name__)


def export(
    checkpoint: Checkpoint | Path | str,
    names: Sequence[str] | None = None,
    options: ExportOptions | None = None,
    *,
    trust: Trust = False,
    progress: Callable[[str], None] | None = None,
    **given: Any,
) -> list[Manifest]:
    """Writes `exports/TARGET/` in a finished checkpoint for each of the targets named.

    The folder holds `net`, the compressed network with its zeros packed; `dense`, the network before pruning at the
    target's default precision; `manifest.json`; and where the target has `zstd`, `net` compressed as a whole (`.zst`).

        >>> [manifest] = export("net.dwindle", ["coreml"], precision="int8", min_os="iOS18")

    checkpoint: an opened checkpoint, or its path. names: the targets; None: the one that it was compressed for, or onnx
    where it records none. progress: called with a line that says what
    is being done; by default it is logged through `logging`. options: how to write `net`. given: fields of
    ExportOptions that replace those of `options`, such as `precision="int8"`; `precision="auto"` takes the smallest
    file that loses at most `max_drop` points of validation against the dense network. trust: the checkpoint's own
    model and task may be code of anybody's; give the specs (`package.module:factory`) that may run, or True for
    any. Built-in ones need no trust.

    An earlier export of a target is replaced once both files have proven equal to their networks. Targets are exported
    side by side, each in a process of its own, as a runtime may crash on a file that it can't run; where the network or
    the task is an object of the caller's, one after the other in this process.

    Raises UsageError for an unknown target or precision, an option that none of the targets has a use for, or a network
    that a format cannot hold; ParityFailed where a file computes something else (that file is kept beside the earlier
    export, as `*.rejected`); CheckpointError for a damaged checkpoint; DwindleError with the code `process-died` where
    a converter or a runtime crashed, saying on what file and in which step.
    """
    made = attempt(checkpoint, names, replace(options or ExportOptions(), **given), trust=trust, progress=progress)
    manifests = []
    for outcome in made.values():
        if isinstance(outcome, DwindleError):
            raise outcome
        manifests.append(outcome)
    return Tables(manifests)


def made_for(checkpoint: Checkpoint, options: ExportOptions, say: Callable[[str], None]) -> list[str]:
    """The target that a checkpoint was compressed for, or onnx where it records none, which is said."""
    name, precision = checkpoint.origin.get("target"), checkpoint.origin.get("precision")
    if not name:
        say("no target is given or recorded in the checkpoint: writing onnx")
        return ["onnx"]
    own = options.precision is None and options.packing != NO_PACKING
    at = f" at {precision}" if precision and own else ""
    say(f"no target is given: writing {name}{at}, which the checkpoint was compressed for")
    return [str(name)]


def attempt(
    checkpoint: Checkpoint | Path | str,
    names: Sequence[str] | None,
    options: ExportOptions,
    *,
    trust: Trust = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Manifest | DwindleError]:
    """What `export` does, for a caller that wants to hear of every target: by name, its manifest or what it failed by.

    Raises as `export` does where no target was begun: for options that make no sense and a checkpoint that isn't whole.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.load(checkpoint)
    say = progress or _log.info
    _check(options)
    names = made_for(checkpoint, options, say) if names is None else names
    packed = options.packing != NO_PACKING
    made = _as_made(checkpoint, names, options.min_os, say) if packed and options.precision is None else {}
    each = {name: replace(options, precision=made.get(name, options.precision)) for name in names}
    if packed and options.rounding is None and checkpoint.origin.get("rounding"):
        samples = options.calib_samples or checkpoint.origin.get("calib_samples")
        rounded = {"rounding": checkpoint.origin["rounding"], "calib_samples": samples}
        each |= {name: replace(each[name], **rounded) for name in names if name == checkpoint.origin.get("target")}
    wanted = [
        targets.load(name, kind, own.min_os)
        for name, own in each.items()
        for kind in ([own.precision] if own.max_drop is None else targets.possible(name, own.min_os))
    ]
    by_samples = options.rounding == CALIBRATED
    calib_samples = None if by_samples else options.calib_samples
    target_options.require_used(wanted, options.min_os, calib_samples, options.min_runtime, options.keep_float)
    if by_samples:
        target_options.require_codes(wanted)
    checkpoint.require_done()
    if not checkpoint.choices and any(target.precision == MIXED for target in wanted):
        raise UsageError(
            "`precision` mixed is chosen while a network is compressed, and this one was not: give `compress` the "
            "`precision` mixed, or give one precision here",
            code="not-mixed",
            option="precision",
        )
    refuse_link(checkpoint.exports)
    sweep(checkpoint.exports)
    if checkpoint.model is None and checkpoint.task is None:
        failed = side_by_side.run(checkpoint.path, each, say, trust=trust)
    else:
        failed = _one_by_one(checkpoint, each, say, trust)
    return {name: failed.get(name) or Manifest.read(checkpoint.exports / name) for name in each}


def _as_made(
    checkpoint: Checkpoint, names: Sequence[str], min_os: str | None, say: Callable[[str], None]
) -> dict[str, str]:
    """By target, the precision that its budget was counted at, and on others what its weights were trained through.

    Such weights lie where that precision rounds to, and what a run says of its accuracy holds for no other; which is
    said of each such target, also where it lacks the precision.
    """
    target, precision = checkpoint.origin.get("target"), checkpoint.origin.get("precision")
    if precision is None:
        return {}
    made = {name: precision for name in names if name == target}
    if checkpoint.origin.get("qat"):
        for name in names:
            if name != target and precision in targets.possible(name, min_os, mixed=bool(checkpoint.choices)):
                made[name] = precision
                say(f"{name}: at {precision}, which the weights were trained through; `precision` gives it another")
            elif name != target:
                own = targets.load(name).precision
                say(f"{name}: at {own}, as it has no {precision}, which the weights were trained through")
    return made


def _one_by_one(
    checkpoint: Checkpoint, each: Mapping[str, ExportOptions], progress: Callable[[str], None], trust: Trust
) -> dict[str, DwindleError]:
    """Exports a checkpoint with objects that no other process has; the failures by target."""
    failed = {}
    for name, options in each.items():
        try:
            export_one(checkpoint, name, options, progress, trust)
        except DwindleError as error:
            failed[name] = error
    return failed


def _check(options: ExportOptions) -> None:
    if (options.precision == AUTO) != (options.max_drop is not None):
        raise UsageError(
            "`precision` auto and `max_drop` need each other: give the points of validation that a file may lose",
            code="conflict",
            option="max_drop",
        )
    if options.max_drop is not None and not 0 <= options.max_drop < math.inf:
        raise UsageError(
            f"`max_drop` is {options.max_drop:g}: give a number of points, 0 or more",
            code="out-of-range",
            option="max_drop",
        )
    if options.compute == "fp16" and options.precision == "fp32":
        raise UsageError(
            "`compute` fp16 rounds weights to fp16 before it computes with them: give `precision` fp16 or fewer bits, "
            "or leave out `compute`",
            code="conflict",
            option="compute",
        )
    if options.tolerance is not None and not 0 < options.tolerance < 1:
        raise UsageError(
            f"`tolerance` is {options.tolerance:g}: give a share of the largest output, above 0 and below 1",
            code="out-of-range",
            option="tolerance",
        )
    if options.rounding is not None and options.rounding not in ROUNDINGS:
        raise UsageError(
            f"`rounding` {options.rounding!r} is unknown: give {' or '.join(ROUNDINGS)}",
            code="unknown-name",
            option="rounding",
        )
    if options.packing not in PACKINGS:
        raise UsageError(
            f"`packing` {options.packing!r} is unknown: give {' or '.join(PACKINGS)}",
            code="unknown-name",
            option="packing",
        )
    if options.precision == AUTO and options.packing == NO_PACKING:
        raise UsageError(
            "`precision` auto compares packed files: give a precision by name with `packing` none",
            code="conflict",
            option="packing",
        )
