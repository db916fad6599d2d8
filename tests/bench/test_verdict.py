import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dwindle.bench import Bench, gate, report
from dwindle.bench.baseline import read_baseline
from dwindle.bench.limits import KINDS
from dwindle.bench.result import COMPRESSED, DENSE, Accuracy, Compare, Cost, Latency, Machine, Noise, Row, RuntimeUsed
from dwindle.bench.rows import blank_rows, failed, untried
from dwindle.bench.verdict import Check
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import CheckpointError, DwindleError, UsageError
from dwindle.grammar import Grammar
from dwindle.manifest import Manifest, manifests
from dwindle.sealed import sealed_json

Export = Callable[..., Manifest]
Save = Callable[..., None]
NETWORK = "blobs:net on blobs:Blobs"


@pytest.fixture
def manifest(export: Export, tmp_path: Path) -> Manifest:
    dense, compressed = tmp_path / "dense.onnx", tmp_path / "net.onnx"
    dense.write_bytes(bytes(20_000))
    compressed.write_bytes(bytes(11_000))
    return export("onnx", dense, compressed)


@pytest.fixture
def benched(checkpoint: Checkpoint, manifest: Manifest) -> Save:
    """Saves a bench.json that says these accuracies, per runtime: (dense, compressed)."""

    def save(*, change: Callable[[Row], Row] = lambda row: row, **accuracies: tuple[float, float | None]) -> None:
        rows: list[Row] = []
        for pair in blank_rows(checkpoint.path, manifests(checkpoint.exports)):
            for runtime, values in accuracies.items():
                for row, value in zip(pair, values, strict=True):
                    row = replace(row, runtime=RuntimeUsed(runtime, "1", 1))
                    found = value and Accuracy("accuracy", value, 1000, None, "test")
                    filled = replace(row, accuracy=found) if found else untried(row, "no such hardware")
                    rows.append(change(filled))
        machine = Machine("cpu", 2, "Linux")
        Bench(tuple(rows), machine, 0, "2026-01-01T00:00:00+00:00", "0.1.0", NETWORK).save(checkpoint.bench_path)

    return save


def test_limits_that_hold(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.3, 96.3))
    verdict = gate(checkpoint.path, max_size=11_000, max_drop=1.0)  # 97.3 - 96.3 > 1.0 in binary
    assert verdict.passed
    assert verdict.exit_code == 0
    assert [(row.name, row.target) for row in verdict.rows] == [("max_size", "onnx"), ("max_drop", "onnx")]
    assert verdict.rows[0].measured == 11_000
    assert verdict.rows[1].measured == pytest.approx(1.0)


@pytest.mark.parametrize(("limits", "missed"), [({"max_size": 10_999}, 11_000), ({"max_drop": 0.9}, 1.0)])
def test_a_miss_is_exit_code_3(checkpoint: Checkpoint, benched: Save, limits: dict[str, float], missed: float) -> None:
    benched(onnxruntime=(97.3, 96.3))
    verdict = gate(checkpoint, **limits)  # type: ignore[arg-type]
    assert not verdict.passed
    assert verdict.exit_code == 3
    assert verdict.rows[0].measured == pytest.approx(missed)


def test_the_worst_runtime_counts(checkpoint: Checkpoint, benched: Save) -> None:
    benched(good=(97.0, 97.0), bad=(97.0, 90.0), elsewhere=(97.0, None))
    (row,) = gate(checkpoint, max_drop=1.0).rows
    assert row.measured == pytest.approx(7.0)
    assert "in bad" in str(row.reason)


def on_devices(row: Row, ms: float = 4.0, quiet: bool = True) -> Row:
    """Its runtime's name says where a row is from; there it took so long."""
    device = None if row.runtime.name == "host" else str(row.runtime.name).replace("_", ":")
    latency = Latency(1, 1, ms, ms, ms, ms, ms, 6, 4, 9, (0.9 * ms, 1.1 * ms))
    noise = Noise(quiet, () if quiet else ("load average 7.0",), 1.0, 0.0, 0.0, 0.0, 0.5)
    return replace(row, runtime=replace(row.runtime, device=device), latency=latency, noise=noise)


