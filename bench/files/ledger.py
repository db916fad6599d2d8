"""What each byte of a file is: ranges that a reader claims, and parts that add up to the file whatever it claims."""

from __future__ import annotations

from pathlib import Path

from dwindle.bench.files.contents import CONSTANT, GRAPH, MASK, VALUES, Part, zeros

_Title = tuple[str, str, str]
"""Kind, name and storage of a part."""


class Ledger:
    """The bytes of one file, and who claims which of them.

    A range within another's is taken out of it, so that no byte is counted twice; what nobody claims is the graph's.
    """

    def __init__(self, path: Path) -> None:
        self.content = memoryview(path.read_bytes())
        self._claims: dict[tuple[int, int], _Title] = {}

    def claim(self, start: int, size: int, kind: str, name: str = "", storage: str = "") -> None:
        """Says what `size` bytes from `start` on are. Of two claims to one range the first one stands.

        Raises ValueError where they reach beyond the file.
        """
        if start < 0 or size < 0 or start + size > len(self.content):
            raise ValueError(f"{size} bytes from {start} on reach beyond its {len(self.content)} bytes")
        if not size or (start, size) in self._claims:
            return
        self._claims[start, size] = (kind, name, storage)

    def parts(self, rest: str = "") -> tuple[Part, ...]:
        """All bytes of the file by kind, name and storage, in its order; `rest` is the name of what nobody claims."""
        sums: dict[_Title, int] = {}
        none: dict[_Title, int] = {}
        open_: list[tuple[int, _Title]] = [(len(self.content), (GRAPH, rest, ""))]
        at = 0

        def pay(end: int) -> None:
            nonlocal at
            title = open_[-1][1]
            if end <= at:
                return
            sums[title] = sums.get(title, 0) + end - at
            if title[0] == VALUES:
                none[title] = none.get(title, 0) + zeros(self.content[at:end], title[2])
            at = end

        for (start, size), title in sorted(self._claims.items(), key=lambda item: (item[0][0], -item[0][1])):
            while open_[-1][0] <= start:
                pay(open_[-1][0])
                open_.pop()
            pay(start)
            open_.append((min(start + size, open_[-1][0]), title))
        while open_:
            pay(open_[-1][0])
            open_.pop()
        return tuple(
            Part(kind, name, size, storage, none.get((kind, name, storage), 0))
            for (kind, name, storage), size in sums.items()
        )


def kind_of(dimensions: int, *, mask: bool = False) -> str:
    """What a tensor of so many dimensions is taken for, where nothing else is known of it."""
    return MASK if mask else VALUES if dimensions > 1 else CONSTANT
