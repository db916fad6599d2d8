"""Every byte of a checkpoint is read, and what is damaged is named while the rest is still looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dwindle.cli import main
from dwindle.errors import CheckpointError
from dwindle.sealed import sealed_json
from dwindle.verify import verify
from tests.fuzz import arrange


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("made")
    return arrange.finished(folder / "done").path, arrange.unfinished(folder / "running").path


@pytest.fixture
def done(tmp_path: Path, made: tuple[Path, Path]) -> Path:
    return arrange.copied(made[0], tmp_path / "net.dwindle")


@pytest.mark.parametrize("index", [0, 1])
def test_a_whole_one_is_whole_to_the_last_file(made: tuple[Path, Path], index: int) -> None:
    found = verify(made[index])
    assert found.whole
    assert found.others == ()
    assert {part.name for part in found.parts} == {
        file.relative_to(made[index]).as_posix() for file in made[index].rglob("*") if file.is_file()
    }
    assert all(part.bytes == (made[index] / part.name).stat().st_size for part in found.parts)


@pytest.mark.parametrize("index", [0, 1])
def test_a_flipped_byte_of_any_file_is_found_and_nothing_else_is_blamed(
    made: tuple[Path, Path], index: int, tmp_path: Path
) -> None:
    path = arrange.copied(made[index], tmp_path / "net.dwindle")
    for part in verify(path).parts:
        if part.name == "bench.json":
            continue  # has no seal of its own yet: its figures are held against the manifests'
        file = path / part.name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        before = file.read_bytes()
        file.write_bytes(content)
        found = verify(path)
        file.write_bytes(before)
        assert part.name in {other.name for other in found.parts if other.damage}
        if not part.name.endswith(".json"):
            assert [other.name for other in found.parts if other.damage] == [part.name]


def test_a_missing_file_is_damage_and_an_own_one_is_not(done: Path) -> None:
    (done / "report.html").write_text("mine")
    (done / "exports/onnx/net.onnx").unlink()
    found = verify(done)
    assert [part.name for part in found.parts if part.damage] == ["exports/onnx/net.onnx"]
    assert found.others == ("report.html",)


def test_a_file_that_nothing_vouches_for_is_damage_where_it_would_be_used(done: Path) -> None:
    (done / "structure.json").write_text("{}")
    document = json.loads((done / "checkpoint.json").read_text())
    document.pop("sha256")
    document["files"].pop("structure.json", None)
    (done / "checkpoint.json").write_text(json.dumps(sealed_json(document)))
    assert [part.name for part in verify(done).parts if part.damage] == ["structure.json"]


def test_a_copied_export_is_damage(done: Path) -> None:
    arrange.copied(done / "exports/onnx", done / "exports/onnx.bak")
    assert [part.name for part in verify(done).parts if part.damage] == ["exports/onnx.bak/manifest.json"]


def test_the_command_says_so_in_a_table_in_json_and_by_its_exit_code(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(done)]) == 0
    assert "weights.safetensors" in capsys.readouterr().out
    (done / "weights.safetensors").write_bytes(b"x")
    assert main(["verify", str(done), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["whole"] is False
    assert [part["name"] for part in found["parts"] if part["damage"]] == ["weights.safetensors"]


def test_where_there_is_no_checkpoint_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as refused:
        verify(tmp_path)
    assert refused.value.code == "no-checkpoint"
