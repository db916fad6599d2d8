"""What a gate says of documents that were damaged or forged: `python -m studies.trust.gate 100000`.

Every case changes one document or one place of a checkpoint whose honest verdict is a miss, and asks for the verdict.
A pass is wrong unless the document was sealed again, which anybody can do, and now says plausible figures that hold the
limits. Whatever isn't a verdict or an error of dwindle's in one line is a traceback.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import shutil
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from dwindle.bench import Bench, gate
from dwindle.bench.baseline import network
from dwindle.bench.limits import ALL_KINDS, quantity
from dwindle.bench.result import COMPRESSED, DENSE, Accuracy, Compare, Cost, Latency, Machine, Noise, Row, RuntimeUsed
from dwindle.bench.rows import blank_rows
from dwindle.checkpoint import Checkpoint, finish, start
from dwindle.errors import DwindleError
from dwindle.manifest import File, Manifest, Parity, manifests
from dwindle.mask_files import pack_masks

MANIFEST, BENCH = "net.dwindle/exports/onnx/manifest.json", "net.dwindle/bench.json"
BASELINE, LIMITS, BOTH = "main.json", "budget.toml", "both.json"
SIZES = {"max_size": 10_000, "max_download": 30, "max_growth": 0.05}
"""Limits that the files on the disk miss, whatever a document says: they have 11,000 bytes, 10,000 on main."""
MEASURED = {"max_drop": 0.5, "min_accuracy": 97.0, "max_ratio": 0.7, "max_cost": 900_000}
"""Limits that the honest figures miss."""
HONEST = {
    "max_size": 11_000,
    "max_drop": 1.0,
    "min_accuracy": 96.3,
    "max_ratio": 0.75,
    "max_cost": 1e6,
    "max_latency": 4.4,
}
"""What the honest figures come to, for the limits that a file of limits may have."""
HOSTILE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 0.5, 1e9, -1e9, 1e308, math.inf, -math.inf, math.nan, 10**400, 2**63, 5e-324, "", "1",
    "NaN", "../net.onnx", "/etc/passwd", "a\0b", "\x1b[31m", "[/x]", "\ud800", "n" * 300, [], {}, [None], {"": None},
    [[[[[[]]]]]], ["onnx"] * 5,
)  # fmt: skip


@dataclass
class Counts:
    """How many cases ended in which way."""

    cases: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """The cases that passed and should not have."""
    tracebacks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ways = ", ".join(f"{word} {count}" for word, count in sorted(self.ended.items()))
        return f"gate: cases {self.cases}: {ways}; wrong passes {len(self.wrong)}, tracebacks {len(self.tracebacks)}"


def count(n: int, seed: int = 0) -> Counts:
    """Tries `n` cases drawn from `seed`, prints how they ended and returns it."""
    counts = Counts()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        arrange(root)
        for index in range(n):
            _try(root, random.Random(f"{seed} {index}"), f"seed {seed}, case {index}", counts)
    print(counts)
    for said in (*counts.wrong[:20], *counts.tracebacks[:20]):
        print(f"  {said}")
    return counts


def arrange(root: Path) -> None:
    """A checkpoint with one export and a bench of it, a baseline, and a file of limits; a bench on a board, too."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    origin = {"target": "onnx", "model": {"spec": "mine:net"}, "task": {"data": "digits"}}
    fresh = start(root / "net.dwindle", origin, {"dwindle": "0"})
    weights = {"weights": module.state_dict(), "dense": module.state_dict(), "masks": pack_masks({})}
    opened = finish(fresh, weights, {"test": 96.3, "dense_test": 97.3})
    exported = opened.exports / "onnx"
    exported.mkdir(parents=True)
    for name, size in (("dense.onnx", 20_000), ("net.onnx", 10_000)):
        (exported / name).write_bytes(random.Random(name).randbytes(size))
    parity = Parity(1e-6, 1e-7, 1e-4, 1.0, 40, 2)
    for size, path in ((10_000, root / BASELINE), (11_000, opened.bench_path)):
        (exported / "net.onnx").write_bytes(random.Random(0).randbytes(size))
        file, dense = (File.of(exported / name) for name in ("net.onnx", "dense.onnx"))
        Manifest("onnx", "fp32", "bitmask", file, dense, parity, {"torch": "2"}).write(exported)
        here, board = ([_measured(row, device) for row in _blank(opened)] for device in (None, "ssh://pi@board"))
        machine = Machine("cpu", 2, "Linux", {"cpufreq": "performance"})
        bench = Bench(tuple(here), machine, 0, "2026-01-01T00:00:00+00:00", "0.1.0", network(opened))
        bench.save(path)
        replace(bench, rows=(*here, *board)).save(root / BOTH)
    (root / LIMITS).write_text(
        "[gate]\nmax_size = 10000\n[gate.onnx]\nmax_drop = 0.5\n[gate.device.host]\nmax_latency = 4\n"
    )


