"""What bytes are spent on adds up to the file, whatever is shown of it, and so does what grew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.bench import gate
from dwindle.bench.files.contents import CONSTANT, GRAPH, MASK, VALUES, Contents, Part
from dwindle.bench.files.spent import spent
from dwindle.cli import main
from dwindle.files import raw_bytes

PARTS = st.lists(
    st.builds(
        Part,
        st.sampled_from([VALUES, MASK, CONSTANT, GRAPH]),
        st.sampled_from(["a.weight", "a.bias", "b.c.weight", "Conv", ""]),
        st.integers(1, 1000),
    ),
    max_size=12,
)


def of(parts: list[Part]) -> Contents:
    return Contents("ONNX", tuple(parts), (), ())


@given(PARTS, st.none() | PARTS, st.none() | st.integers(2, 8))
def test_it_adds_up(parts: list[Part], earlier: list[Part] | None, most: int | None) -> None:
    after, before = of(parts), None if earlier is None else of(earlier)
    found = spent(after, before, most)
    assert sum(one.bytes for one in found) == after.bytes
    if before is not None:
        assert sum(one.before or 0 for one in found) == before.bytes
        assert sum(one.growth for one in found) == after.bytes - before.bytes
    else:
        assert {one.before for one in found} <= {None}
    assert most is None or len(found) <= most


def test_layers_are_put_together_and_what_grew_comes_first() -> None:
    before = of([Part(VALUES, "a.weight", 10), Part(VALUES, "b.weight", 900), Part(GRAPH, "Conv", 5)])
    after = of([Part(VALUES, "a.weight", 40), Part(VALUES, "b.weight", 900), Part(MASK, "b.weight", 7)])
    found = [(one.layer, one.kind, one.growth) for one in spent(after, before)]
    assert found == [("a", VALUES, 30), ("b", MASK, 7), ("b", VALUES, 0), ("Conv", GRAPH, -5)]
    together = of([Part(CONSTANT, "a.bias", 3), Part(CONSTANT, "a.scale", 4)])
    assert [(one.layer, one.bytes) for one in spent(together)] == [("a", 7)]


def test_why_needs_no_limit_and_is_in_every_view(
    onnx_files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, net = onnx_files
    out = tmp_path / "why.md"
    arguments = ["gate", str(net), "--why", "--baseline", str(dense), "--max-signature-changes", "0"]
    assert main([*arguments, "--markdown", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert f"{raw_bytes(net):,}" in printed.err
    document = json.loads(printed.out)
    assert sum(part["bytes"] for part in document["files"][str(net)]["parts"]) == raw_bytes(net)
    assert sum(part["bytes"] for part in document["before"][str(net)]["parts"]) == raw_bytes(dense)
    assert "| together |" in out.read_text()
    assert gate(net, why=True).exit_code == 0
