"""What a profile predicts of exported files, by the layers that their manifests list: nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dwindle.bench.prices.predicting import Prediction, fitting
from dwindle.bench.prices.profile import CPU_TIME, Profile
from dwindle.bench.result import COMPRESSED, DENSE, HOST, Bench, Predicted, Row
from dwindle.errors import UsageError
from dwindle.manifest import Manifest
from dwindle.price import shapes_of


def predict(profile: Profile, where: str, manifest: Manifest, role: str = COMPRESSED) -> Prediction:
    """The time of an exported file, DENSE or COMPRESSED. Zeros among its weights count as any other weight.

    where: the profile as it was given, for messages. Raises UsageError where the profile is not of such files, and for
    a file whose layers aren't known.
    """
    layers, precision, file = manifest.layers, manifest.precision, manifest.file
    if role == DENSE:
        layers = layers if manifest.dense_layers is None else manifest.dense_layers
        precision, file = manifest.dense_precision or precision, manifest.dense
    predictor = fitting(profile, where, manifest.target, precision)
    if not layers:
        raise UsageError(
            f"the manifest of {file.name} lists no layers to predict its time from, as those of older versions of "
            "dwindle don't: run `dwindle export` again",
            code="no-layers",
            path=Path(file.name),
        )
    return predictor.network(shapes_of(layers))


def predictions(
    bench: Bench, exported: Sequence[tuple[Path, Manifest]], profile: Profile, where: str
) -> tuple[Predicted, ...]:
    """What a profile predicts of every exported file, beside what was measured on the profile's own device."""
    return tuple(
        _predicted(row, bench, manifest, profile, where)
        for _, manifest in exported
        for role in (DENSE, COMPRESSED)
        for row in bench.find(manifest.target, role)[:1]
    )


def _predicted(row: Row, bench: Bench, manifest: Manifest, profile: Profile, where: str) -> Predicted:
    try:
        found, reason = predict(profile, where, manifest, row.role), None
    except UsageError as error:
        found, reason = None, str(error)
    return Predicted(
        path=row.artifact.path,
        target=row.target,
        role=row.role,
        profile=where,
        device=profile.device,
        ms=found.ms if found else None,
        interval=(found.low, found.high) if found else None,
        measured=next(_measured(bench, row.target, row.role, profile), None) if found else None,
        reason=reason,
        note=profile.source,
    )


def _measured(bench: Bench, target: str, role: str, profile: Profile) -> Iterator[float]:
    """The times of a file on the device that a profile is of, by its runtime, its threads and its clock."""
    for row in bench.find(target, role):
        machine = (row.runtime.machine if row.runtime.device else bench.machine) or bench.machine
        # A profile that stands for a kind of device says which CPU that is; of any other its own device counts.
        there = profile.source is not None or (row.runtime.device or HOST) == profile.device
        same = (row.runtime.name, row.runtime.threads) == (profile.runtime, profile.threads)
        if not (there and same and machine.cpu == profile.machine.cpu and row.latency):
            continue
        ms = row.latency.cpu_median if profile.clock == CPU_TIME else row.latency.median
        if ms is not None:
            yield ms