def test_a_device_has_limits_of_its_own(checkpoint: Checkpoint, benched: Save, tmp_path: Path) -> None:
    benched(host=(97.0, 97.0), browser=(97.0, 96.5), browser_4=(97.0, 90.0), change=on_devices)
    budget = tmp_path / "budget.toml"
    budget.write_text(
        "[gate.device.host]\nmax_drop = 0\nmax_latency = 4.4\n"
        "[gate.device.browser]\nmax_drop = 0.5\nmax_latency = 4.39\n"
        "[gate.device.'browser:2']\nmax_latency = 100\n"
    )
    verdict = gate(checkpoint, limits=budget)
    found = {(row.subject, row.name): row for row in verdict.rows}
    assert found["onnx on host", "max_drop"].passed
    assert found["onnx on host", "max_latency"].passed
    assert found["onnx on browser", "max_drop"].passed
    missed = found["onnx on browser", "max_latency"]
    assert not missed.passed
    assert missed.measured == pytest.approx(4.4)  # the interval's upper end
    absent = found["onnx on browser:2", "max_latency"]
    assert absent.measured is None
    assert "nothing was measured on browser:2: run `dwindle bench --device browser:2`" in str(absent.reason)
    assert verdict.exit_code == 5


def test_a_noisy_run_has_no_latency(checkpoint: Checkpoint, benched: Save, tmp_path: Path) -> None:
    benched(host=(97.0, 97.0), change=lambda row: on_devices(row, quiet=False))
    (tmp_path / "budget.toml").write_text("[gate.device.host]\nmax_latency = 1000\n")
    (row,) = gate(checkpoint, limits=tmp_path / "budget.toml").rows
    assert row.measured is None
    assert "was noisy: load average 7.0" in str(row.reason)


def test_a_gain_is_no_drop(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(96.0, 97.0))
    assert gate(checkpoint, max_drop=0).passed


def unmeasured_reason(checkpoint: Checkpoint, **arguments: object) -> str:
    verdict = gate(checkpoint, **arguments)  # type: ignore[arg-type]
    assert not verdict.passed
    assert verdict.exit_code == 5
    assert verdict.unmeasured
    return str(verdict.unmeasured[0].reason)


def test_a_figure_that_is_absent_is_never_a_pass(checkpoint: Checkpoint, benched: Save) -> None:
    assert "run `dwindle bench`" in unmeasured_reason(checkpoint, max_drop=50.0)
    benched(onnxruntime=(97.0, None))
    assert unmeasured_reason(checkpoint, max_drop=50.0) == "no such hardware"
    export_hint = "there is no coreml file: run `dwindle export --target coreml`"
    assert unmeasured_reason(checkpoint, max_size=10**9, target="onnx,coreml") == export_hint
    assert unmeasured_reason(checkpoint, max_drop=50.0, target="coreml") == export_hint
    # beside a miss as well: the whole answer is not known
    assert unmeasured_reason(checkpoint, max_size=1, max_drop=50.0) == "no such hardware"


def test_figures_of_other_files_do_not_count(checkpoint: Checkpoint, benched: Save, manifest: Manifest) -> None:
    benched(onnxruntime=(97.0, 97.0))
    assert gate(checkpoint, max_drop=1.0).passed
    for name in ("net.onnx", "dense.onnx"):
        folder = checkpoint.exports / "onnx"
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(b"exported again")
        file, dense = (type(manifest.file).of(folder / n) for n in ("net.onnx", "dense.onnx"))
        replace(manifest, file=file, dense=dense).write(folder)
        assert "about other files" in unmeasured_reason(checkpoint, max_drop=1.0)
        (folder / name).write_bytes(before)
        manifest.write(folder)


def test_the_target_it_was_compressed_for_is_the_default(
    checkpoint: Checkpoint, benched: Save, export: Export, tmp_path: Path
) -> None:
    export("executorch", tmp_path / "dense.onnx", tmp_path / "net.onnx")
    (row,) = gate(replace(checkpoint, origin={"target": "executorch"}), max_size=20_000).rows
    assert row.target == "executorch"
    (row,) = gate(replace(checkpoint, origin={}), max_size=20_000).rows
    assert row.target == "onnx"
    rows = gate(checkpoint, max_size=20_000, target="onnx, executorch").rows
    assert [row.target for row in rows] == ["onnx", "executorch"]


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({}, ("no-limits", None, None)),
        ({"max_size": 0}, ("out-of-range", "max_size", None)),
        ({"max_drop": -1.0}, ("out-of-range", "max_drop", None)),
        ({"max_drop": float("nan")}, ("out-of-range", "max_drop", None)),
        ({"max_size": 1, "target": "onxn"}, ("unknown-name", "target", "onxn")),
        ({"max_size": 1, "target": "onnx,"}, ("unknown-name", "target", "")),
    ],
)
def test_a_request_that_makes_no_sense(
    checkpoint: Checkpoint, arguments: dict[str, object], fields: tuple[str, str | None, str | None]
) -> None:
    with pytest.raises(UsageError) as raised:
        gate(checkpoint, **arguments)  # type: ignore[arg-type]
    assert (raised.value.code, raised.value.option, raised.value.name) == fields


