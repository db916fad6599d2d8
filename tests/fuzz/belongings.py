"""Files of the user's in all the places where dwindle writes, replaces or clears away; and what is left of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from dwindle import checkpoint as store
from dwindle.bench.result import Bench
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import DwindleError
from dwindle.files import staged, walk
from dwindle.lock import locked
from dwindle.manifest import written
from dwindle.record import Cuts, Round
from dwindle.saved_rounds import save_round
from tests.fuzz import arrange

MINE = "the user's own"


def _export(net: Path) -> None:
    """The export is written anew, as `dwindle export` does."""
    folder = net / "exports/onnx"
    with staged(folder, written(folder)) as scratch:
        scratch.mkdir()
        for name in ("net.onnx", "dense.onnx"):
            (scratch / name).write_text("new")


def _bench(net: Path) -> None:
    Bench.load(net / "bench.json").save(net / "bench.json")


def _report(net: Path, out: str | None = None) -> None:
    main(["report", str(net), *(["-o", str(net / out)] if out else [])])


def _start(net: Path) -> None:
    """The command that made it, again: it clears away what a finished run needs no more."""
    with locked(net):
        store.start(net, Checkpoint.load(net).origin)


def _rounds(net: Path) -> None:
    """A run goes on: rounds that nothing needs any more are removed, then it ends."""
    first = Round(0, 1.0, 10, 90.0, 0.1, 1.0)
    with locked(net):
        opened = store.start(net, Checkpoint.load(net).origin)
        for index in range(4):
            save_round(net, replace(first, index=index), (), Cuts(), {"weights": {}})
        store.finish(replace(opened, done=True, history=(first,)), {"weights": {}}, {})


def _elsewhere(net: Path) -> Path:
    folder = net.parent / "elsewhere"
    folder.mkdir()
    (folder / "mine.txt").write_text(MINE)
    return folder


def _own(net: Path, *names: str) -> None:
    for name in names:
        (net / name).parent.mkdir(parents=True, exist_ok=True)
        (net / name).write_text(MINE)


def _link(net: Path, name: str, to: str | None = None) -> None:
    """`name` in the checkpoint becomes a link to a folder of the user's, or to a file there."""
    folder, path = _elsewhere(net), net / name
    if path.is_dir() and not path.is_symlink():
        path.rename(net.parent / "aside")
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(folder / to if to else folder)


def _link_bench(net: Path) -> None:
    to = _elsewhere(net) / "bench.json"
    (net / "bench.json").rename(to)
    (net / "bench.json").symlink_to(to)


ARRANGEMENTS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "exports/onnx is a link to a folder": (lambda net: _link(net, "exports/onnx"), _export),
    "own files inside exports/onnx": (lambda net: _own(net, "exports/onnx/notes.txt", "exports/onnx/a/b.txt"), _export),
    "an own folder exports/onnx with a net.onnx": (
        lambda net: ((net / "exports/onnx/manifest.json").unlink(), _own(net, "exports/onnx/net.onnx")),  # type: ignore[func-returns-value]
        _export,
    ),
    "own files beside exports/onnx": (lambda net: _own(net, "exports/mine.txt", "exports/onnx.bak/a.txt"), _export),
    "an own hidden folder that looks like scratch": (lambda net: _own(net, ".notes.abcd1234/notes"), _start),
    "an own folder that looks more like scratch": (lambda net: _own(net, ".dwindle-abcd1234/new/notes"), _start),
    "such a folder beside a write": (lambda net: _own(net, "exports/.onnx.abcd1234/onnx"), _export),
    "own files inside rounds": (lambda net: _own(net, "rounds/mine.txt", "rounds/000/mine.txt"), _rounds),
    "own numbered folders inside rounds": (lambda net: _own(net, "rounds/2024-a/a.txt", "rounds/007/a.txt"), _rounds),
    "rounds is a link to a folder": (lambda net: _link(net, "rounds"), _rounds),
    "rounds is a link, and the run is finished": (lambda net: _link(net, "rounds"), _start),
    "report.html is a link": (lambda net: _link(net, "report.html", "mine.txt"), _report),
    "bench.json is a link": (_link_bench, _bench),
    "own files at the top of the checkpoint": (lambda net: _own(net, "notes.txt", "data/a.csv", "weights.bak"), _start),
    "history.jsonl is a link": (lambda net: _link(net, "history.jsonl", "mine.txt"), _rounds),
    **{
        f"report -o {name}": (lambda net: None, partial(_report, out=name))
        for name in ("weights.safetensors", "checkpoint.json", "exports/onnx/net.onnx", "rounds/000")
    },
}
"""By what they are: how the user's files are arranged in a finished checkpoint, and what is done then."""


def lost(folder: Path, name: str, finished: Path, unfinished: Path) -> list[str]:
    """The files that one arrangement lost or changed; `finished` and `unfinished` are checkpoints to copy."""
    arranged, action = ARRANGEMENTS[name]
    net = arrange.copied(unfinished if action is _rounds else finished, folder / "net.dwindle")
    arranged(net)
    before = {file: file.read_bytes() for file in walk(folder)}
    with suppress(DwindleError):  # refused: then all must be as it was
        action(net)
    mine = {file for file, content in before.items() if content == MINE.encode() or "elsewhere" in file.parts}
    if name.startswith("report -o"):
        mine = set(before)
    return [str(file) for file in mine if not file.is_file() or file.read_bytes() != before[file]]
