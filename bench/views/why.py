"""What the bytes of model files are, and what grew, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dwindle import foreign
from dwindle.bench.files.contents import Contents
from dwindle.bench.files.spent import Spent, spent
from dwindle.bench.views.wording import ABSENT
from dwindle.quantities import format_bytes

ROWS = 20
"""As many lines as are read; the last one is the rest."""


def why_table(files: Mapping[str, Contents], before: Mapping[str, Contents]) -> RenderableType:
    """A table per file: what its bytes are, the most first, or what grew against an earlier version."""
    shown: list[RenderableType] = []
    for name, contents in files.items():
        grown = name in before
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("layer", overflow="fold")
        table.add_column("")
        for title in ("bytes", "share", *(["before", "grown"] if grown else [])):
            table.add_column(title, justify="right", no_wrap=True)
        for cells in _cells(contents, before.get(name)):
            table.add_row(*map(Text, cells))
        shown += [Text(f"what the bytes of {name} are", style="bold"), table]
    return Group(*shown)


def why_markdown(files: Mapping[str, Contents], before: Mapping[str, Contents]) -> str:
    """The same tables in GitHub-flavoured Markdown; each ends in a blank line."""
    lines: list[str] = []
    for name, contents in files.items():
        titles = ["layer", "", "bytes", "share", *(["before", "grown"] if name in before else [])]
        lines += [f"**What the bytes of {foreign.markdown(name)} are**", "", f"| {' | '.join(titles)} |"]
        lines.append(f"|---|---|{'---:|' * (len(titles) - 2)}")
        lines += [f"| {' | '.join(map(foreign.markdown, cells))} |" for cells in _cells(contents, before.get(name))]
        lines.append("")
    return "\n".join([*lines, ""]) if lines else ""


def _cells(contents: Contents, before: Contents | None) -> list[tuple[str, ...]]:
    total = Spent("together", "", contents.bytes, before.bytes if before else None)
    found = []
    for one in (*spent(contents, before, ROWS), total):
        cells = [one.layer or ABSENT, one.kind, f"{one.bytes:,}", f"{one.bytes / max(contents.bytes, 1):.1%}"]
        if one.before is not None:
            cells += [f"{one.before:,}", f"{one.growth:+,}".replace("-", "−") if one.growth else "0"]
        found.append(tuple(cells))
    return found


def why_rows(contents: Contents) -> list[tuple[str, str, str, float]]:
    """As the page has them: layer, kind, size, share."""
    return [
        (one.layer or ABSENT, one.kind, format_bytes(one.bytes), one.bytes / max(contents.bytes, 1))
        for one in spent(contents, None, ROWS)
    ]
