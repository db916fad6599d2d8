from __future__ import annotations

from pathlib import Path

import pytest

from dwindle.errors import CheckpointError, DwindleError, ParityFailed
from dwindle.export import side_by_side
from dwindle.export.options import ExportOptions

PLAIN = ExportOptions()

MODULE = """
import sys
from types import ModuleType

from dwindle import errors

class Own(errors.ParityFailed):
    pass

def export_one(checkpoint, name, options, progress, trust):
    progress(f"{name}: begins {checkpoint}")
    print("chatter")
    if name == "bad":
        raise errors.CheckpointError("it is damaged", code="damaged", path="net/masks", option="target", name="masks")
    if name == "own":
        raise Own("it differs")
    if name == "dead":
        sys.exit("no memory")

# Nor is anything else there that an export imports: it takes seconds.
heavy = ("torch.export._trace", "torchvision.models", "dwindle.models.tasks", "dwindle.models.build")
sys.modules.update({name: ModuleType(name) for name in (*heavy, "dwindle.export.one_target")})
sys.modules["dwindle.export.one_target"].export_one = export_one
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process of these tests imports a stage that only says what it would do."""
    (tmp_path / "sitecustomize.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.slow
def test_every_target_reports_its_progress() -> None:
    said: list[str] = []
    assert side_by_side.run(Path("net"), {"one": PLAIN, "two": PLAIN}, said.append) == {}
    assert sorted(said) == ["one: begins net", "two: begins net"]


@pytest.mark.parametrize(
    ("name", "kind", "message", "code"),
    [
        pytest.param("bad", CheckpointError, "it is damaged", "damaged", marks=pytest.mark.slow),
        ("own", ParityFailed, "it differs", None),
        ("dead", DwindleError, "the export to dead ended with 1: no memory", "process-died"),
    ],
)
def test_a_failure_comes_back_and_the_others_go_on(
    name: str, kind: type[DwindleError], message: str, code: str | None
) -> None:
    said: list[str] = []
    failed = side_by_side.run(Path("net"), {name: PLAIN, "two": PLAIN}, said.append)
    assert failed.keys() == {name}
    assert type(failed[name]) is kind
    assert (str(failed[name]), failed[name].code) == (message, code)
    assert failed[name].exit_code == (4 if name == "own" else 1)
    assert "two: begins net" in said


def test_the_fields_of_a_failure_come_back() -> None:
    failed = side_by_side.run(Path("net"), {"bad": PLAIN}, [].append)["bad"]
    assert failed.path == Path("net/masks")
    assert (failed.option, failed.name) == ("target", "masks")
