"""One target's export: a checkpoint's network and its dense original, written, proven equal and described."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import dwindle
from dwindle.checkpoint import Checkpoint
from dwindle.errors import ParityFailed, UsageError
from dwindle.export import target_options, targets
from dwindle.export.answers import outputs_of
from dwindle.export.architecture import one_model
from dwindle.export.auto import smallest
from dwindle.export.coreml.interface import answering_probabilities, are_probabilities
from dwindle.export.facts import facts
from dwindle.export.finite import require_finite
from dwindle.export.first_off import named
from dwindle.export.fold import deployable
from dwindle.export.options import ExportOptions
from dwindle.export.parity import Compared, compare
from dwindle.export.patch import without_autocast
from dwindle.export.quality import quality, sentence
from dwindle.export.shipping import as_file, calibrated, labels, rounded, with_interface
from dwindle.export.steps import begin
from dwindle.export.target import CALIBRATED, ROUNDINGS, Target
from dwindle.export.zeros import Kind, block_rows
from dwindle.files import staged
from dwindle.manifest import File, Manifest, written
from dwindle.models.inputs import as_fed, taken
from dwindle.models.layerwise.shapes import calls
from dwindle.price import tally
from dwindle.quantities import format_bytes, format_left
from dwindle.signature import Signature, varying

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.models.trust import Trust
    from dwindle.preprocessing import Preprocessing

_log = logging.getLogger(__name__)

NO_PACKING = "none"
PACKINGS = ("auto", NO_PACKING)
"""How zeros are stored: as each target packs them, or like any other weight."""
_FEW = 16
"""Samples on which a network is seen to answer in logits or in probabilities."""
_ZSTD_LEVEL = 19
"""Zstandard's compression level. Higher ones take more memory to decompress as well."""


@one_model()
@without_autocast()
def export_one(
    checkpoint: Checkpoint | Path | str,
    name: str,
    options: ExportOptions,
    progress: Callable[[str], None] | None = None,
    trust: Trust = False,
) -> Manifest:
    """What `exporter.export` does for one target, in this process. Its arguments are those of `export`."""
    from dwindle.models.build import restore, restore_dense
    from dwindle.models.checked_task import CheckedTask
    from dwindle.models.kept import KeptSamples
    from dwindle.models.signature import flat
    from dwindle.models.tasks import restore_task

    say = progress or _log.info
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.load(checkpoint)
    if checkpoint.samples and options.data is None and options.max_drop is None:
        task = CheckedTask(KeptSamples(checkpoint.samples, checkpoint.preprocessing, checkpoint.signature))
        say(f"{name}: by the {len(task.inputs('validation')[0])} samples that the checkpoint keeps")
    else:
        task = restore_task(checkpoint, trust, options.data)
    net, dense = restore(checkpoint, trust), restore_dense(checkpoint, trust)
    signature = checkpoint.signature or task.signature(dense)
    signature = varying(signature, options.dynamic) if options.dynamic else signature
    targets.require_inputs(targets.load(name), signature)
    net, dense = flat(net, signature), flat(dense, signature)
    example = task.example_inputs()
    known = labels(task, options.classes) if targets.load(name).holds_metadata else ()
    about = {key: getattr(options, key) for key in ("author", "license", "model_version", "description")}
    said = facts(task.preprocessing, known, about)

    def at(precision: str | None, say: Callable[[str], None]) -> Target:
        plain = targets.load(name, precision, options.min_os).mixing(checkpoint.widths)
        if options.min_runtime is not None:
            runtime, oldest = target_options.runtime_version(options.min_runtime)
            plain = plain.for_runtime(runtime, oldest) if runtime in plain.runtimes else plain
        computing = plain if options.compute is None else plain.computing(options.compute)
        ranged = calibrated(computing, task, options.calib_samples, say).keeping(options.keep_float)
        by_samples = options.rounding == CALIBRATED
        chosen = rounded(ranged, task, options.calib_samples, say) if by_samples else ranged
        return chosen.described(said)

    precision = options.precision
    if options.max_drop is not None:
        reached, possible = (
            checkpoint.history[0].validation,
            targets.possible(name, options.min_os, mixed=bool(checkpoint.choices)),
        )
        silent = {kind: at(kind, lambda line: None) for kind in possible}

        def ships(kind: str) -> nn.Module:
            begin(f"judging net{silent[kind].suffix} at {kind}")
            return as_file(silent[kind], net, example)

        precision = smallest(
            {kind: target.packer(net, example)(net) for kind, target in silent.items()},
            ships,
            task,
            reached,
            options.max_drop,
            lambda line: say(f"{name}: {line}"),
        )
    target = at(precision, lambda line: say(f"{name}: {line}"))
    target = with_interface(target, task, options.image_input, options.classes, lambda line: say(f"{name}: {line}"))
    real = task.inputs("validation")
    if any(about.values()) and not target.holds_metadata:
        say(f"{name}: its files have no place for metadata, which was left out")
    few = tuple(as_fed(tensor[:_FEW]) for tensor in real)
    with taken(few, "validation"):
        outputs_of(dense.eval(), few)
    classifies = options.classes is not None and target.takes_interface
    softmax = classifies and not are_probabilities(outputs_of(dense.eval(), few)[0])
    if softmax:
        say(f"{name}: the network answers in logits, of which its files make probabilities by a softmax")
        net, dense = answering_probabilities(net), answering_probabilities(dense)
    trained = {"net": net, "dense": dense}
    networks = {name: (module, deployable(module, example)) for name, module in trained.items()}
    folder, how = checkpoint.exports / target.name, options.packing
    return export_networks(
        networks,
        example,
        real,
        folder,
        target,
        progress,
        how,
        unproven=options.unproven,
        tolerance=options.tolerance,
        preprocessing=task.preprocessing,
        keeps_rejected=options.keeps_rejected,
        signature=signature,
        softmax=softmax,
        zeros=_zeros(checkpoint, target) if how != NO_PACKING else (),
    )


