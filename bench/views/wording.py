"""Figures as people read them, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dwindle.bench.files.contents import Contents
from dwindle.bench.result import DENSE, Picture, Row, RuntimeUsed, drop, smaller
from dwindle.metrics import ACCURACY, NOTABLE_LOSS, change
from dwindle.quantities import format_bytes, format_ms, format_names

ABSENT = "–"
_NAMES = {
    "memory_bytes": "memory",
    "latency.cpu_median": "thread-CPU time",
    "compare": "latency ratio",
    "cost": "ARM64 cost",
    "parity": "outputs beside those here",
    "cost.network_macs": "MACs of the layers",
    "cost.relative": "ARM64 parity",
    "cost.sparse": "sparse kernels",
    "accuracy.top1": "top-1",
    "accuracy.top5": "top-5",
}
_UNSHOWN = ("latency.median", "latency.p95", "latency.cpu_min")
"""In bench.json only, as figures and as reasons; a noisy run's reasons say the same."""

EVEN = 0.05
"""A file whose time differs by less than this share from the dense file's is called neither faster nor slower."""


@dataclass(frozen=True)
class Cells:
    """One row's figures, ABSENT where there is none."""

    bytes: str
    download: str
    fetched: str
    """As what it is downloaded, where that isn't the file deflated: `pte.zst`."""
    smaller: str
    """Than the same target's dense file."""
    accuracy: str
    interval: str
    change: str
    """In points, against the dense file."""
    time: str
    ratio: str
    ci95: str
    load: str
    """The time to load the file."""
    memory: str
    noise: str
    worse: bool
    """Whether it loses NOTABLE_LOSS against the dense file."""
    slower: bool
    """Whether it takes longer than the dense file, by more than EVEN for certain."""


def cells(row: Row, rows: Iterable[Row]) -> Cells:
    """A row's figures in words; its drop is against the dense file's row among `rows`."""
    accuracy, compare, noise, lost = row.accuracy, row.compare, row.noise, drop(row, rows)
    comparable = change(0, accuracy.metric if accuracy else ACCURACY) is None
    return Cells(
        bytes=format_bytes(row.artifact.bytes),
        download=format_bytes(row.artifact.download_bytes),
        fetched=(name.partition(".")[2] if row.artifact.fetched and (name := row.artifact.fetched[1]) else ""),
        smaller=f"{ratio:.1f}×" if (ratio := smaller(row, rows)) else ABSENT,
        accuracy=f"{accuracy.value:.2f}" if accuracy else ABSENT,
        interval=interval(accuracy.interval, 1) if accuracy and accuracy.interval else "",
        change=ABSENT if lost is None else signed(-lost),
        time=format_ms(typical) if row.latency and (typical := row.latency.typical) is not None else ABSENT,
        ratio=f"{compare.ratio:.3f}" if compare else ABSENT,
        ci95=interval(compare.ci95, 3) if compare else "",
        load=format_ms(row.latency.load) if row.latency else ABSENT,
        memory=format_bytes(row.memory_bytes) if row.memory_bytes is not None else ABSENT,
        noise=("quiet" if noise.quiet else "noisy") if noise else ABSENT,
        worse=lost is not None and comparable and lost > NOTABLE_LOSS,
        slower=compare is not None and compare.ci95[0] > 1 + EVEN,
    )


