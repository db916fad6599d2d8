"""The README and the pages of docs/, and the blocks of code in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"(?:^<!-- not run[^:\n]*: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    not_run: str | None
    """Why no test runs it, as the comment before it says; None where one does."""


def name(page: Path) -> str:
    """A page's path in the repository, which names its tests."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page, of some languages or of all."""
    found = [Block(each["language"], each["code"], each["reason"]) for each in _FENCE.finditer(page.read_text("utf-8"))]
    return [block for block in found if not languages or block.language in languages]


def command_lines(page: Path, *, not_run: bool = False) -> list[list[str]]:
    """A page's command lines, as words; those of blocks that are marked as not run only with `not_run`."""
    code = "".join(block.code for block in blocks(page, "sh") if not_run or block.not_run is None)
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def of_dwindle(words: list[str]) -> list[str] | None:
    """The words after `dwindle` of a command line; None where another program is run."""
    if words[0] == "dwindle":
        return words[1:]
    if words[0] == "torchrun" and "dwindle" in words:
        return words[words.index("dwindle") + 1 :]
    return None
