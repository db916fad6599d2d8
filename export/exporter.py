"""The second stage: a checkpoint's network and its dense original, written for each target and proven equal."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dwindle
from dwindle.checkpoint import Checkpoint
from dwindle.errors import ParityFailed, UsageError
from dwindle.export import side_by_side
from dwindle.export import target as targets
from dwindle.export.architecture import one_model
from dwindle.export.auto import AUTO, smallest
from dwindle.export.fold import deployable
from dwindle.export.options import ExportOptions
from dwindle.export.parity import Compared, compare
from dwindle.export.quality import quality, sentence
from dwindle.export.shipping import as_file, calibrated, facing
from dwindle.export.target import Calibrated, Target
from dwindle.files import refuse_link, staged, sweep
from dwindle.manifest import File, Manifest, written
from dwindle.quantities import format_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.models.trust import Trust

NO_PACKING = "none"
PACKINGS = ("auto", NO_PACKING)
"""How zeros are stored: as each target packs them, or like any weight."""
_LEVEL = 19
"""Of Zstandard's: beyond it, unpacking takes more memory too."""


def export(
    checkpoint: Checkpoint | Path | str,
    names: Sequence[str],
    options: ExportOptions | None = None,
    *,
    trust: Trust = False,
    progress: Callable[[str], None] | None = None,
    **given: Any,
) -> list[Manifest]:
    """Writes `exports/TARGET/` in a finished checkpoint for each of the targets named.

    There are `net`, the compressed network, packed; `dense`, the network before pruning at the target's default
    precision; the manifest; and where the format packs no zeros, `net` compressed as a whole (`.zst`).
    options: how to write `net`. given: fields of ExportOptions that replace those of `options`, such as
    `precision="int8"`; `precision="auto"` takes the smallest file that loses at most `max_drop` points of validation
    against the dense network. trust: the checkpoint's own model and task may be code of anybody's; give the specs
    (`package.module:factory`) that may run, or True for any. Built-in ones need no trust.
    An earlier export of the target is replaced when both files have proven equal to their networks. Several
    targets are exported side by side, each in a process of its own.

    Raises UsageError for an unknown target or precision, an option that none of the targets has a use for, or a network
    that a format can't hold, ParityFailed where a file computes something else (that file is kept beside the earlier
    export, as `*.rejected`), CheckpointError.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.load(checkpoint)
    chosen = replace(options or ExportOptions(), **given)
    _check(chosen)
    counted = (
        {} if chosen.packing == NO_PACKING else {checkpoint.origin.get("target"): checkpoint.origin.get("precision")}
    )
    each = {name: replace(chosen, precision=chosen.precision or counted.get(name)) for name in names}
    asked = [
        targets.load(name, kind, own.min_os)
        for name, own in each.items()
        for kind in ([own.precision] if own.max_drop is None else targets.load(name).precisions)
    ]
    targets.require_used(asked, chosen.min_os, chosen.calib_samples)
    checkpoint.require_done()
    refuse_link(checkpoint.exports)
    sweep(checkpoint.exports)
    if len(each) > 1:
        side_by_side.run(checkpoint.path, each, progress or (lambda line: None), trust=trust)
        return [Manifest.read(checkpoint.exports / name) for name in each]
    return [export_one(checkpoint, name, own, progress, trust) for name, own in each.items()]


def _check(options: ExportOptions) -> None:
    if (options.precision == AUTO) != (options.max_drop is not None):
        raise UsageError(
            "`precision` auto and `max_drop` need each other: so many points may it lose on validation",
            code="conflict",
            option="max_drop",
        )
    if options.max_drop is not None and not 0 <= options.max_drop < math.inf:
        raise UsageError(
            f"`max_drop` is {options.max_drop:g}: give a number of points, 0 or more",
            code="out-of-range",
            option="max_drop",
        )
    if options.packing not in PACKINGS:
        raise UsageError(
            f"there is no packing {options.packing!r}: choose {' or '.join(PACKINGS)}",
            code="unknown-name",
            option="packing",
        )
    if options.precision == AUTO and options.packing == NO_PACKING:
        raise UsageError(
            "`precision` auto compares packed files: with `packing` none, say which precision",
            code="conflict",
            option="packing",
        )


@one_model()
def export_one(
    checkpoint: Checkpoint | Path | str,
    name: str,
    options: ExportOptions,
    progress: Callable[[str], None] | None = None,
    trust: Trust = False,
) -> Manifest:
    """`export` for one target, in this process."""
    from dwindle.models.build import restore, restore_dense
    from dwindle.models.tasks import restore_task

    say = progress or (lambda line: None)
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.load(checkpoint)
    task, net = restore_task(checkpoint, trust), restore(checkpoint, trust)
    example = task.example_inputs()

    def at(precision: str | None, say: Callable[[str], None]) -> Target:
        return calibrated(targets.load(name, precision, options.min_os), task, options.calib_samples, say)

    precision = options.precision
    if options.max_drop is not None:
        dense, possible = checkpoint.history[0].validation, targets.load(name).precisions
        silent = {kind: at(kind, lambda line: None) for kind in possible}
        precision = smallest(
            {kind: target.packer(net, example)(net) for kind, target in silent.items()},
            lambda kind: as_file(silent[kind], net, example),
            task,
            dense,
            options.max_drop,
            lambda line: say(f"{name}: {line}"),
        )
    target = at(precision, lambda line: say(f"{name}: {line}"))
    target = facing(target, task, options.image_input, options.classes, lambda line: say(f"{name}: {line}"))
    real = task.inputs("validation")
    trained = {"net": net, "dense": restore_dense(checkpoint, trust)}
    networks = {name: (module, deployable(module, example)) for name, module in trained.items()}
    return export_networks(networks, example, real, checkpoint.exports / target.name, target, progress, options.packing)


def export_networks(
    networks: Mapping[str, tuple[nn.Module, nn.Module]],
    example: tuple[Tensor, ...],
    real: tuple[Tensor, ...],
    folder: Path,
    target: Target,
    progress: Callable[[str], None] | None = None,
    packing: str = PACKINGS[0],
) -> Manifest:
    """Writes one target's folder.

    networks: `net` and `dense`, each as trained (in eval mode, on the CPU) and as it ships (`deployable`).
    example: what a network takes, a batch of one. real: samples to compare with. Raises as `export` does.
    """
    say = progress or (lambda line: None)
    roles = {"net": target, "dense": type(target)()}
    packs = {"net": packing != NO_PACKING, "dense": False}
    encodings: dict[str, str] = {}
    download: Future[File] | None = None
    found: dict[str, Compared] = {}
    if note := getattr(target, "note", None):
        say(f"{target.name}: {note}")
    with staged(folder, written(folder)) as scratch, ThreadPoolExecutor(1) as beside:
        scratch.mkdir()
        for name, (module, shipped) in networks.items():
            path = scratch / f"{name}{target.suffix}"
            say(f"{target.name}: writing {path.name}")
            encodings[name] = roles[name].write(shipped, example, path, pack=packs[name])
            if name == "net" and getattr(target, "zstd", False):
                download = beside.submit(_download, path)
            try:
                found[name] = compare(roles[name], path, module, shipped, real)
            except ParityFailed as error:
                rejected = _keep(path, folder)
                raise ParityFailed(f"{target.name}: {error}; the file is kept as {rejected}") from error
        manifest = Manifest(
            target=target.name,
            precision=target.precision,
            encoding=encodings["net"],
            file=File.of(scratch / f"net{target.suffix}"),
            dense=File.of(scratch / f"dense{target.suffix}"),
            parity=found["net"].parity,
            download=download.result() if download else None,
            versions={"dwindle": dwindle.__version__, **{name: version(name) for name in target.packages}},
            dense_precision=roles["dense"].precision,
            packing=packing,
            calibration_samples=_calibrated_on(target),
            quality=quality(networks["net"][1], target.precision, found["net"]),
        )
        manifest.write(scratch)
    say(f"{target.name}: {_summary(manifest)}")
    if manifest.quality:
        say(f"{target.name}: {sentence(manifest.quality, manifest.precision)}")
    return manifest


def _calibrated_on(target: Target) -> int | None:
    if not isinstance(target, Calibrated) or not target.calibrates or target.samples is None:
        return None
    return len(target.samples[0])


def _download(path: Path) -> File:
    """Compresses a file by Zstandard, beside it; what is packed in no other way is then as small as it gets."""
    import zstandard

    content = path.read_bytes()
    packed = path.with_name(f"{path.name}.zst")
    packed.write_bytes(zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(content))
    if zstandard.decompress(packed.read_bytes()) != content:
        raise ParityFailed(f"{packed.name} does not unpack to {path.name}")
    return File.of(packed)


def _keep(path: Path, folder: Path) -> Path:
    """Keeps a file that failed, where nothing takes it for an export."""
    rejected = folder / f"{path.name}.rejected"
    folder.mkdir(parents=True, exist_ok=True)
    if rejected.is_dir():
        shutil.rmtree(rejected)
    shutil.move(path, rejected)
    return rejected


def _summary(manifest: Manifest) -> str:
    sizes = f"{format_bytes(manifest.file.bytes)}, dense {format_bytes(manifest.dense.bytes)}"
    if manifest.download:
        sizes += f"; {format_bytes(manifest.download.bytes)} to download as {manifest.download.name}"
    parity = manifest.parity
    if parity.relative is None:
        return f"{sizes}; {parity.not_run}"
    by = f", run by {parity.run_by}" if parity.run_by else ""
    return f"{sizes}; within {parity.relative:.1e} of the checkpoint over {parity.samples} samples{by}"
