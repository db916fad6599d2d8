"""`dwindle gate` on model files of any origin: limits, baselines, patterns, several at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from dwindle.bench import gate
from dwindle.cli import main
from dwindle.errors import DwindleError, UsageError

Pair = tuple[Path, Path]


@pytest.fixture
def models(onnx_files: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with dense.onnx and net.onnx, which is where the process is."""
    for path in onnx_files:
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sizes_and_zeros_are_held(models: Path) -> None:
    size = (models / "net.onnx").stat().st_size
    verdict = gate("net.onnx", max_size=size, max_download=size - 1, max_zeros="80%")
    assert [(row.name, row.target, row.passed) for row in verdict.rows] == [
        ("max_size", "net.onnx", True),
        ("max_download", "net.onnx", True),
        ("max_zeros", "net.onnx", True),
    ]
    assert verdict.exit_code == 0
    assert gate("net.onnx", max_size=size - 1, max_zeros="5%").exit_code == 3
    assert verdict.files["net.onnx"].bytes == size


@pytest.mark.parametrize("limit", ["max_drop", "min_accuracy", "max_cost", "max_ratio", "max_undelegated"])
def test_what_a_file_does_not_tell_is_no_pass(models: Path, limit: str) -> None:
    verdict = gate("net.onnx", **{limit: 1})  # type: ignore[arg-type]
    assert verdict.exit_code == 5
    assert verdict.rows[0].reason


def test_several_files_and_patterns(models: Path) -> None:
    verdict = gate(["*.onnx", "net.onnx"], max_size="1MB")
    assert [row.target for row in verdict.rows] == ["dense.onnx", "net.onnx"]
    with pytest.raises(UsageError) as refused:
        gate("*.tflite", max_size="1MB")
    assert refused.value.code == "missing"


def test_a_name_with_a_bracket_is_a_name(models: Path) -> None:
    (models / "net.onnx").rename(models / "net[1].onnx")
    assert [row.target for row in gate("net[1].onnx", max_size="1MB").rows] == ["net[1].onnx"]


def test_growth_and_interface_against_an_earlier_version(models: Path) -> None:
    (models / "main").mkdir()
    shutil.copy("net.onnx", "main")
    same = gate("net.onnx", baseline="main", max_growth=0)
    assert [(row.name, row.measured) for row in same.rows] == [("max_signature_changes", 0), ("max_growth.size", 0)]
    model = onnx.load("net.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.doc_string = "longer" * 10
    onnx.save(model, "net.onnx")
    changed = gate("net.onnx", baseline="main/net.onnx", max_growth="50%")
    assert [(row.name, row.passed) for row in changed.rows] == [
        ("max_signature_changes", False),
        ("max_growth.size", True),
    ]
    assert model.graph.input[0].name in str(changed.rows[0].reason)
    assert gate("net.onnx", baseline="main", max_signature_changes=1).passed
    assert gate("net.onnx", baseline="main", max_growth="0.1%").exit_code == 3


def test_limits_of_files(models: Path) -> None:
    Path("ci").mkdir()
    Path("ci/budget.toml").write_text(
        '[gate]\nmax_size = "1MB"\n[gate.file."../*.onnx"]\nmax_zeros = "5%"\n'
        '[gate.file."../dense.onnx"]\nmax_size = 10\n'
    )
    verdict = gate([], limits="ci/budget.toml")
    assert sorted((Path(row.target).name, row.name, row.limit, row.passed) for row in verdict.rows) == [
        ("dense.onnx", "max_size", 10, False),
        ("dense.onnx", "max_zeros", 0.05, True),
        ("net.onnx", "max_size", 1e6, True),
        ("net.onnx", "max_zeros", 0.05, False),
    ]
    assert [row.limit for row in gate("net.onnx", limits="ci/budget.toml", max_zeros=1).rows] == [1e6, 1]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('[gate.file."gone.onnx"]\nmax_size = 1', "missing"),
        ('[gate.file."net.onnx"]\nmax_sise = 1', "unknown-name"),
        ('[gate.file."net.onnx"]\nmax_latency = 1', "no-such-limit"),
        ("[gate.file]\nmax_size = 1", "no-such-limit"),
        ("[gate.onnx]\nmax_size = 1", "no-files"),
    ],
)
def test_limits_that_cannot_be_meant(models: Path, text: str, code: str) -> None:
    Path("budget.toml").write_text(text)
    with pytest.raises(UsageError) as refused:
        gate([], limits="budget.toml")
    assert refused.value.code == code


def test_bad_input(models: Path) -> None:
    (models / "cut.onnx").write_bytes((models / "net.onnx").read_bytes()[:5000])
    for given, code in (("cut.onnx", "damaged"), ("gone.onnx", "missing"), ("gone.dwindle", None)):
        with pytest.raises(DwindleError) as refused:
            gate(given, max_size="1MB")
        assert code in (None, refused.value.code)
    for options, code in (
        ({"baseline": "gone"}, "missing"),
        ({"baseline": "net.tflite"}, "other-network"),
        ({}, "no-limits"),
    ):
        Path("net.tflite").touch()
        with pytest.raises(UsageError) as refused:
            gate("net.onnx", **options)  # type: ignore[arg-type]
        assert refused.value.code == code


def test_names_of_others_are_text_in_every_view(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load("net.onnx")
    model.graph.output[0].name = "<b>|\x1b[31m"
    model.graph.node[-1].output[0] = "<b>|\x1b[31m"
    onnx.save(model, "a|b<i>.onnx")
    arguments = ["gate", "a|b<i>.onnx", "--max-size", "1MB", "--json", "--markdown", "out.md", "--junit", "out.xml"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["files"]["a|b<i>.onnx"]["outputs"][0]["name"] == "<b>|\x1b[31m"
    assert "\x1b[31m" not in printed.err
    text = Path("out.md").read_text()
    assert "<b>" not in text
    assert "<i>" not in text
    assert "\\|" in text


def test_a_renamed_file_does_not_escape_its_growth(models: Path) -> None:
    (models / "main").mkdir()
    shutil.move("net.onnx", "main")
    shutil.copy("dense.onnx", "main")
    model = onnx.load("main/net.onnx")
    model.doc_string = "longer" * 1000
    onnx.save(model, "renamed.onnx")
    verdict = gate("renamed.onnx", baseline="main", max_growth="5%")
    assert [(row.name, row.passed) for row in verdict.rows] == [
        ("max_signature_changes", True),
        ("max_growth.size", False),
    ]
    assert "main/net.onnx" in verdict.notes[0]  # not dense.onnx, which is still there
    model.graph.input[0].name = model.graph.node[0].input[0] = "other"
    onnx.save(model, "other.onnx")
    new = gate("other.onnx", baseline="main", max_growth="5%", max_size="1MB")
    assert [row.name for row in new.rows] == ["max_size"]
    assert "is new" in new.notes[0]


def test_a_file_that_is_new_beside_the_others_is_new(models: Path) -> None:
    """As long as all files of the baseline are there, none can have been renamed."""
    (models / "main").mkdir()
    shutil.copy("dense.onnx", "main")
    assert "is new" in gate("net.onnx", baseline="main", max_growth=0, max_size="1MB").notes[0]
    assert gate("net.onnx", baseline="main/dense.onnx", max_growth=0).notes == ()