def test_an_emulation_has_no_times_to_limit(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "budget.toml"
    path.write_text("[gate.device.arm64]\nmax_latency = 5")
    with pytest.raises(UsageError) as raised:
        gate(checkpoint, limits=path)
    assert (raised.value.code, raised.value.path, raised.value.name) == ("no-such-limit", path, "arm64")


def edited(path: Path, change: Callable[[Any], None], *, sealed: bool) -> None:
    """Changes a sealed document, by hand or with a seal of its own."""
    document = json.loads(path.read_text())
    change(document)
    if sealed:
        del document["sha256"]
        document = sealed_json(document)
    path.write_text(json.dumps(document))


def test_one_digit_changed_by_hand_is_named(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.3, 96.3))
    manifest, bench_json = checkpoint.exports / "onnx/manifest.json", checkpoint.bench_path
    for path, change in (
        (manifest, lambda document: document["file"].update(bytes=1_000)),
        (bench_json, lambda document: document["rows"][1]["accuracy"].update(value=97.3)),
        (bench_json, lambda document: document.pop("sha256")),
    ):
        before = path.read_bytes()
        edited(path, change, sealed=False)
        with pytest.raises(CheckpointError) as raised:
            gate(checkpoint, max_size=10_000, max_drop=0.5)
        assert raised.value.code in ("altered", "unsealed")
        assert raised.value.path == path
        path.write_bytes(before)
    assert gate(checkpoint, max_size=10_000, max_drop=0.5).exit_code == 3


def test_sizes_are_the_disks_even_where_a_manifest_was_sealed_again(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.3, 96.3))
    honest = one(checkpoint, max_download=10_000).measured
    manifest = checkpoint.exports / "onnx/manifest.json"
    edited(manifest, lambda found: found["file"].update(deflated_bytes=1), sealed=True)
    assert one(checkpoint, max_download=10_000).measured == honest
    edited(manifest, lambda found: found["file"].update(bytes=10), sealed=True)
    with pytest.raises(CheckpointError) as raised:
        gate(checkpoint, max_size=10_999)
    assert raised.value.code == "altered"


@pytest.mark.parametrize("accuracy", [1e9, -1.0, 100.1])
def test_an_accuracy_that_no_file_has_is_refused(checkpoint: Checkpoint, benched: Save, accuracy: float) -> None:
    benched(onnxruntime=(97.3, 96.3))
    edited(checkpoint.bench_path, lambda found: found["rows"][1]["accuracy"].update(value=accuracy), sealed=True)
    with pytest.raises(CheckpointError) as raised:
        gate(checkpoint, max_drop=1.0)
    assert (raised.value.code, raised.value.name) == ("implausible", "exports/onnx/net.onnx")


def test_a_copied_folder_decides_nothing(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.3, 96.3))
    copy = checkpoint.exports / "onnx.bak"
    shutil.copytree(checkpoint.exports / "onnx", copy)
    for ask in (
        lambda: gate(checkpoint, max_size="30KB"),
        lambda: report(checkpoint),
        lambda: read_baseline(checkpoint.path, checkpoint),
    ):
        with pytest.raises(DwindleError) as raised:
            ask()
        assert raised.value.code == "misplaced-export"
        assert str(copy) in str(raised.value)


def test_a_runtime_that_ran_and_failed_is_unmeasured(checkpoint: Checkpoint, benched: Save) -> None:
    """Even where a board has figures of the same file."""

    def crashed(row: Row) -> Row:
        row = timed(True, 0.75)(row)
        if row.role == DENSE or row.runtime.name == "board":
            return row
        return failed(replace(row, accuracy=None, compare=None), "it crashed")

    benched(here=(97.0, 97.0), board=(97.0, 97.0), change=crashed)
    for limit in ({"max_drop": 50.0}, {"min_accuracy": 1}, {"max_ratio": 5}):
        assert unmeasured_reason(checkpoint, **limit) == "it crashed"


