from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn

from dwindle.models.layerwise import collect
from dwindle.models.layerwise.collect import Batches, batched
from dwindle.models.layerwise.survey import Survey, survey

SAMPLES = (torch.arange(40.0)[:, None, None, None].expand(40, 1, 8, 8) + torch.rand(40, 1, 8, 8) / 2,)


def surveyed() -> Survey:
    """Of a network whose maps shrink: at the first two layers it holds 1,280 bytes a sample, then 320, then 96."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 2, 2), nn.Conv2d(4, 4, 2, 2), nn.Conv2d(4, 2, 1)
    )  # fmt: skip
    return survey(model, SAMPLES, {f"{index}.weight": model.get_parameter(f"{index}.weight") for index in range(4)})


def taken(monkeypatch: pytest.MonkeyPatch, most: int) -> Batches:
    monkeypatch.setattr(collect, "MOST", most)
    return batched(SAMPLES, surveyed())


def test_all_are_there_from_the_start_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "BATCH", 2**11)
    found = taken(monkeypatch, 2**20)
    assert found.samples == 40
    assert found.note is None
    assert len(found.tensors) > 1
    assert set(found.present.values()) == {len(found.tensors)}
    assert torch.equal(torch.cat([tensor for (tensor,) in found.tensors]), SAMPLES[0])


def test_fewer_are_at_layers_with_large_maps_and_all_at_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "BATCH", 2**10)
    held, most = surveyed().held, 40 * 2 * 100
    found = taken(monkeypatch, most)
    assert (found.samples, found.note) == (40, None)
    assert list(found.present) == ["0", "1", "2", "3"]
    assert found.present["0"] == found.present["1"] < found.present["2"] < found.present["3"] == len(found.tensors)
    for layer, count in found.present.items():
        there = sum(len(tensor) for (tensor,) in found.tensors[:count])
        assert 2 * held[layer] * there <= most < 2 * held[layer] * (there + 3) or there == 40
    assert torch.cat([tensor for (tensor,) in found.tensors]).floor().unique().numel() == 40


def test_each_batch_is_of_samples_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    found = taken(monkeypatch, 40 * 2 * 100)
    first = found.tensors[0][0][:, 0, 0, 0].floor()
    assert (first[0], first[-1] >= 40 - len(found.tensors)) == (0, True)


@pytest.mark.parametrize("most", [1, 2 * 2 * 1280])
def test_two_samples_are_there_in_any_case(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    found = taken(monkeypatch, most)
    assert found.present["0"] == 1
    assert len(found.tensors[0][0]) == 2


def test_that_the_last_layer_has_no_room_for_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = taken(monkeypatch, surveyed().held["3"] * 2 * 30)
    assert found.samples == 30
    assert found.note is not None
    assert "30 of 40" in found.note


def test_a_part_of_what_is_free_is_taken_where_that_is_less(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, free = taken(monkeypatch, 2**20), SimpleNamespace(available=2**17 + 5)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert taken(monkeypatch, 2**20).present == taken(monkeypatch, 2**16).present != whole.present