def _blank(opened: Checkpoint) -> Iterator[Row]:
    for pair in blank_rows(opened.path, manifests(opened.exports)):
        yield from pair


def _measured(row: Row, device: str | None) -> Row:
    compressed = row.role == COMPRESSED
    cost = Cost({"all": 1_000_000}, 0.5, 10, None, None, None, None, "onnxruntime 1", "qemu-user 10", "cortex-a76")
    return replace(
        row,
        runtime=RuntimeUsed("onnxruntime", "1.32", 1, device=device),
        latency=Latency(1, 1, 4.0, 4.0, 4.0, 4.0, 4.0, 6, 4, 9, (3.6, 4.4)),
        compare=Compare("exports/onnx/dense.onnx", 0.72, (0.70, 0.75), "median") if compressed else None,
        accuracy=Accuracy("accuracy", 96.3 if compressed else 97.3, 1000, (95.0, 98.5), "test"),
        noise=Noise(True, (), 1.0, 0.0, 0.0, 0.0, 0.5),
        cost=cost if compressed and device is None else None,
    )


def _try(root: Path, draw: random.Random, label: str, counts: Counts) -> None:
    """One case: a change, the verdict, and everything as it was."""
    what = draw.choice((MANIFEST, MANIFEST, BENCH, BENCH, BENCH, BASELINE, LIMITS, "place"))
    counts.cases += 1
    if what == "place":
        with _Moved(root, draw) as described:
            _ask(root, SIZES, f"{label}: {described}", counts, allowed=lambda: False)
        return
    path = root / what
    before = path.read_bytes()
    if what == BENCH and draw.random() < 0.3:
        shutil.copy(root / BOTH, path)
    try:
        how, sealed = _changed(path, draw)
        wanted = SIZES if what in (MANIFEST, BASELINE) else MEASURED if what == BENCH else {}
        _ask(root, wanted, f"{label}: {what}, {how}", counts, allowed=lambda: _allowed(path, what, sealed))
    finally:
        path.write_bytes(before)


def _ask(root: Path, limits: dict[str, float], label: str, counts: Counts, allowed: Callable[[], bool]) -> None:
    """Each limit by itself, so that one which passes isn't hidden by another which doesn't."""
    asked: list[dict[str, Any]] = [{name: limit} for name, limit in limits.items()] or [{"limits": root / LIMITS}]
    for each in asked:
        given: dict[str, Any] = {**each, **({"baseline": root / BASELINE} if "max_growth" in each else {})}
        try:
            code = gate(root / "net.dwindle", **given).exit_code
        except DwindleError as error:
            counts.ended["refused"] += 1
            if "\n" in str(error) or not str(error):
                counts.tracebacks.append(f"{label}: {given}: not one sentence: {str(error)!r}")
            continue
        except Exception as error:
            counts.ended["traceback"] += 1
            counts.tracebacks.append(f"{label}: {given}: {type(error).__name__}: {error}")
            continue
        counts.ended[{0: "passed", 3: "missed", 5: "unmeasured"}[code]] += 1
        if code == 0 and not allowed():
            counts.wrong.append(f"{label}: {given}")