def test_damage_is_an_error_not_a_verdict(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.0, 97.0))
    checkpoint.bench_path.write_text("{")
    with pytest.raises(CheckpointError) as raised:
        gate(checkpoint, max_drop=1.0)
    assert (raised.value.code, raised.value.path) == ("damaged", checkpoint.bench_path)
    (checkpoint.exports / "onnx" / "net.onnx").write_bytes(b"altered")
    with pytest.raises(CheckpointError, match="not the file its manifest describes"):
        gate(checkpoint, max_size=1)


def one(checkpoint: Checkpoint, **arguments: object) -> Check:
    (row,) = gate(checkpoint, **arguments).rows  # type: ignore[arg-type]
    return row


def test_download_and_accuracy_have_limits_of_their_own(checkpoint: Checkpoint, benched: Save) -> None:
    benched(good=(97.3, 96.3), worse=(97.3, 95.0))
    deflated = one(checkpoint, max_download="1KB")
    assert deflated.passed
    assert deflated.measured is not None
    assert deflated.measured < 100  # 11,000 zeros
    assert not one(checkpoint, max_download=deflated.measured - 1).passed
    assert one(checkpoint, min_accuracy=95).passed
    floor = one(checkpoint, min_accuracy=95.1)
    assert (floor.measured, floor.passed) == (95.0, False)
    assert "in worse" in str(floor.reason)


def timed(quiet: bool, high: float) -> Callable[[Row], Row]:
    def change(row: Row) -> Row:
        noise = Noise(quiet, () if quiet else ("load average 9.0 on 2 cores",), 0.99, 0.01, 20.0, 0.01, 9.0)
        compare = None if row.role == DENSE else Compare("exports/onnx/dense.onnx", 0.7, (0.65, high), "median")
        return replace(row, noise=noise, compare=compare)

    return change


def test_a_ratio_is_held_by_the_upper_end_of_its_interval(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.0, 97.0), change=timed(True, 0.75))
    assert one(checkpoint, max_ratio=0.75).passed
    missed = one(checkpoint, max_ratio=0.74)
    assert (missed.measured, missed.passed) == (0.75, False)


def test_a_noisy_run_measures_no_ratio(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.0, 97.0), change=timed(False, 0.75))
    reason = unmeasured_reason(checkpoint, max_ratio=5.0)
    assert "was noisy: load average 9.0 on 2 cores" in reason
    benched(onnxruntime=(97.0, 97.0))
    assert "has no compare" in unmeasured_reason(checkpoint, max_ratio=5.0)


def costing(instructions: int) -> Callable[[Row], Row]:
    cost = Cost({"all": instructions}, None, 10, None, None, None, None, "onnxruntime 1", "qemu-user 10", "cortex-a76")
    return lambda row: replace(row, cost=cost if row.role == COMPRESSED else None)


def test_instructions_have_a_limit_where_they_were_counted(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.0, 97.0))
    assert "not counted" in unmeasured_reason(checkpoint, max_cost="1M")
    benched(onnxruntime=(97.0, 97.0), change=costing(1_500_000))
    assert one(checkpoint, max_cost="1.5M").passed
    assert one(checkpoint, max_cost=1_499_999).measured == 1_500_000
    assert gate(checkpoint, max_cost=1_499_999).exit_code == 3


def test_growth_is_over_a_bench_or_a_checkpoint(checkpoint: Checkpoint, benched: Save, tmp_path: Path) -> None:
    benched(onnxruntime=(97.0, 97.0))
    earlier = json.loads(checkpoint.bench_path.read_text())
    for row in earlier["rows"]:
        row["artifact"]["bytes"] //= 2 if row["role"] == DENSE else 1
        row["artifact"]["bytes"] -= 1_000  # 11,000 against 10,000
    del earlier["sha256"]
    baseline = tmp_path / "main.json"
    baseline.write_text(json.dumps(sealed_json(earlier)))
    assert one(checkpoint, max_growth="10%", baseline=baseline).measured == pytest.approx(0.1)
    assert one(checkpoint, max_growth=0.1, baseline=baseline).passed
    missed = one(checkpoint, max_growth=0.09, baseline=baseline)
    assert not missed.passed
    assert missed.name == "max_growth.size"
    assert missed.reason == "11,000 bytes against 10,000"
    unchanged = one(checkpoint, max_growth=0, baseline=checkpoint.path)
    assert (unchanged.measured, unchanged.passed) == (0.0, True)