def answers(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """What became of the classes and of the outputs, each sentence once with the files that it is true of."""
    listed = list(rows)
    found: dict[str, list[Row]] = {}
    for say in (_top5, _changed, _near, _compared):
        for row in listed:
            if said := say(row):
                found.setdefault(said, []).append(row)
    return [(_whose(own, listed), said) for said, own in found.items()]


def pictured(rows: Iterable[Row]) -> list[tuple[str, tuple[Picture, ...]]]:
    """The samples that changed class, as pictures, each set once with the files that changed it so."""
    listed = list(rows)
    found: dict[tuple[Picture, ...], list[Row]] = {}
    for row in listed:
        if row.agreement and row.agreement.pictures:
            found.setdefault(row.agreement.pictures, []).append(row)
    return [(_whose(own, listed), pictures) for pictures, own in found.items()]


def _whose(some: list[Row], rows: list[Row]) -> str:
    """Which rows those are, of several."""
    compressed = [row for row in rows if row.role != DENSE]
    if len(rows) > 2 and some == rows:
        return "every file"
    if len(compressed) > 1 and some == compressed:
        return "every compressed file"
    return ", ".join(
        f"{row.target} {row.role} in {row.runtime.place}" if row.runtime.place else f"{row.target} {row.role}"
        for row in some
    )


def _changed(row: Row) -> str:
    """How far a file's classes are the dense file's, in a sentence; empty where it isn't known."""
    same = row.agreement
    if same is None:
        return ""
    if not same.changed:
        return f"every one of {same.n} samples in the dense file's class"
    some = ", ".join(map(str, same.samples)) + (", …" if same.changed > len(same.samples) else "")
    test = same.mcnemar
    return (
        f"{same.changed} of {same.n} samples in another class than the dense file's (agreement {same.value:.2f}%, "
        f"{interval(same.interval, 1)}; samples {some}): {test.lost} now wrong, {test.won} now right, "
        f"McNemar's exact p = {test.p:.2g}"
    )


def _near(row: Row) -> str:
    """How near a file's outputs are to the dense file's, in a sentence; empty where classes are compared."""
    if row.outputs is None:
        return ""
    each = ", ".join(f"{name} {sqnr:.1f} dB" for name, sqnr in row.outputs.sqnr.items())
    return f"SQNR against the dense file on {row.outputs.n} samples: {each}"


def _compared(row: Row) -> str:
    """How far a device's outputs are from those here, in a sentence; empty where nobody looked."""
    same = row.parity
    if same is None:
        return ""
    if same.relative == 0:
        return f"outputs equal to {same.reference}'s here, on {same.samples} samples"
    return f"outputs within {same.relative:.0e} of {same.reference}'s here, on {same.samples} samples"


def together(said: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Who said what, each sentence once with all who said it."""
    found: dict[str, list[str]] = {}
    for who, what in said:
        found.setdefault(what, []).append(who)
    return [(", ".join(dict.fromkeys(who)), what) for what, who in found.items()]


def noisy(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Whose runs can't be believed, and why: a pair of files met the same."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.noise and not row.noise.quiet:
            runs.setdefault((row.target, row.runtime.place), []).append(row)
    return [
        (f"{target} {who} in {place}", what)
        for (target, place), own in runs.items()
        for who, what in together((row.role, "; ".join(row.noise.reasons)) for row in own if row.noise)
    ]


def _top5(row: Row) -> str:
    """`top-5 99.72 (98.4–100.0)`; empty where it isn't known."""
    share = row.accuracy.top5 if row.accuracy else None
    return f"top-5 {share.value:.2f} ({interval(share.interval, 1)})" if share else ""


def signed(points: float) -> str:
    """`−0.70`, `+0.20`, `0.00`, with a true minus sign."""
    rounded = round(points, 2)
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def interval(bounds: tuple[float, float], digits: int) -> str:
    """`0.321–0.325`."""
    return "–".join(f"{bound:.{digits}f}" for bound in bounds)


def runtime_name(row: Row) -> str:
    """`onnxruntime 1.32.0`, `executorch 1.5.1, native runner, on ssh://pi@board (Cortex-A76, 4 cores, Linux 6.6)`."""
    used = row.runtime
    name = " ".join(part for part in (used.name, used.version) if part)
    threads = f"{used.threads} threads" if used.threads > 1 else None
    return ", ".join(part for part in (name, used.through, threads, _device(used)) if part) or ABSENT


def runtime_briefly(row: Row) -> str:
    """As `runtime_name`, without what its device is."""
    return runtime_name(replace(row, runtime=replace(row.runtime, machine=None)))


def machines(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """The devices that rows are of, and what each is."""
    found = {row.runtime.device: row.runtime.machine for row in rows if row.runtime.device and row.runtime.machine}
    return [(device, f"{one.cpu}, {one.cores} cores, {one.system}") for device, one in found.items()]


def _device(used: RuntimeUsed) -> str | None:
    if not used.device:
        return None
    if not used.machine:
        return f"on {used.device}"
    return f"on {used.device} ({used.machine.cpu}, {used.machine.cores} cores, {used.machine.system})"


def gaps(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    """What is not known and why, once per reason: (files, figures, reason)."""
    found: dict[str, tuple[dict[str, list[str]], list[str]]] = {}
    for row in rows:
        for figure, reason in row.reasons.items():
            if figure in _UNSHOWN or (row.role == DENSE and figure in ("compare", "agreement")):
                continue  # the baseline has no ratio to itself
            if figure == "accuracy.top5" and row.accuracy and row.accuracy.top1:
                continue  # of five classes or fewer it would be no figure
            targets, figures = found.setdefault(reason, ({}, []))
            for name, names in (
                (row.role, targets.setdefault(row.target, [])),
                (_NAMES.get(figure, figure), figures),
            ):
                if name not in names:
                    names.append(name)
    return [
        (
            ", ".join(target if len(roles) > 1 else f"{target} {roles[0]}" for target, roles in targets.items()),
            ", ".join(figures),
            reason,
        )
        for reason, (targets, figures) in found.items()
    ]


def described(name: str, found: Contents) -> list[str]:
    """What is in a model file, in a few lines."""
    weights = (
        ", ".join(f"{format_bytes(size)} {storage}" for storage, size in found.weights.items())
        or "none apart from the rest"
    )
    line = f"{name}: {found.format}, {format_bytes(found.bytes)} ({found.bytes:,}); weights: {weights}"
    if found.opaque:
        line += f"; {found.opaque} holds weights in a form that isn't read"
    elif found.packable:
        line += f"; {found.zeros:.1%} of them are zero, and packing those would save {format_bytes(found.packable)}"
    called = sorted(found.operators.items(), key=lambda item: -item[1])
    lines = [line, f"  operators: {format_names([f'{kind} ×{n}' for kind, n in called]) or ABSENT}"]
    if found.undelegated is not None:
        lines[-1] += f"; calls outside of delegates: {sum(found.undelegated.values())}"
    sides = (", ".join(map(str, side)) or "–" for side in (found.inputs, found.outputs))
    return [*lines, f"  {' → '.join(sides)}"]