def _allowed(path: Path, what: str, sealed: bool) -> bool:
    """Whether a pass may be right: judged by the plainest means, on what the document says now."""
    if what == LIMITS:
        return _loosened(path)
    if not sealed or what == MANIFEST:
        return False
    rows = json.loads(path.read_text())["rows"]
    if what == BASELINE:
        sizes = [row["artifact"]["bytes"] for row in rows if row["role"] == COMPRESSED]
        return all(_plain(size, 10_000 / 1.05) for size in sizes)
    return all(_plausible(row, DENSE in str(row["role"])) for row in rows)


def _plausible(row: dict[str, Any], dense: bool) -> bool:
    """Whether a row's figures could be measured ones."""
    accuracy, compare, cost = row["accuracy"], row["compare"], row["cost"]
    fine = accuracy is None or (_plain(accuracy["value"], 0, 100) and _plain(accuracy["n"], 1))
    if not dense and compare:
        fine &= all(_plain(figure, 5e-324) for figure in (compare["ratio"], compare["ci95"][1]))
    if not dense and cost:
        fine &= _plain(cost["instructions"]["all"], 1)
    return fine


def _plain(value: Any, least: float, most: float = 1e300) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _loosened(path: Path) -> bool:
    """Whether the limits that the file has now are all ones that the honest figures hold."""
    tables = [tomllib.loads(path.read_text(encoding="utf-8"))["gate"]]
    found = []
    while tables:
        for name, value in tables.pop().items():
            if isinstance(value, dict):
                tables.append(value)
            else:
                found.append((name, value))
    return all(
        name in ALL_KINDS
        and (
            quantity(name, value) <= HONEST[name] if name.startswith("min_") else quantity(name, value) >= HONEST[name]
        )
        for name, value in found
    )


class _Moved:
    """A change of places rather than of documents: a copy of the export, or another file in its stead."""

    def __init__(self, root: Path, draw: random.Random) -> None:
        self.exports, self.draw = root / "net.dwindle/exports", draw
        self.kept = root / "kept"

    def __enter__(self) -> str:
        shutil.copytree(self.exports, self.kept)
        onnx = self.exports / "onnx"
        way = self.draw.choice(("copy", "rename", "swap", "shrink", "remove", "empty", "folder"))
        if way in ("copy", "rename"):
            name = self.draw.choice(("onnx.bak", "a", "zz", "executorch", ".onnx", "ONNX", "onnx "))
            shutil.copytree(onnx, self.exports / name)
            (onnx / "net.onnx").write_bytes(bytes(300_000)) if way == "copy" else shutil.rmtree(onnx)
        elif way == "swap":
            shutil.copy(onnx / "dense.onnx", onnx / "net.onnx")
        elif way == "folder":
            (onnx / "net.onnx").unlink()
            (onnx / "net.onnx").mkdir()
        elif way == "remove":
            (onnx / self.draw.choice(("net.onnx", "dense.onnx"))).unlink()
        else:
            (onnx / "net.onnx").write_bytes(b"" if way == "empty" else bytes(10))
        return way

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.exports)
        self.kept.rename(self.exports)


def _changed(path: Path, draw: random.Random) -> tuple[str, bool]:
    """Changes the document at `path`; how, and whether its seal is right again."""
    content = path.read_bytes()
    if path.suffix == ".toml" or draw.random() < 0.3:
        path.write_bytes(changed := _bytes(content, draw))
        return f"bytes {hashlib.sha256(changed).hexdigest()[:8]}", False
    document = json.loads(content)
    del document["sha256"]
    if "rows" in document and draw.random() < 0.4:
        how = _forged(document, draw)
    else:
        how = "; ".join(_leaf(document, draw) for _ in range(draw.choice((1, 1, 1, 2, 5))))
    text = json.dumps(document, sort_keys=True)
    sealed = draw.random() < 0.5
    seal = hashlib.sha256(text.encode()).hexdigest() if sealed else json.loads(content)["sha256"]
    if not sealed and json.loads(text) == {key: one for key, one in json.loads(content).items() if key != "sha256"}:
        sealed = True  # nothing was changed after all
    path.write_text(json.dumps({**document, "sha256": seal}))
    return f"{how}{' (sealed again)' * sealed}", sealed


