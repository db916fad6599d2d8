"""From a request to what is done: what is recorded of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dwindle.compress import Request
from dwindle.compress.recipes import RECIPES
from dwindle.compress.resolve import resolve
from dwindle.errors import UsageError
from dwindle.models.tasks import make_task

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "origins.json").read_text())
"""Requests, and the origins that dwindle recorded for them before options were declared in one place."""


def request_of(recorded: dict[str, Any], folder: Path) -> Request:
    """The recorded request, its weights in a file of `folder`."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in recorded["request"].items()}
    if "weights" in given:
        (folder / given["weights"]).write_bytes(b"weights")
        given["weights"] = str(folder / given["weights"])
    return Request(**given)


@pytest.mark.parametrize("recorded", RECORDED)
def test_runs_that_were_begun_before_can_be_resumed(recorded: dict[str, Any], tmp_path: Path) -> None:
    resolved = resolve(request_of(recorded, tmp_path))
    options = dict(resolved.task_options)
    task = make_task(options).origin if "data" in options else options  # type: ignore[attr-defined]
    found = json.loads(json.dumps({"model": recorded["origin"]["model"], "task": task, **resolved.origin}))
    assert found == recorded["origin"]
    assert list(found) == list(recorded["origin"])


def test_a_request_is_plain_data() -> None:
    asked = Request("nothing", task={"data": "nowhere"}, size="unreadable", prune_per_round=7.0, method="none")
    assert asked == Request("nothing", task={"data": "nowhere"}, size="unreadable", prune_per_round=7.0, method="none")


def test_every_default_is_filled_in() -> None:
    full = resolve(Request("zoo:resnet8", "digits", size="30KB", recipe="best", method="weight-rewind")).request
    assert (full.size, full.precision, full.score, full.rewind_to) == (30_000, "fp32", RECIPES["best"].score, 0.1)
    assert full.recalibrate


