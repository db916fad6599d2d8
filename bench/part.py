"""What one CI job's gate found, as a file: the comment on a pull request is made from those of all jobs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from dwindle.bench.verdict import Check, Verdict
from dwindle.documents import parse, read
from dwindle.errors import DwindleError
from dwindle.files import write_json

SCHEMA = 1
_REMEDY = "write it again by `dwindle gate --part`"


@dataclass(frozen=True)
class Part:
    """A verdict without what is in the files."""

    schema: int
    rows: tuple[Check, ...]
    notes: tuple[str, ...]
    figures: dict[str, dict[str, float]]
    previous: dict[str, dict[str, float]]


def write_part(path: Path, verdict: Verdict) -> None:
    """Writes what a comment needs of a verdict as JSON; raises DwindleError where `path` cannot be written."""
    figures, previous = (
        {name: dict(one) for name, one in each.items()} for each in (verdict.figures, verdict.previous)
    )
    write_json(path, asdict(Part(SCHEMA, verdict.rows, verdict.notes, figures, previous)))


def read_parts(folder: Path) -> list[Verdict]:
    """The verdicts of the parts in a folder and the folders in it, in the order of their names.

    Raises DwindleError where one is damaged, or of a newer dwindle: it may come from anyone's pull request.
    """
    found = []
    for path in sorted(folder.rglob("*.json")):
        document = read(path, _REMEDY)
        if isinstance(document, dict) and isinstance(document.get("schema"), int) and document["schema"] > SCHEMA:
            raise DwindleError(f"{path} was written by a newer dwindle: install that one", code="newer", path=path)
        part: Part = parse(Part, document, path, _REMEDY)
        found.append(Verdict(part.rows, part.notes, figures=part.figures, previous=part.previous))
    return found
