"""The report: one HTML page that needs no network, about whatever a checkpoint holds by now."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from dwindle.bench.devices.registry import unreached
from dwindle.bench.files.contents import contents, is_model_file
from dwindle.bench.result import COMPRESSED, DENSE, Bench, Row, drop, smaller
from dwindle.bench.rows import blank_rows, untried
from dwindle.bench.views.axes import interval
from dwindle.bench.views.chart import frontier
from dwindle.bench.views.cost_words import cost_cells, legend
from dwindle.bench.views.predicted_words import predicted_cells, predicted_notes, predicted_title
from dwindle.bench.views.summary import findings, main_row, next_step
from dwindle.bench.views.treemap import treemap
from dwindle.bench.views.why import why_rows
from dwindle.bench.views.wording import (
    answers,
    cells,
    gaps,
    machines,
    noisy,
    pictured,
    runtime_briefly,
    signed,
)
from dwindle.checkpoint import Checkpoint, require_not_sealed
from dwindle.errors import DwindleError
from dwindle.files import staged
from dwindle.layers import layers
from dwindle.manifest import Manifest, manifests
from dwindle.metrics import SQNR, named, value_of
from dwindle.origin import command_line, goal
from dwindle.quantities import format_bytes, format_ms, format_seconds
from dwindle.record import flattened


def report(checkpoint: Checkpoint | Path | str, out: Path | str | None = None) -> Path:
    """Writes a page about one checkpoint to `out` (default: report.html in it) and returns the page's path.

        >>> report("net.dwindle")
        PosixPath('net.dwindle/report.html')

    What has not been exported or measured yet is said on the page. Raises CheckpointError for damaged
    files and DwindleError where `out` cannot be written.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.load(checkpoint)
    return render("page.html.jinja", _facts(opened), Path(out) if out is not None else opened.path / "report.html")


