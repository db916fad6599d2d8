"""The checkpoint refuses what it cannot vouch for, and says what to do."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle import checkpoint, lock, record, saved_rounds
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import CheckpointError, DwindleError, UsageError
from dwindle.mask_files import pack_masks, unpack_masks
from dwindle.record import Round
from dwindle.sealed import read_tensors, seal, unseal

ROUND = Round(index=0, density=1.0, bytes=100, validation=90.0, loss=0.1, seconds=1.0)


def finished(path: Path) -> Checkpoint:
    running = checkpoint.start(path, {"model": "m", "target": "onnx"})
    weights = {"w": torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]])}
    saved_rounds.save_round(path, ROUND, (), record.Cuts(), {"weights": weights})
    done = dataclasses.replace(running, done=True, history=(ROUND,), metrics={"test": 90.0})
    tensors = {"weights": weights, "dense": weights, "masks": pack_masks({"w": weights["w"] != 0})}
    return checkpoint.finish(done, tensors, {})


def test_a_finished_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    found = finished(tmp_path / "net.dwindle")
    assert found.done
    assert found.history == (ROUND,)
    assert torch.equal(found.masks["w"], found.weights["w"] != 0)
    assert not (found.path / "rounds").exists()


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 7)), max_size=4), st.integers(0, 99))
def test_masks_survive_packing(shapes: list[tuple[int, int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = {str(i): torch.rand(shape, generator=generator) > 0.5 for i, shape in enumerate(shapes)}
    back = unpack_masks(pack_masks(masks), masks)
    assert all(torch.equal(back[name], mask) for name, mask in masks.items())


def test_the_same_options_resume_and_others_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.dwindle"
    checkpoint.start(path, {"model": "m", "seed": 0})
    assert not checkpoint.start(path, {"model": "m", "seed": 0}).done
    saved_rounds.save_partial(path, 0, {}, record.Cuts(), {})
    with pytest.raises(UsageError, match="seed was 0, is 1"):
        checkpoint.start(path, {"model": "m", "seed": 1})


def test_of_a_task_only_what_differs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.dwindle"
    checkpoint.start(path, {"task": {"data": "digits", "epochs": 20}})
    saved_rounds.save_partial(path, 0, {}, record.Cuts(), {})
    with pytest.raises(UsageError, match=r"made with other options \(task\.epochs was 20, is 10\): repeat"):
        checkpoint.start(path, {"task": {"data": "digits", "epochs": 10}})


def test_where_nothing_was_saved_other_options_take_its_place(tmp_path: Path) -> None:
    path = tmp_path / "net.dwindle"
    checkpoint.start(path, {"seed": 0})
    with lock.locked(path):
        with pytest.raises(UsageError) as refused, lock.locked(path):
            checkpoint.start(path, {"seed": 1})
        assert refused.value.code == "locked"
        checkpoint.start(path, {"seed": 1})
    assert Checkpoint.load(path).origin == {"seed": 1}
    saved_rounds.save_partial(path, 0, {}, record.Cuts(), {})
    with pytest.raises(UsageError, match="seed was 1, is 2"):
        checkpoint.start(path, {"seed": 2})


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        lock.locked(tmp_path),
        pytest.raises(UsageError, match="another run is at work"),
        lock.locked(tmp_path),
    ):
        pass
    with lock.locked(tmp_path):
        pass


def test_a_path_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UsageError, match="not a checkpoint"):
            checkpoint.start(path, {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DwindleError, match="cannot write"):
        checkpoint.start(tmp_path / "file" / "net.dwindle", {})


def test_a_newer_schema_is_refused_by_number(tmp_path: Path) -> None:
    path = finished(tmp_path / "net.dwindle").path
    document = unseal(path, "checkpoint.json")
    seal(path, "checkpoint.json", {**document, "schema": 99}, {})
    with pytest.raises(CheckpointError, match="schema 99"):
        Checkpoint.load(path)


@pytest.mark.parametrize("change", [{"history": [{"index": 0, "watts": 3}]}, {"pinned": None}])
def test_fields_of_a_later_version_are_one_sentence(tmp_path: Path, change: dict[str, object]) -> None:
    path = finished(tmp_path / "net.dwindle").path
    seal(path, "checkpoint.json", {**unseal(path, "checkpoint.json"), **change}, {})
    with pytest.raises(CheckpointError, match=r"; use the dwindle that wrote it, or upgrade$") as refused:
        Checkpoint.load(path)
    assert (refused.value.code, refused.value.path) == ("field", path / "checkpoint.json")


@pytest.mark.parametrize("change", [{"history": [{"index": 0, "watts": 3}]}, {"structure": None}])
def test_so_are_those_of_a_saved_round(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "net.dwindle"
    checkpoint.start(path, {"model": "m"})
    saved_rounds.save_round(path, ROUND, (), record.Cuts(), {"weights": {"w": torch.ones(2)}})
    folder = saved_rounds.dense_round(path)
    seal(folder, "round.json", {**unseal(folder, "round.json"), **change}, {})
    with pytest.raises(CheckpointError, match=r"; use the dwindle that wrote it, or upgrade$") as refused:
        saved_rounds.last_round(path)
    assert (refused.value.code, refused.value.path) == ("field", folder / "round.json")


def test_a_hash_mismatch_names_the_file(tmp_path: Path) -> None:
    path = finished(tmp_path / "net.dwindle").path
    weights = path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is corrupt"):
        Checkpoint.load(path)


def test_a_killed_final_write_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    path = tmp_path / "net.dwindle"
    checkpoint.start(path, {"model": "m"})
    saved_rounds.save_round(path, ROUND, (), record.Cuts(), {"weights": {"w": torch.ones(2)}})
    (path / "weights.safetensors").write_bytes(b"half a fi")  # what a kill between the files leaves
    assert not Checkpoint.load(path).done
    history, _, folder = saved_rounds.last_round(path) or ((), {}, path)
    assert history == (ROUND,)
    assert json.loads((folder / "round.json").read_text())["history"]


def test_a_run_killed_after_its_last_write_leaves_nothing_behind(tmp_path: Path) -> None:
    done = finished(tmp_path / "net.dwindle")
    saved_rounds.save_partial(done.path, 1, {}, record.Cuts(), {})
    scratch = done.path / ".dwindle-abcd_123"
    scratch.mkdir()
    (scratch / "for").write_text("weights.safetensors")
    assert checkpoint.start(done.path, done.origin).done
    assert not (done.path / "rounds").exists()
    assert not scratch.exists()
    assert Checkpoint.load(done.path).weights


def test_what_is_unfinished_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unfinished"):
        checkpoint.start(tmp_path / "net.dwindle", {}).require_done()


def test_no_checkpoint_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        Checkpoint.load(tmp_path / "nowhere")


def resealed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A checkpoint whose document was altered and hashed anew, as whoever sends one can."""
    document = unseal(finished(path).path, "checkpoint.json")
    change(document)
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    (path / "checkpoint.json").write_text(json.dumps({**document, "sha256": digest}))
    return path


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda document: document.pop("files"), "files"),
        (lambda document: document["files"].update({"../a": "0"}), "files.../a"),
        (lambda document: document.pop("origin"), "origin"),
        (lambda document: document.update(origin=[]), "origin"),
        (lambda document: document.update(done="no"), "done"),
        (lambda document: document.update(metrics=None), "metrics"),
        (lambda document: document["metrics"].update(test="x"), "metrics.test"),
        (lambda document: document["metrics"].update(test=True), "metrics.test"),
        (lambda document: document["metrics"].update(test=10**400), "metrics.test"),
        (lambda document: document.update(pinned=[{"layer": "a"}]), "pinned.0.channels"),
        (lambda document: document["history"][0].pop("bytes"), "history.0.bytes"),
        (lambda document: document["history"][0].update(bytes=0), "history.0.bytes"),
        (lambda document: document["history"][0].update(density=1.5), "history.0.density"),
        (lambda document: document["history"][0].update(seconds="a"), "history.0.seconds"),
        (lambda document: document["history"][0].update(validation=None), "history.0.validation"),
        (lambda document: document.update(watts=3), "watts"),
    ],
)
def test_a_document_without_its_fields_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], field: str
) -> None:
    with pytest.raises(CheckpointError) as refused:
        Checkpoint.load(resealed(tmp_path / "net.dwindle", change))
    assert refused.value.name == field
    assert refused.value.path == tmp_path / "net.dwindle/checkpoint.json"


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        (lambda document: document.update(origin={}), "origin.target, metrics.dense_test"),
        (lambda document: document.update(history=[]), "history.bytes, metrics.dense_test"),
        (lambda document: document["history"][0].update(bytes=None), "history.bytes, metrics.dense_test"),
        (lambda document: document.update(metrics={}), "metrics.test, metrics.dense_test"),
        (lambda document: document.update(metrics={}, history=[], done=False, origin={}), "origin.target"),
    ],
)
def test_show_says_what_figures_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object], lacks: str
) -> None:
    path = resealed(tmp_path / "net.dwindle", change)
    assert main(["show", str(path)]) == 1
    assert f"checkpoint.json lacks {lacks}: restore it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "masks",
    [
        {"w": torch.zeros(0, dtype=torch.uint8)},
        {"w": torch.zeros(2, dtype=torch.uint8)},
        {"w": torch.zeros(1)},
        {"w": torch.zeros((1, 1), dtype=torch.uint8)},
        {"other": torch.zeros(1, dtype=torch.uint8)},
    ],
)
def test_masks_that_do_not_fit_are_refused_and_not_read_as_zeros(
    tmp_path: Path, masks: dict[str, torch.Tensor]
) -> None:
    path = finished(tmp_path / "net.dwindle").path
    document = unseal(path, "checkpoint.json")
    document.pop("files")
    weights = Checkpoint.load(path).weights
    seal(path, "checkpoint.json", document, {"weights": weights, "dense": weights, "masks": masks})
    with pytest.raises(CheckpointError) as refused:
        _ = Checkpoint.load(path).masks
    assert (refused.value.code, refused.value.name) == ("mask", next(iter(masks)))
    assert refused.value.path == path / "masks.safetensors"


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]"])
def test_tensors_that_cannot_be_read_name_their_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError) as refused:
        read_tensors(tmp_path, "weights")
    assert refused.value.path == tmp_path / "weights.safetensors"


@pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint.json", "bench.json", "exports/a", "rounds/a.html"])
def test_no_output_goes_over_a_part_of_a_checkpoint(tmp_path: Path, name: str) -> None:
    path = finished(tmp_path / "net.dwindle").path
    with pytest.raises(UsageError) as refused:
        checkpoint.require_not_sealed(path / name)
    assert refused.value.code == "sealed"
    for fine in (path / "report.html", path / "own/report.html", tmp_path / "weights.safetensors"):
        checkpoint.require_not_sealed(fine)


def test_rounds_and_documents_from_before_there_were_cuts_and_numerics_in_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.dwindle"
    numerics = record.Numerics(1, False, "cpu", "a processor", "AVX2")
    checkpoint.start(path, {"model": "m"}, numerics=numerics)
    left = (record.Uncut("conv", 8, 16, "it is an output"),)
    saved_rounds.save_round(path, ROUND, (), record.Cuts(uncut=left), {"weights": {"w": torch.ones(2)}})
    assert Checkpoint.load(path).numerics == numerics
    _, cuts, folder = saved_rounds.last_round(path) or ((), record.Cuts(), path)
    assert cuts.uncut == left
    for place, name, key in ((path, "checkpoint.json", "numerics"), (folder, "round.json", "pinned")):
        document = unseal(place, name)
        del document[key]
        seal(place, name, document, {"weights": {"w": torch.ones(2)}} if place == folder else {})
    assert Checkpoint.load(path).numerics is None
    assert (saved_rounds.last_round(path) or ((), None, path))[1] == record.Cuts()


def test_a_run_that_saved_nothing_begins_anew_with_what_is_here_now(tmp_path: Path) -> None:
    path = tmp_path / "net.dwindle"
    then = record.Numerics(1, False, "cpu", "a processor", "AVX2")
    checkpoint.start(path, {"seed": 0}, numerics=then)
    now = dataclasses.replace(then, threads=2)
    assert checkpoint.start(path, {"seed": 0}, numerics=now).numerics == now
    saved_rounds.save_partial(path, 0, {}, record.Cuts(), {})
    assert checkpoint.start(path, {"seed": 0}, numerics=then).numerics == now


def test_a_notebook_shows_a_table_in_which_nothing_is_markup(tmp_path: Path) -> None:
    history = (Round(0, 1.0, 300_000, 91.5, None, 1.0), Round(1, 0.25, 90_000, 91.25, 0.5, 1.0))
    net = Checkpoint(tmp_path / "<net>", {"model": {"spec": "<script>"}}, True, history, {"test": 90.0}, {})
    shown = net._repr_html_()
    assert "<script>" not in shown
    assert "<net>" not in shown
    for cell in ("25.0%", "91.25", "91.50", "300,000 → 90,000", "90.00"):
        assert f"<td>{cell}</td>" in shown
