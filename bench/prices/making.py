"""`profile_device`: measures a set of layers and networks in a target's runtime on a device."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dwindle import registry
from dwindle.bench.devices.device import Device
from dwindle.bench.devices.registry import reach
from dwindle.bench.prices.designed import NETWORKS, NOTHING, REFERENCE, layers, network
from dwindle.bench.prices.fit import layer_errors, whole_errors
from dwindle.bench.prices.profile import SCHEMA, Layer, Profile, Timed, Whole
from dwindle.bench.prices.timing import times
from dwindle.bench.prices.writing import written_aside
from dwindle.bench.runtimes.runtime import Launcher
from dwindle.errors import RuntimeUnavailable
from dwindle.price import Shape, tally

FAINT = 0.3
"""A layer that adds less to what any file takes, as a share of that, is not told from noise: it is left out."""


def profile_device(
    where: str,
    target: str = "onnx",
    precisions: Sequence[str] = (),
    *,
    threads: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> Profile:
    """Measures how long layers and small networks take in a target's runtime on a device.

        >>> profile_device("ssh://pi@board", "litert").save(Path("board.json"))

    Args:
        where: the device: `host`, `ssh://…`, `adb://…`.
        target: whose files are timed, in the first runtime of the device that runs them.
        precisions: what they store weights in; by default the target's own, and w8a8 where it has that.
        threads: how many threads one inference uses.
        progress: called with sentences about how far it is.

    Raises UsageError for an unknown device, target or precision; RuntimeUnavailable where the device can't be reached,
    runs no such files or changes its speed while it is measured; WorkerFailed where it fails on a file.
    """
    kind = registry.resolve("dwindle.targets", target, "target")
    wanted = tuple(precisions) or (kind.precisions[0], *(one for one in kind.precisions if one == "w8a8"))
    device = reach(where)
    device.require_threads(threads)
    began, timed, drifts = time.monotonic(), [], []
    shapes = [NOTHING, *layers()]
    for precision in wanted:
        kind(precision)  # for its error
    with device, tempfile.TemporaryDirectory() as name:
        launcher = _launcher(device, target)
        progress(f"writing {len(shapes)} layers and {len(NETWORKS)} networks as {target} in {' and '.join(wanted)}")
        files = written_aside([REFERENCE, *shapes], NETWORKS, target, wanted, Path(name), progress)
        inside = [_inside(*one) for one in NETWORKS]
        for precision in wanted:
            reference, *others = files[precision]
            found = times(others, reference, launcher, f"{where} in {precision}", threads, progress)
            nothing, *own = found.ms
            singles = zip(shapes[1:], own[: len(shapes) - 1], strict=True)
            alone = [Layer(shape, ms - nothing) for shape, ms in singles if ms > (1 + FAINT) * nothing]
            wholes = [
                Whole(f"{model} {pixels}²", tally(inner), ms)
                for (model, pixels), inner, ms in zip(NETWORKS, inside, own[len(shapes) - 1 :], strict=True)
            ]
            errors = layer_errors(alone), whole_errors(alone, wholes)
            timed.append(Timed(precision, {str(one.shape): one.ms for one in alone}, tuple(wholes), *errors))
            drifts.append(found.drift)
        return Profile(
            schema=SCHEMA,
            target=target,
            runtime=launcher.name,
            version=found.version,
            device=device.url,
            machine=device.machine,
            threads=threads,
            clock=found.clock,
            made=datetime.now(UTC).isoformat("T", "seconds"),
            seconds=time.monotonic() - began,
            drift=max(drifts),
            timed=tuple(timed),
        )


def _launcher(device: Device, target: str) -> Launcher:
    """The device's first runtime of a target's files whose times count."""
    reasons = []
    for launcher in device.runtimes():
        if launcher.target != target or launcher.stand_in():
            continue
        if missing := launcher.check():
            reasons.append(str(missing))
        else:
            return launcher
    why = "; ".join(reasons) or f"nothing there runs {target} files"
    raise RuntimeUnavailable(f"{device.url} cannot be profiled for {target}: {why}", code="no-runtime", name=device.url)


def _inside(name: str, pixels: int) -> tuple[Shape, ...]:
    """The layers of one of the networks."""
    import torch

    from dwindle.models.layerwise.shapes import calls

    return tuple(call.shape for call in calls(network(name, pixels), (torch.zeros(1, 3, pixels, pixels),)))
