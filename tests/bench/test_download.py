"""What a device downloads of a file that packs no zeros: it deflated, or the .zst beside it, whichever is smaller."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dwindle.bench import Bench, diff, gate, report
from dwindle.bench.machine import this_machine
from dwindle.bench.result import COMPRESSED, DENSE
from dwindle.bench.rows import blank_rows
from dwindle.bench.views.table import bench_table
from dwindle.checkpoint import Checkpoint
from dwindle.manifest import File, Manifest, manifests
from dwindle.sealed import sealed_json

Export = Callable[..., Manifest]


@pytest.fixture
def exported(checkpoint: Checkpoint, export: Export, tmp_path: Path) -> Callable[[int], Manifest]:
    """An export of 5,000 bytes that deflate to no less, beside a `.zst` of so many."""

    def put(zst_bytes: int) -> Manifest:
        for name in ("dense.pte", "net.pte"):
            (tmp_path / name).write_bytes(os.urandom(5000))
        manifest = export("executorch", tmp_path / "dense.pte", tmp_path / "net.pte")
        folder = checkpoint.exports / "executorch"
        (folder / "net.pte.zst").write_bytes(bytes(zst_bytes))
        replace(manifest, download=File.of(folder / "net.pte.zst")).write(folder)
        rows = [row for pair in blank_rows(checkpoint.path, manifests(checkpoint.exports)) for row in pair]
        Bench(tuple(rows), this_machine(), 0, "2026-01-01T00:00:00+00:00", "0").save(checkpoint.bench_path)
        return Manifest.read(folder)

    return put


def shown(checkpoint: Checkpoint) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(bench_table(Bench.load(checkpoint.bench_path)))
    return capture.get()


def test_the_zst_where_it_is_smaller(checkpoint: Checkpoint, exported: Callable[[int], Manifest]) -> None:
    assert exported(4000).fetched == (4000, "net.pte.zst")
    verdict = gate(checkpoint, target="executorch", max_download=4000)
    assert verdict.passed
    assert verdict.rows[0].reason == "as net.pte.zst, which the app unpacks"
    assert not gate(checkpoint, target="executorch", max_download=3999).passed
    found = Bench.load(checkpoint.bench_path)
    ((dense,), (net,)) = (found.find("executorch", role) for role in (DENSE, COMPRESSED))
    assert (dense.artifact.download_bytes, net.artifact.download_bytes) == (dense.artifact.deflated_bytes, 4000)
    lines = [line.split() for line in shown(checkpoint).splitlines()]
    at = next(index for index, words in enumerate(lines) if words[:1] == ["compressed"])
    assert lines[at][3:5] == ["4.00", "KB"]
    assert lines[at + 1][0] == "pte.zst"
    assert "<span>4.00 KB<small>pte.zst</small></span>" in report(checkpoint).read_text()
    (download,) = (figure for figure in diff(checkpoint, checkpoint).figures if figure.name == "download")
    assert download.after is not None
    assert download.after.value == 4000


def test_deflated_where_that_is(checkpoint: Checkpoint, exported: Callable[[int], Manifest]) -> None:
    manifest = exported(6000)
    assert manifest.fetched == (manifest.file.deflated_bytes, None)
    verdict = gate(checkpoint, target="executorch", max_download=manifest.file.deflated_bytes)
    assert (verdict.passed, verdict.rows[0].reason) == (True, None)
    assert "pte.zst" not in shown(checkpoint)
    assert "pte.zst" not in report(checkpoint).read_text()


def test_a_bench_from_before_has_what_was_deflated(checkpoint: Checkpoint, exported: Callable[[int], Manifest]) -> None:
    import json

    exported(4000)
    document = json.loads(checkpoint.bench_path.read_text())
    for row in document["rows"]:
        del row["artifact"]["fetched"]
    del document["sha256"]
    checkpoint.bench_path.write_text(json.dumps(sealed_json(document)))
    for row in Bench.load(checkpoint.bench_path).rows:
        assert row.artifact.download_bytes == row.artifact.deflated_bytes