@pytest.mark.parametrize(
    ("options", "option", "code"),
    [
        ({"rounds": 0}, "rounds", "out-of-range"),
        ({"prune_per_round": 1.0}, "prune_per_round", "out-of-range"),
        ({"rewind_to": 2.0}, "rewind_to", "out-of-range"),
        ({"align": 0}, "align", "out-of-range"),
        ({"layer_floor": 1.0}, "layer_floor", "out-of-range"),
        ({"save_every": -1.0}, "save_every", "out-of-range"),
        ({"save_every": float("nan")}, "save_every", "out-of-range"),
        ({"gradual": 1.5}, "gradual", "out-of-range"),
        ({"seed": -1}, "seed", "out-of-range"),
        ({"seed": 2**63}, "seed", "out-of-range"),
        ({"density": None, "max_drop": -1.0}, "max_drop", "out-of-range"),
        ({"density": None, "max_drop": float("nan")}, "max_drop", "out-of-range"),
        ({"density": None, "max_drop": float("inf")}, "max_drop", "out-of-range"),
        ({"size": "big"}, None, "invalid-value"),
        ({"macs": "half"}, None, "invalid-value"),
        ({"method": "amd"}, "method", "unknown-name"),
        ({"recipe": "bset"}, "recipe", "unknown-name"),
        ({"recipe": ""}, "recipe", "unknown-name"),
        ({"score": "lmap"}, None, "unknown-name"),
        ({"score": ""}, None, "unknown-name"),
        ({"target": "onyx"}, None, "unknown-name"),
        ({"macs": "50%", "granularity": "unstructured"}, "macs", "conflict"),
        ({"granularity": "unstructured+channel"}, "granularity", "invalid-value"),
        ({"granularity": "channel+2:4"}, "granularity", "conflict"),
        ({"macs": 0.5, "granularity": "channel+unstructured", "rounds": 2}, "granularity", "conflict"),
        ({"macs": 0.5, "granularity": "channel+unstructured", "max_drop": 1.0}, "max_drop", "conflict"),
        ({"density": None, "granularity": "channel+2:4", "max_drop": 1.0}, "max_drop", "conflict"),
        ({"density": None, "granularity": "channel+unstructured"}, "granularity", "conflict"),
        ({"density": None, "max_drop": 1.0, "rounds": 3}, "rounds", "conflict"),
        ({"max_drop": 1.0, "size": "20KB"}, "max_drop", "conflict"),
        ({"density": None, "max_drop": 1.0, "granularity": "2:4"}, "max_drop", "conflict"),
        ({"episodes": 5}, "episodes", "conflict"),
        ({"method": "weight-rewind", "weights": "net.pt"}, "weights", "conflict"),
        ({"method": "lottery-ticket", "weights": "net.pt"}, "weights", "conflict"),
        ({"method": "lottery-ticket", "rewind_to": 0.5}, "rewind_to", "conflict"),
        ({"method": "finetune", "recipe": "best"}, "schedule", "conflict"),
        ({"method": "amc", "gradual": 0.5}, "gradual", "conflict"),
        ({"method": "weight-rewind", "gradual": 0.5}, "gradual", "conflict"),
        ({"method": "lottery-ticket", "gradual": 0.5}, "gradual", "conflict"),
        ({"method": "finetune", "gradual": 0.5}, "gradual", "conflict"),
        ({"density": None, "macs": 0.5, "granularity": "channel", "gradual": 0.5}, "gradual", "conflict"),
        ({"density": None, "granularity": "2:4", "gradual": 0.5}, "gradual", "conflict"),
        ({"method": "calibrate"}, "weights", "missing-option"),
        ({"method": "keep", "density": None}, "weights", "missing-option"),
        ({"method": "calibrate", "weights": "net.pt", "rounds": 2}, "rounds", "conflict"),
        ({"method": "calibrate", "weights": "net.pt", "gradual": 0.5}, "gradual", "conflict"),
        ({"method": "calibrate", "weights": "net.pt", "recipe": "best"}, "recipe", "conflict"),
        ({"method": "calibrate", "weights": "net.pt", "rewind_to": 0.5}, "rewind_to", "conflict"),
        ({"method": "calibrate", "weights": "net.pt", "prune_per_round": 0.5}, "prune_per_round", "conflict"),
        ({"method": "calibrate", "weights": "net.pt", "task": {"data": "digits", "epochs": 3}}, "epochs", "conflict"),
        ({"method": "calibrate", "weights": "net.pt", "calib_samples": 1}, "calib_samples", "out-of-range"),
        ({"calib_samples": 100}, "calib_samples", "conflict"),
        ({"rounding": "up"}, "rounding", "unknown-name"),
        ({"update": "most"}, "update", "unknown-name"),
        ({"update": "least-squares", "gradual": 0.5}, "update", "conflict"),
        ({"update": "least-squares", "method": "weight-rewind"}, "update", "conflict"),
        ({"update": "least-squares", "method": "calibrate", "weights": "net.pt"}, "update", "conflict"),
        ({"rounding": "calibrated", "precision": "int8"}, "rounding", "conflict"),
        ({"method": "calibrate", "weights": "net.pt", "rounding": "calibrated"}, "rounding", "unused-option"),
        ({"method": "keep", "weights": "net.pt"}, "density", "conflict"),
        ({"method": "keep", "weights": "net.pt", "density": None, "exclude": ("conv",)}, "exclude", "conflict"),
        ({"method": "amc", "score": "lamp"}, "score", "conflict"),
        ({"method": "amc", "density": None, "max_drop": 1.0}, "max_drop", "conflict"),
        ({"method": "amc", "granularity": "2:4"}, "granularity", "conflict"),
        ({"density": None}, None, "no-budget"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_option_at_fault(
    options: dict[str, Any], option: str | None, code: str
) -> None:
    with pytest.raises(UsageError) as refused:
        resolve(Request("zoo:resnet8", **{"task": "digits", "density": 0.5, **options}))
    assert (refused.value.code, refused.value.option) == (code, option)
    assert "--" not in str(refused.value).replace("`dwindle gate --max-drop`", ""), "Python callers have no flags"


@pytest.mark.parametrize("method", ["calibrate", "keep"])
@pytest.mark.parametrize(
    ("model", "options"), [("package.module:net", {}), (torch.nn.Linear(2, 2), {}), ("hf:FOLDER", {"pretrained": True})]
)
def test_what_trains_nothing_takes_a_network_that_has_its_weights(
    model: Any, options: dict[str, Any], method: str
) -> None:
    budget = {"density": 0.5} if method == "calibrate" else {}
    assert resolve(Request(model, task={"task": "package.module:Task"}, method=method, **budget, **options)).method


def test_an_agent_needs_two_episodes() -> None:
    with pytest.raises(UsageError) as refused:
        resolve(Request("zoo:resnet8", "digits", density=0.5, method="amc", episodes=1))
    assert refused.value.option == "episodes"


def test_a_pattern_brings_its_own_budget() -> None:
    assert resolve(Request("zoo:resnet8", "digits", granularity="2:4")).phases[0][1].density == 0.5