def _zeros(checkpoint: Checkpoint, target: Target) -> tuple[str, ...]:
    """What the pruning of a checkpoint brings on a target, as `Manifest.zeros` has it."""
    masks, found = checkpoint.masks, []
    kept, whole = sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())
    if kept < whole:
        pattern: Kind = "n:m" if ":" in str(checkpoint.origin.get("granularity")) else "weights"
        found.append(("zeros", target.verdict(pattern, kept / whole, block_rows(masks))))
    if checkpoint.structure:
        found.append(("channels", target.verdict("channel", 1.0)))
    return tuple(f"{what}: {verdict.sentence()}" for what, verdict in found)


def export_networks(
    networks: Mapping[str, tuple[nn.Module, nn.Module]],
    example: tuple[Tensor, ...],
    real: tuple[Tensor, ...],
    folder: Path,
    target: Target,
    progress: Callable[[str], None] | None = None,
    packing: str = PACKINGS[0],
    *,
    unproven: bool = False,
    tolerance: float | None = None,
    preprocessing: Preprocessing | None = None,
    keeps_rejected: bool = True,
    signature: Signature | None = None,
    softmax: bool = False,
    zeros: tuple[str, ...] = (),
) -> Manifest:
    """Writes one target's folder, and returns its manifest.

    networks: by the names `net` and `dense`, each network as it was trained (in eval mode, on the CPU) and as it ships
    (`fold.deployable`). example: an input of the networks, a batch of one. real: the inputs on which files are compared
    with their networks. packing, unproven, tolerance, keeps_rejected: as in `ExportOptions`. preprocessing: how an
    image becomes an input, signature: the networks', softmax: whether one was added to them, zeros: what pruning
    brings, all for the manifest.
    Raises as `export` does.
    """
    say = progress or _log.info
    roles = {"net": target, "dense": target.original().described(target.metadata)}
    packs = {"net": packing != NO_PACKING, "dense": False}
    encodings: dict[str, str] = {}
    download: Future[File] | None = None
    found: dict[str, Compared] = {}
    if target.note:
        say(f"{target.name}: {target.note}")
    for module, _ in networks.values():
        require_finite(module, real)
    with staged(folder, written(folder)) as scratch, ThreadPoolExecutor(1) as background:
        scratch.mkdir()
        began = time.monotonic()
        for done, (name, (module, shipped)) in enumerate(networks.items()):
            path = scratch / f"{name}{target.suffix}"
            left = format_left(time.monotonic() - began, done, len(networks))
            say(f"{target.name}: writing {path.name}{left}")
            blamed = partial(named, target=roles[name], shipped=shipped, example=example, real=real, pack=packs[name])
            try:
                begin(f"looking at the values that {path.name} has to hold")
                roles[name] = roles[name].holding(shipped, example, real)
                if held := ", ".join(roles[name].fp32):
                    words = f"fp16 does not hold the values of {held}, which compute in fp32"
                    if target.rounds_activations:
                        words = f"{held} compute in float: they have no int8 form, or lose too much in it"
                    say(f"{target.name}: {words}")
                begin(f"writing {path.name}")
                encodings[name] = roles[name].write(shipped, example, path, pack=packs[name])
            except UsageError as error:
                raise blamed(error) from error.__cause__
            if name == "net" and target.zstd:
                download = background.submit(_download, path)
            try:
                found[name] = compare(roles[name], path, module, shipped, real, unproven=unproven, tolerance=tolerance)
            except ParityFailed as unnamed:
                failed, rejected = blamed(unnamed), _keep(path, folder) if keeps_rejected else None
                raise ParityFailed(
                    f"{target.name}: {failed}{f'; the file is kept as {rejected}' if rejected else ''}",
                    code=failed.code,
                    name=failed.name,
                    path=rejected,
                ) from unnamed
        layers = {name: tally(call.shape for call in calls(module, example)) for name, (_, module) in networks.items()}
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
            compute=target.compute,
            fp32=roles["net"].fp32,
            rounding=ROUNDINGS[target.rounding is not None],
            calibration_samples=len(target.samples[0]) if target.samples is not None else None,
            preprocessing=preprocessing,
            signature=signature,
            softmax=softmax,
            consumers=target.consumers(scratch / f"net{target.suffix}"),
            zeros=zeros,
            layers=layers["net"],
            dense_layers=layers["dense"] if layers["dense"] != layers["net"] else None,
            breakdown=target.breakdown(scratch / f"net{target.suffix}"),
            quality=quality(networks["net"][1], target.precision, found["net"]),
        )
        manifest.write(scratch)
    say(f"{target.name}: {_summary(manifest)}")
    if manifest.quality:
        say(f"{target.name}: {sentence(manifest.quality, manifest.precision)}")
    return manifest


def _download(path: Path) -> File:
    """Compresses a file by Zstandard, into a file beside it, for a download that the app decompresses."""
    import zstandard

    content = path.read_bytes()
    packed = path.with_name(f"{path.name}.zst")
    packed.write_bytes(zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compress(content))
    if zstandard.decompress(packed.read_bytes()) != content:
        raise ParityFailed(f"{packed.name} does not decompress to {path.name}", code="not-equal", path=packed)
    return File.of(packed)


def _keep(path: Path, folder: Path) -> Path:
    """Moves a file that failed parity to `folder`, under a name that nothing takes for an export; its new path."""
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
        return f"{sizes}; unproven: {parity.not_run}"
    by = f", run by {parity.run_by}" if parity.run_by else ""
    by += f", at {len(parity.sizes)} other sizes too" if parity.sizes else ""
    doubts = "".join(f"; {doubt}" for doubt in parity.doubts)
    return f"{sizes}; within {parity.relative:.1e} of the checkpoint over {parity.samples} samples{by}{doubts}"
