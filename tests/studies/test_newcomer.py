"""The newcomer's job: the dense network beside it, which is trained on for as many trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dwindle.compress import Request, compress
from dwindle.compress.watcher import Watcher
from dwindle.models.checked_task import CheckedTask
from studies.real.newcomer import trained_on


@pytest.mark.slow
def test_a_training_on_that_was_stopped_goes_on_to_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"data": "digits", "epochs": 1}
    request = Request("zoo:resnet8", options, density=0.5, rounds=2, target="pytorch", rehearsal=False)
    net = compress(request, tmp_path / "net.dwindle", Watcher())
    at_once, in_parts = tmp_path / "at once.pt", tmp_path / "in parts.pt"
    best = trained_on(net, at_once).state_dict()
    fit, left = CheckedTask.fit, [1]

    def once(self: CheckedTask, *given: object, **named: object) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        fit(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckedTask, "fit", once)
    with pytest.raises(KeyboardInterrupt):
        trained_on(net, in_parts)
    monkeypatch.setattr(CheckedTask, "fit", fit)
    again = trained_on(net, in_parts).state_dict()
    assert all(torch.equal(best[name], again[name]) for name in best)
    one, other = (torch.load(file, weights_only=True)["network"] for file in (at_once, in_parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
