"""Tables that results show themselves as in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Protocol, TypeVar

from dwindle.foreign import printable


class _Shown(Protocol):
    def _repr_html_(self) -> str: ...


Each = TypeVar("Each", bound=_Shown)


class Tables(list[Each]):
    """A list that a notebook shows as the tables of its members, one below the other."""

    def _repr_html_(self) -> str:
        return "".join(each._repr_html_() for each in self)


def table(caption: object, rows: Iterable[Iterable[object]], head: Iterable[object] = ()) -> str:
    """An HTML table; the first cell of each row names it. What a cell has of markup is shown as it is."""

    def cell(text: object, kind: str) -> str:
        return f"<{kind}>{escape(printable(str(text)))}</{kind}>"

    def row(cells: Iterable[object], kind: str) -> str:
        return f"<tr>{''.join(cell(each, kind if index else 'th') for index, each in enumerate(cells))}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    titles = row(head, "th") if head else ""
    return f"<table><caption>{escape(printable(str(caption)))}</caption>{titles}{body}</table>"