def _forged(document: Any, draw: random.Random) -> str:
    """Writes a tempting figure into the compressed file's rows: one that could be measured, or one that couldn't."""
    rows = [row for row in document["rows"] if row["role"] == COMPRESSED]
    figure = draw.choice(("accuracy", "ratio", "cost", "bytes", "none"))
    wrong = draw.random() < 0.5
    for row in rows if draw.random() < 0.8 else rows[:1]:
        if figure == "accuracy":
            row["accuracy"] |= {"value": draw.choice((100.5, 1e9, 101)) if wrong else draw.uniform(97, 100)}
        elif figure == "ratio":
            low, high = draw.choice(((-2, -1), (0, 0), (0.9, 0.1), (-1, 0))) if wrong else (0.4, 0.6)
            row["compare"] |= {"ratio": draw.choice((-1.5, 0.5, 0)) if wrong else 0.5, "ci95": [low, high]}
        elif figure == "cost":
            row["cost"] = row["cost"] and row["cost"] | {
                "instructions": {"all": draw.choice((0, -5)) if wrong else 5_000}
            }
        elif figure == "bytes":
            row["artifact"] |= {"bytes": draw.choice((0, -1, math.inf, math.nan)) if wrong else 11_000}
        else:
            row[draw.choice(("accuracy", "compare", "cost"))] = None
    return f"forged {figure}, {'impossible' if wrong else 'possible'}"


def _bytes(content: bytes, draw: random.Random) -> bytes:
    at, end = draw.randrange(len(content)), draw.randrange(1, 40)
    way = draw.randrange(6)
    if way == 0:
        return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
    if way == 1:
        return content[:at]
    if way == 2:
        return content[:at] + content[at + end :]
    if way == 3:
        return content[:at] + content[at : at + end] * draw.choice((2, 50)) + content[at:]
    if way == 4:
        return content[:at] + draw.choice((b"\0", b"\xff", b"[" * 3000, b"9" * 5000, b'"', b"e", b"-")) + content[at:]
    digits = [index for index, byte in enumerate(content) if 48 <= byte <= 57]
    at = draw.choice(digits)
    return content[:at] + str(draw.randrange(10)).encode() + content[at + 1 :]


def _leaf(document: Any, draw: random.Random) -> str:
    """Changes one place of a document, in it."""
    places = list(_places(document))
    within, key = draw.choice(places)
    way = draw.choice(("replace", "replace", "replace", "delete", "rename", "swap", "nudge"))
    if way == "delete":
        del within[key]
    elif way == "rename" and isinstance(within, dict):
        within[draw.choice(("x", "", "bytes", "a\0b", str(key) * 2))] = within.pop(key)
    elif way == "swap":
        other, there = draw.choice(places)
        within[key], other[there] = other[there], within[key]
        for holder, at in ((within, key), (other, there)):
            if _loops(document):
                holder[at] = None
    elif way == "nudge" and isinstance(within[key], int | float):
        within[key] = within[key] * draw.choice((-1, 2, 0.5, 1e6, 1e-6)) + draw.choice((0, 1))
    else:
        within[key] = copy.deepcopy(draw.choice(HOSTILE))  # a later change of this place is not to change it
    return f"{way} {key}"


def _loops(document: Any) -> bool:
    """Whether a swap put something into itself."""
    try:
        json.dumps(document)
    except (ValueError, RecursionError):
        return True
    return False


def _places(document: Any, limit: int = 2_000) -> Iterator[tuple[Any, Any]]:
    """Every place of a document, as what holds it and its key there."""
    waiting = [document]
    while waiting and limit:
        within = waiting.pop()
        for key, value in list(within.items()) if isinstance(within, dict) else list(enumerate(within)):
            limit -= 1
            yield within, key
            if isinstance(value, dict | list) and value:
                waiting.append(value)


if __name__ == "__main__":
    found = count(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
    sys.exit(bool(found.wrong or found.tracebacks))
