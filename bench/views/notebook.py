"""What was found as a pandas data frame and as a matplotlib figure, each by one call."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dwindle.bench.result import Bench, Row, drop, smaller
from dwindle.bench.views.axes import interval
from dwindle.checkpoint import Checkpoint
from dwindle.errors import RuntimeUnavailable

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]
    from matplotlib.axes import Axes


def frame(found: Checkpoint | Bench) -> pandas.DataFrame:
    """A data frame of the rounds of a checkpoint, or of what bench measured.

        >>> rounds = frame(Checkpoint.load("net.dwindle"))
        >>> rounds[["density", "bytes", "validation"]].tail(1)

    found: a checkpoint, whose rounds become rows by their `index` with the fields of `dwindle.record.Round`; or a
    Bench, with a row per file and runtime: bytes, points of the test metric, milliseconds, and None where a figure is
    absent. Raises RuntimeUnavailable where pandas is not installed.
    """
    table = _needed("pandas").DataFrame
    if isinstance(found, Checkpoint):
        return table([asdict(one) for one in found.history]).set_index("index")
    return table([_facts(row, found.rows) for row in found.rows])


def plot(found: Checkpoint | Bench, axes: Axes | None = None) -> Axes:
    """Draws accuracy against size: of a checkpoint its rounds, of a Bench its files.

        >>> plot(Checkpoint.load("net.dwindle")).figure.savefig("frontier.png")

    found: what is drawn. axes: what it is drawn into; new axes where it is None. Returns the axes. Sizes are on a log
    scale, in bytes, or of rounds without bytes the density. An accuracy has its 95% interval where it is known of how
    many samples it is. Raises RuntimeUnavailable without matplotlib.
    """
    axes = axes or _needed("matplotlib.pyplot").subplots()[1]
    if isinstance(found, Checkpoint):
        counted = all(one.bytes for one in found.history)
        sizes = [float(one.bytes or 0) if counted else one.density for one in found.history]
        axes.plot(sizes, [one.validation for one in found.history], marker="o")
        known = [(size, *ends) for size, one in zip(sizes, found.history, strict=True) if (ends := interval(one))]
        if known:
            at, lows, highs = zip(*known, strict=True)
            axes.fill_between(at, lows, highs, alpha=0.15, linewidth=0)
        axes.set_ylabel(f"validation {found.metric}")
        axes.set_xlabel("bytes of the file that would ship" if counted else "density")
    else:
        drawn = [(row, row.accuracy) for row in found.rows if row.accuracy]
        for row, accuracy in drawn:
            marker = "o" if row.role == "compressed" else "x"
            around = [[abs(accuracy.value - end)] for end in accuracy.interval] if accuracy.interval else None
            axes.errorbar(row.artifact.bytes, accuracy.value, around, fmt=marker, label=f"{row.target} {row.role}")
        axes.set_ylabel(f"test {drawn[0][1].metric}" if drawn else "test metric")
        axes.set_xlabel("bytes of the file")
        if drawn:
            axes.legend()
    axes.set_xscale("log")
    return axes


def _facts(row: Row, rows: tuple[Row, ...]) -> dict[str, Any]:
    return {
        "target": row.target,
        "role": row.role,
        "precision": row.precision,
        "runtime": row.runtime.place,
        "bytes": row.artifact.bytes,
        "download_bytes": row.artifact.download_bytes,
        "smaller": smaller(row, rows),
        "metric": row.accuracy.metric if row.accuracy else None,
        "test": row.accuracy.value if row.accuracy else None,
        "lost": drop(row, rows),
        "milliseconds": row.latency.typical if row.latency else None,
        "load_milliseconds": row.latency.load if row.latency else None,
        "ratio": row.compare.ratio if row.compare else None,
        "memory_bytes": row.memory_bytes,
        "instructions": row.cost.instructions.get("all") if row.cost else None,
    }


def _needed(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise RuntimeUnavailable(
            f"{package} is not installed: pip install 'dwindle[notebook]'", code="not-installed", name=package
        ) from error
