"""Text that others chose (names of files, layers, classes and devices, sentences of runtimes), fit for each output.

A name may hold anything: an escape sequence that a terminal obeys, a NUL that XML cannot hold, a pipe that ends a cell
of a Markdown table. Each function prepares such text for one medium and leaves ordinary text as it is. HTML pages need
none: their templates escape what they are given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""C0 and C1 but for tab and line feed, what turns the direction of writing, line separators, halves of characters."""
_NOT_XML = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write (its production Char), and C1."""
_MARKDOWN = re.compile(r"([\\`*_\[\]|~#])")
"""What begins something in Markdown."""


def printable(text: str) -> str:
    r"""Text for a terminal or a log: what such a medium would obey is shown instead, an escape as `\x1b`.

    Tabs and line feeds stay.

        >>> print(printable(chr(27) + "[31mred"))
        \x1b[31mred
    """
    return _CONTROL.sub(_shown, text)


def single_line(text: str) -> str:
    """As `printable`, on one line: for a message that has to stay one."""
    return " ".join(printable(text).split("\n"))


def xml(text: str) -> str:
    """Text for the content or an attribute of an XML element, before the writer escapes `<` and `&`."""
    return _NOT_XML.sub(_shown, text)


def markdown(text: str) -> str:
    r"""Text for a cell of a table in GitHub-flavoured Markdown, read as it stands: no pipe ends the cell, and no tag,
    link, code, emphasis or line break begins in it.

        >>> print(markdown("a | b <script>"))
        a \| b &lt;script>
    """
    escaped = _MARKDOWN.sub(r"\\\1", printable(text).replace("&", "&amp;")).replace("<", "&lt;")
    return " ".join(escaped.split())


def console(*, quiet: bool = False, stderr: bool = True) -> Console:
    """A console on stderr, or else on stdout, that prints text as it is, in tables too: it obeys no `[markup]` in the
    text, no escape sequence and no emoji code."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    return Plain(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


def _shown(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
