from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dwindle.compress.resolve import resolve
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task
from studies.smallest.others import Start
from studies.smallest.run import NETWORKS, OURS, request


@pytest.mark.parametrize("name", NETWORKS)
def test_each_of_our_ways_is_a_request_that_holds_together(name: str, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "dense.safetensors")
    task = make_task({"data": "digits"}).given
    assert isinstance(task, ImageClassification)
    found = resolve(request(Start(task, torch.nn.Identity(), tmp_path / "dense.safetensors", 0, 3), name))
    assert found.request.precision == NETWORKS[name]["precision"]
    assert found.phases[-1][1].allowance or found.request.size


def test_every_way_writes_a_network() -> None:
    assert {name for ways in OURS.values() for name in ways.values()} == set(NETWORKS)