def test_cost_grows_where_both_have_one(checkpoint: Checkpoint, benched: Save, tmp_path: Path) -> None:
    benched(onnxruntime=(97.0, 97.0), change=costing(1_000_000))
    baseline = tmp_path / "main.json"
    baseline.write_bytes(checkpoint.bench_path.read_bytes())
    benched(onnxruntime=(97.0, 97.0), change=costing(1_030_000))
    rows = gate(checkpoint, max_growth="2%", baseline=baseline).rows
    assert [(row.name, row.passed) for row in rows] == [("max_growth.size", True), ("max_growth.cost", False)]
    assert rows[1].measured == pytest.approx(0.03)
    benched(onnxruntime=(97.0, 97.0))  # without, it is unmeasured rather than forgotten
    assert gate(checkpoint, max_growth="2%", baseline=baseline).exit_code == 5


def test_growth_from_nothing_is_unmeasured(
    checkpoint: Checkpoint, benched: Save, export: Export, tmp_path: Path
) -> None:
    benched(onnxruntime=(97.0, 97.0))
    assert "give --baseline" in unmeasured_reason(checkpoint, max_growth="2%")
    before = tmp_path / "main.json"
    before.write_bytes(checkpoint.bench_path.read_bytes())
    export("coreml", tmp_path / "dense.onnx", tmp_path / "net.onnx")
    says = unmeasured_reason(checkpoint, max_growth="2%", target="coreml", baseline=before)
    assert says == "the baseline has no coreml file"


def limits(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "budget.toml"
    path.write_text(text)
    return path


def test_limits_from_a_file_and_flags_over_them(checkpoint: Checkpoint, benched: Save, tmp_path: Path) -> None:
    benched(onnxruntime=(97.3, 96.3))
    both = limits(tmp_path, '[gate]\nmax_drop = 1.0\n[gate.onnx]\nmax_size = "11KB"\n[tool.other]\nx = 1\n')
    rows = gate(checkpoint, limits=both).rows
    assert [(row.name, row.target, row.limit, row.passed) for row in rows] == [
        ("max_drop", "onnx", 1.0, True),
        ("max_size", "onnx", 11_000, True),
    ]
    assert gate(checkpoint, limits=both, max_size="10KB").exit_code == 3


def test_a_target_with_a_table_is_checked_by_it(
    checkpoint: Checkpoint, benched: Save, export: Export, tmp_path: Path
) -> None:
    benched(onnxruntime=(97.3, 96.3))
    export("executorch", tmp_path / "dense.onnx", tmp_path / "net.onnx")
    rows = gate(checkpoint, limits=limits(tmp_path, "[gate.executorch]\nmax_size = 20000")).rows
    assert [(row.target, row.limit) for row in rows] == [("executorch", 20_000)]
    split = limits(tmp_path, "[gate]\nmax_size = 9000\n[gate.executorch]\nmax_size = 20000")
    assert [(row.target, row.limit) for row in gate(checkpoint, limits=split).rows] == [
        ("onnx", 9_000),
        ("executorch", 20_000),
    ]
    assert [row.target for row in gate(checkpoint, limits=split, target="onnx").rows] == ["onnx"]


def test_compressed_rows_are_found_by_role(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.0, 96.0))
    (row,) = Bench.load(checkpoint.bench_path).find("onnx", COMPRESSED)
    assert row.accuracy is not None
    assert row.accuracy.value == 96.0


def test_on_the_command_line(
    checkpoint: Checkpoint, benched: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benched(onnxruntime=(97.3, 96.3))
    junit, markdown = tmp_path / "gate.xml", tmp_path / "summary.md"
    limits = ["--max-size", "11KB", "--max-drop", "0.5", "--junit", str(junit), "--markdown", str(markdown)]
    assert main(["gate", str(checkpoint.path), *limits, "--json"]) == 3
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert (document["passed"], document["exit_code"]) == (False, 3)
    assert [(row["name"], row["passed"]) for row in document["rows"]] == [("max_size", True), ("max_drop", False)]
    assert "1 of 2 limits missed" in said.err
    assert "<failure" in junit.read_text()
    assert "❌ miss" in markdown.read_text()
    (tmp_path / "l.toml").write_text("[gate]\nmax_szie = 3\n")
    assert main(["gate", str(checkpoint.path), "--limits", str(tmp_path / "l.toml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_limit_is_a_flag() -> None:
    assert KINDS.keys() <= Grammar().flags("gate").keys()
