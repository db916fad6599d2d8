"""Mutations of every document and file of a checkpoint, each read by one of the commands that read it.

    python -m tests.fuzz.documents --count 20000 [--first 0]

A case follows from its index alone, so `--first N --count 1` repeats one. What must hold: the right answer, or one
sentence and a documented exit code; never a traceback, never an exception other than DwindleError, and never a file
changed by a command that only reads.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import json
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from dwindle import checkpoint as store
from dwindle import cli
from dwindle.compress.training import Progress
from dwindle.documents import parse
from dwindle.errors import DwindleError
from dwindle.files import sha256, walk
from dwindle.grammar import Grammar
from dwindle.mask_files import unpack_masks
from dwindle.models.build import restore, restore_dense
from dwindle.models.tasks import restore_task
from dwindle.saved_rounds import last_round, partial_round
from dwindle.sealed import read_tensors, sealed_json
from tests.fuzz import arrange

DONE, RUNNING = "done.dwindle", "running.dwindle"
FILES = (
    *(f"{DONE}/{name}" for name in ("checkpoint.json", "bench.json", "exports/onnx/manifest.json", "structure.json")),
    *(f"{DONE}/{stem}.safetensors" for stem in store.STEMS),
    f"{RUNNING}/checkpoint.json",
    *(f"{RUNNING}/rounds/{name}/round.json" for name in ("000", "partial")),
    f"{RUNNING}/rounds/000/weights.safetensors",
)
"""What is mutated. The JSON ones, which hold the most, have their turn more often."""
RAN = "ran"
"""A file that any code which a document names would leave."""
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.5, -0.5, 1e-320, 1e308, float("inf"), float("nan"),
    "", "x", "../..", "/etc/passwd", "\0", "\x1b[31m", "\ud800", "a" * 300, "[/x]", "<script>", "{0.__class__}", "%s",
    "evil:make", "subprocess:getoutput", "zoo:resnet8", "50%", [], [None], [[]], {}, {"a": 1}, {"task": "evil:make"},
)  # fmt: skip


@dataclass
class Outcome:
    """What came of the cases."""

    exits: Counter[int | str] = field(default_factory=Counter)
    """How many ended with each exit code."""
    faults: list[str] = field(default_factory=list)
    """Cases that ended in any other way, with their trace."""

    @property
    def cases(self) -> int:
        return sum(self.exits.values())


class Fuzz:
    """The two checkpoints and the commands. `case` runs the case of an index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        arrange.finished(folder / DONE, keeps_samples=True)
        arrange.unfinished(folder / RUNNING)
        self._with_structure()
        (folder / "evil.py").write_text(f"open({str(folder / RAN)!r}, 'w')\ndef make(**_): pass\n")
        self.before = {name: (folder / name).read_bytes() for name in FILES}

    def case(self, index: int, outcome: Outcome) -> None:
        generator = random.Random(index)
        name = generator.choice([*FILES, *(file for file in FILES if file.endswith(".json"))])
        mutated = self._mutated(generator, name)
        (self.folder / name).write_bytes(mutated)
        if generator.random() < 0.7:
            self._seal_again(name)
        command = generator.choice(COMMANDS)
        now = self._bytes()
        try:
            code, said = command(self, name.partition("/")[0])
        except DwindleError as error:
            code, said = error.exit_code, f"dwindle: {error}"
        except BaseException:
            code, said = "exception", traceback.format_exc()
        fault = self._fault(code, said) or ("a file was changed" if self._bytes() != now else None)
        if fault:
            outcome.faults.append(f"case {index}, {name}, {command.__name__}: {fault}\n{said[-3000:]}")
        outcome.exits[code] += 1
        changed = {name, f"{name.partition('/')[0]}/checkpoint.json", *(file for file in FILES if "round.json" in file)}
        for file in changed:
            (self.folder / file).write_bytes(self.before[file])

    def _fault(self, code: int | str, said: str) -> str | None:
        if (self.folder / RAN).exists():
            (self.folder / RAN).unlink()
            return "code ran"
        if code not in (0, 1, 2, 3, 4, 5):
            return f"it ended with {code}"
        if "Traceback" in said or "failed unexpectedly" in said:
            return "an exception that nobody foresaw"
        last = (said.strip().splitlines() or [""])[-1]
        if code == 1 and not last.strip():
            return "an error without a sentence"
        return None

    def _bytes(self) -> dict[str, str]:
        return {
            file.relative_to(self.folder).as_posix(): sha256(file)
            for file in walk(self.folder)
            if file.suffix in (".json", ".onnx") or file.name == RAN
        }

    def _with_structure(self) -> None:
        """A structure that changes nothing, sealed into the finished checkpoint."""
        path = self.folder / DONE
        (path / "structure.json").write_text(
            json.dumps({"attributes": {"conv": {"out_channels": 16}}, "shapes": {"conv.weight": [16, 1, 3, 3]}})
        )
        document = json.loads((path / "checkpoint.json").read_text())
        document.pop("sha256")
        document["files"]["structure.json"] = sha256(path / "structure.json")
        (path / "checkpoint.json").write_text(json.dumps(sealed_json(document)))

    def _mutated(self, generator: random.Random, name: str) -> bytes:
        content = self.before[name]
        if name.endswith(".json") and generator.random() < 0.75:
            document = json.loads(content)
            for _ in range(generator.choice((1, 1, 1, 2, 4))):
                document = _odd(generator, document)
            return _json(generator, document)
        if name.endswith(".safetensors") and generator.random() < 0.5:
            return _header(generator, content)
        return _bytes_changed(generator, content)

    def _seal_again(self, name: str) -> None:
        """As whoever sends a checkpoint can: the hashes are those of what is there."""
        file = self.folder / name
        owner = file.with_name("round.json" if "rounds" in name else "checkpoint.json")
        if file.suffix == ".safetensors" or file.name == "structure.json":
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                document = json.loads(owner.read_text())
                document["files"][file.name] = sha256(file)
                owner.write_text(json.dumps(document))
            file = owner
        with contextlib.suppress(ValueError, AttributeError, TypeError, RecursionError, OverflowError):
            document = json.loads(file.read_text())
            document.pop("sha256", None)
            digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
            file.write_text(json.dumps({**document, "sha256": digest}))


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with each of its keys."""
    found: list[tuple[Any, Any]] = []
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            found += [(document, key), *_places(value)]
    return found


def _odd(generator: random.Random, document: Any) -> Any:
    """The document with one place changed."""
    places = _places(document)
    if not places or generator.random() < 0.01:
        return copy.deepcopy(generator.choice(ODD))
    container, key = generator.choice(places)
    match generator.randrange(6):
        case 0:
            del container[key]
        case 1 if isinstance(container, dict):
            container[generator.choice(["unknown", "", "task", "spec", "a" * 300])] = copy.deepcopy(
                generator.choice(ODD)
            )
        case 2:
            container[key] = copy.deepcopy(generator.choice(places)[0])  # a part of the document in another's place
        case _:
            container[key] = copy.deepcopy(generator.choice(ODD))
    return document


def _json(generator: random.Random, document: Any) -> bytes:
    if generator.random() < 0.02:
        return b'{"a":' * 100_000
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _bytes_changed(generator: random.Random, content: bytes) -> bytes:
    at = generator.randrange(len(content))
    match generator.randrange(5):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + bytes([content[at] ^ (1 << generator.randrange(8))]) + content[at + 1 :]
        case 2:
            return content[:at] + generator.randbytes(generator.choice((1, 4, 100))) + content[at:]
        case 3:
            return content[:at] + content[at + generator.randrange(1, 50) :]
        case _:
            return content[:at] + generator.choice(b'.e-0{}[]",:\x00\xff').to_bytes(1, "big") + content[at + 1 :]


def _header(generator: random.Random, content: bytes) -> bytes:
    """A safetensors file with a value of its header changed."""
    length = int.from_bytes(content[:8], "little")
    document = json.loads(content[8 : 8 + length])
    header = json.dumps(_odd(generator, document)).encode("utf-8", "surrogatepass")
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


Ended = tuple[int | str, str]


def _main(*words: str) -> Ended:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = cli.main(list(words))
    return code, said.getvalue()


def show(fuzz: Fuzz, net: str) -> Ended:
    return _main("show", str(fuzz.folder / net))


def show_json(fuzz: Fuzz, net: str) -> Ended:
    return _main("show", str(fuzz.folder / net), "--json")


def verify(fuzz: Fuzz, net: str) -> Ended:
    return _main("verify", str(fuzz.folder / net))


def gate(fuzz: Fuzz, net: str) -> Ended:
    return _main("gate", str(fuzz.folder / net), "--max-size", "500KB", "--max-drop", "1")


def report(fuzz: Fuzz, net: str) -> Ended:
    with tempfile.TemporaryDirectory() as folder:
        return _main("report", str(fuzz.folder / net), "-o", f"{folder}/report.html")


def diff(fuzz: Fuzz, net: str) -> Ended:
    return _main("diff", str(fuzz.folder / DONE), str(fuzz.folder / net))


def rebuild(fuzz: Fuzz, net: str) -> Ended:
    """What export and bench begin with."""
    opened = store.Checkpoint.load(fuzz.folder / net).require_done()
    restore_task(opened), restore(opened), restore_dense(opened)
    return 0, ""


def resume(fuzz: Fuzz, net: str) -> Ended:
    """What a resumed compression begins with."""
    path = fuzz.folder / net
    store.Checkpoint.load(path)
    last_round(path)
    if found := partial_round(path, 1):
        progress, _, folder = found
        parse(Progress, progress, folder / "round.json")
        unpack_masks(read_tensors(folder, "masks"), read_tensors(folder, "weights"))
    return 0, ""


COMMANDS: tuple[Callable[[Fuzz, str], Ended], ...] = (
    show, show_json, verify, gate, gate, report, diff, rebuild, resume, resume, resume,
)  # fmt: skip


def fuzzed(count: int, first: int = 0) -> Outcome:
    """The cases from index `first` on."""
    outcome = Outcome()
    grammar = Grammar()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        mock.patch("os.fsync"),
        mock.patch.object(cli, "Grammar", return_value=grammar),  # to make it anew is a fifth of the work
    ):
        fuzz = Fuzz(Path(folder).resolve())
        for index in range(first, first + count):
            fuzz.case(index, outcome)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    outcome = fuzzed(given.count, given.first)
    print(*outcome.faults[:20], sep="\n\n")
    print(f"{outcome.cases} cases, by exit code {dict(outcome.exits)}, {len(outcome.faults)} faults")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