def render(template: str, facts: dict[str, Any], path: Path) -> Path:
    """Writes one of this folder's pages, filled in; raises DwindleError where it can't be written."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    ours = files(__package__)
    environment = Environment(
        loader=FunctionLoader(lambda name: (ours / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": _code,
        "id": id,
        "interval": interval,
        "shape": _shape,
        "size": format_bytes,
        "ms": format_ms,
        "seconds": format_seconds,
        "treemap": treemap,
    }
    require_not_sealed(path)
    page = environment.get_template(template).render(facts)
    with staged(path) as scratch:
        scratch.write_text(page, encoding="utf-8")
    return path


def _facts(opened: Checkpoint) -> dict[str, Any]:
    asked = goal(opened.origin)
    exported = sorted(manifests(opened.exports), key=lambda each: each[1].target != asked.target)  # its own first
    measured = Bench.load(opened.bench_path) if opened.bench_path.exists() else None
    rows = _rows(opened.path, exported, measured)
    predicted = measured.predicted if measured and all(measured.describes(each) for _, each in exported) else ()
    left = layers(opened)
    return {
        "title": opened.path.name,
        "checkpoint": opened,
        "lead": _lead(opened),
        "findings": (found := findings(rows, asked)),
        "next": next_step(found, shlex.quote(opened.path.name)),
        "summary": _summary(opened, main_row(rows, asked.target), rows),
        "charts": [frontier(opened.history, asked.size, *extent) for extent in CHARTS] if opened.history else [],
        "judged_on": next((record.samples for record in opened.history if interval(record)), None),
        "rows": [(row, cells(row, rows), runtime_briefly(row)) for row in rows],
        "first": {id(row) for row in {(row.target, row.role): row for row in reversed(rows)}.values()},
        "machines": machines(rows),
        "noisy": noisy(rows),
        "manifests": {manifest.target: manifest for _, manifest in exported},
        "largest": max((row.artifact.bytes for row in rows), default=1),
        "bars": _once_per_file(rows),
        "parts": _parts(exported),
        "spent": _spent(exported),
        "answers": answers(rows),
        "pictured": pictured(rows),
        "class_names": next((each.preprocessing.classes for _, each in exported if each.preprocessing), None),
        "layers": left,
        "widest": max((layer.before[0] for layer in left), default=1),
        "costs": [(row, shown) for row in rows if (shown := cost_cells(row))],
        "cost_legend": legend(rows),
        "predicted": [(one, predicted_cells(one)) for one in predicted],
        "predicted_title": predicted_title(predicted),
        "predicted_notes": predicted_notes(predicted),
        "gaps": [*gaps(rows), *unreached(rows)],
        "machine": measured.machine if measured else None,
        "made": measured.made if measured else None,
        "command": command_line(opened.origin, opened.path.name),
        "origin": list(flattened(opened.origin).items()),
    }


CHARTS = ((1030, 420, "wide"), (400, 340, "narrow"))
"""Text in an SVG shrinks with it, so a phone gets its own."""


def _rows(root: Path, exported: list[tuple[Path, Manifest]], measured: Bench | None) -> list[Row]:
    """Bench's rows, or blank ones where its figures aren't of the files that are there."""
    rows: list[Row] = []
    for blank, (_, manifest) in zip(blank_rows(root, exported), exported, strict=True):
        if measured and measured.describes(manifest):
            rows += [row for row in measured.rows if row.target == manifest.target]
        else:
            why = "these files are newer than the last bench" if measured else "not benched yet"
            rows += [untried(row, f"{why}: run `dwindle bench {shlex.quote(str(root))}`") for row in blank]
    return rows


def _lead(opened: Checkpoint) -> str:
    """What was done, in a sentence."""
    origin = flattened(opened.origin)
    model = origin.get("model.spec", origin.get("model", "A network"))
    sentence = f"{model} on {origin.get('task.data') or origin.get('task.task', 'a task of its own')}"
    if opened.history and (rounds := opened.history[-1].index):
        done = "pruned" if opened.history[-1].loss is None else "pruned and retrained"
        by = f" by {origin['method']}" if origin.get("method") else ""
        sentence += f", {done}{by} in {rounds} {'round' if rounds == 1 else 'rounds'}"
    return f"{sentence}."


def _summary(opened: Checkpoint, main: Row | None, rows: list[Row]) -> list[tuple[str, str, str]]:
    """The few figures that matter most: (figure, what it is, beside it)."""
    found = []
    dense, last = (opened.history[0], opened.history[-1]) if opened.history else (None, None)
    if main:
        size = format_bytes(main.artifact.bytes)
        ratio = smaller(main, rows)
        found.append((size, f"{main.target} file", f"{ratio:.1f}× smaller than dense" if ratio else ""))
    elif dense and last and dense.bytes and last.bytes:
        found.append((format_bytes(last.bytes), "would ship", f"{dense.bytes / last.bytes:.1f}× smaller"))
    if last:
        found.append(
            (
                f"{last.density:.1%}",
                "of the weights left",
                f"after {last.index} {'round' if last.index == 1 else 'rounds'}",
            )
        )
    if main and (lost := drop(main, rows)) is not None and main.accuracy:
        metric = main.accuracy.metric
        beside = f"{signed(-lost)} {'dB' if metric == SQNR else 'points'} against the dense file"
        found.append((value_of(main.accuracy.value, metric), f"test {metric} of the file", beside))
    elif {"test", "dense_test"} <= opened.metrics.keys():
        after, before, metric = opened.metrics["test"], opened.metrics["dense_test"], opened.metric
        beside = f"{signed(after - before)} {'dB' if metric == SQNR else 'points'} against dense"
        found.append((value_of(after, metric), f"{named('test', metric)}, in PyTorch", beside))
    if main and main.compare:
        beside = f"95%: {main.compare.ci95[0]:.3f}–{main.compare.ci95[1]:.3f}"
        found.append((f"{main.compare.ratio:.3f}×", f"the dense file's time in {main.runtime.place}", beside))
    return found


def _once_per_file(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Targets with their files, however many runtimes ran each."""
    files = {(row.target, row.role): row for row in rows}
    targets = dict.fromkeys(row.target for row in rows)
    return [(target, [files[target, role] for role in (DENSE, COMPRESSED)]) for target in targets]


def _parts(exported: list[tuple[Path, Manifest]]) -> dict[str, list[tuple[str, int, float]]]:
    """What each target's compressed file consists of, where its manifest says: (part, bytes, share of the file)."""
    return {
        manifest.target: [(name, size, size / manifest.file.bytes) for name, size in asdict(manifest.breakdown).items()]
        for _, manifest in exported
        if manifest.breakdown
    }


def _spent(exported: list[tuple[Path, Manifest]]) -> list[tuple[str, list[tuple[str, str, str, float]]]]:
    """What the bytes of each target's compressed file are, layer by layer, of those that can be read."""
    files = [(manifest.target, folder / manifest.file.name) for folder, manifest in exported]
    found = []
    for target, path in files:
        if is_model_file(path):
            with suppress(DwindleError):
                found.append((f"the {target} file", why_rows(contents(path))))
    return found


_FLAG, _WHOLE = re.compile(r"(?<!\S)--[\w-]+"), r'<span class="flag">\g<0></span>'


def _code(said: str) -> Markup:
    """A sentence whose `commands` are shown as such, each flag of theirs on one line."""
    pieces = (str(escape(piece)) for piece in said.split("`"))
    shown = (f"<code>{_FLAG.sub(_WHOLE, piece)}</code>" if index % 2 else piece for index, piece in enumerate(pieces))
    return Markup("".join(shown))


def _shape(sizes: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in sizes)
