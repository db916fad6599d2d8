from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dwindle.errors import UsageError
from dwindle.tracking import TRACKERS, JsonLines, Tracker, tracker

ORIGIN = {"task": {"data": "digits", "epochs": 2}, "density": 0.5, "include": ["*"]}


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(each: Tracker) -> None:
    each.begin("net", ORIGIN)
    each.log({"loss": 0.5}, 10)
    each.log({"loss": 0.25, "round/validation": 97.5}, 1000)
    each.end()


def test_json_lines_are_what_was_logged(tmp_path: Path) -> None:
    run(JsonLines(tmp_path / "history.jsonl"))
    found = entries(tmp_path / "history.jsonl")
    assert [entry.pop("time") is not None for entry in found] == [True] * 4
    assert found == [
        {"event": "begin", "name": "net", "origin": ORIGIN},
        {"event": "figures", "step": 10, "loss": 0.5},
        {"event": "figures", "step": 1000, "loss": 0.25, "round/validation": 97.5},
        {"event": "end"},
    ]


def test_a_line_that_a_kill_cut_short_is_mended_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    run(JsonLines(path))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"time": "2026-')
    run(JsonLines(path))
    assert path.read_bytes().startswith(whole)
    assert [entry["event"] for entry in entries(path)] == ["begin", "figures", "figures", "end"] * 2
    path.write_bytes(b'{"ti')
    run(JsonLines(path))
    assert len(entries(path)) == 4


@pytest.mark.needs("tensorboard")
def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tracker(f"tensorboard:{tmp_path}"))
    found = EventAccumulator(str(tmp_path / "net"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(10, 0.5), (1000, 0.25)]
    assert [(event.step, event.value) for event in found.Scalars("round/validation")] == [(1000, 97.5)]
    assert b"- task.epochs: `2`" in found.Tensors("origin/text_summary")[0].tensor_proto.string_val[0]


@pytest.mark.needs("mlflow")
def test_a_place_that_mlflow_refuses_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`track` mlflow:nowhere://x can't be opened \(.*\): name another place"):
        tracker("mlflow:nowhere://x")


@pytest.mark.needs("mlflow")
def test_mlflow_reads_back_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(tracking_uri=tmp_path.as_uri())
    for _ in range(2):  # the experiment is made once
        run(tracker(f"mlflow:{tmp_path.as_uri()}"))
    found = client.search_runs([client.get_experiment_by_name("dwindle").experiment_id])
    assert len(found) == 2
    assert found[0].info.run_name == "net"
    assert found[0].info.status == "FINISHED"
    assert found[0].data.params["task.epochs"] == "2"
    history = client.get_metric_history(found[0].info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.5), (1000, 0.25)]


@pytest.mark.needs("trackio")
def test_trackio_reads_back_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when it is imported
    from trackio.sqlite_storage import SQLiteStorage

    run(tracker("trackio:dwindle-test"))
    found = SQLiteStorage.get_logs("dwindle-test", "net")
    assert [(entry["step"], entry["loss"]) for entry in found] == [(10, 0.5), (1000, 0.25)]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("tensorbord:runs", "unknown tracker 'tensorbord': did you mean 'tensorboard'"),
        ("tensorboard", "`track` tensorboard needs to know where: write tensorboard:DIR"),
        ("mlflow:", "write mlflow:URI"),
    ],
)
def test_what_is_refused(spec: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        tracker(spec)


@pytest.mark.parametrize("kind", TRACKERS)
def test_an_extra_that_is_missing_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(kind, kind), None)
    with pytest.raises(UsageError, match=rf"`track` {kind} needs its extra: pip install 'dwindle\[{kind}\]'"):
        tracker(f"{kind}:somewhere")
