from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.calibrate.prune import Position, prune
from dwindle.compress.calibrate.reconstruct import Layer
from dwindle.compress.channels import Channels
from dwindle.compress.masks import masks_hold, prunable
from dwindle.compress.n_of_m import NofM
from dwindle.compress.network import Granularity, Network
from dwindle.compress.recalibrate import recalibrate
from dwindle.models.layerwise import collect
from dwindle.models.layerwise.survey import survey
from dwindle.models.zoo import resnet8
from tests.compress.calibrate.test_reconstruct import NETWORKS

INPUTS = (torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


@pytest.fixture
def dense() -> nn.Module:
    torch.manual_seed(0)
    model = resnet8(num_classes=5, in_channels=1)
    recalibrate(model, INPUTS)
    return model.eval()


@pytest.mark.slow
def test_steps_end_where_one_step_does_and_nearer_to_the_dense_network(dense: nn.Module) -> None:
    errors = []
    for steps in (1, 4):
        heard: list[tuple[int, int]] = []
        network = Network(copy.deepcopy(dense))
        prune(network, dense, Blocks(), 0.1, INPUTS, steps=steps, on_layer=partial(_note, heard))
        assert network.density == pytest.approx(0.1, abs=1e-3)
        assert masks_hold(network.model, network.masks)
        assert heard == [(done + 1, 10 * steps) for done in range(10 * steps)]
        with torch.no_grad():
            errors.append(float((network.model(*INPUTS) - dense(*INPUTS)).square().mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize(("share", "steps"), [(0.9, 1), (0.5, 1), (0.3, 2), (0.2, 3), (0.05, 4)])
def test_no_step_removes_more_than_half_of_what_is_left_as_long_as_there_are_steps(
    dense: nn.Module, share: float, steps: int
) -> None:
    seen: set[int] = set()
    prune(Network(copy.deepcopy(dense)), dense, Blocks(), share, INPUTS, save=lambda position: seen.add(position.step))
    assert len(seen) == steps


def _note(heard: list[tuple[int, int]], done: int, total: int, layer: Layer) -> None:
    heard.append((done, total))


@pytest.mark.parametrize("granularity", [NofM(2, 4), pytest.param(Channels(align=8), marks=pytest.mark.slow)])
def test_steps_that_prune_nothing_are_passed_over(dense: nn.Module, granularity: Granularity) -> None:
    network = Network(copy.deepcopy(dense), (INPUTS[0][:1],))
    found = prune(network, dense, granularity, 0.5, INPUTS, steps=5)
    assert granularity.share(network) <= 0.5
    assert len(found.layers) == 10


def test_everything_may_go(dense: nn.Module) -> None:
    network = Network(copy.deepcopy(dense))
    prune(network, dense, Blocks(), 0.0, INPUTS, steps=2)
    assert network.density == 0.0
    assert bool(network.model(*INPUTS).isfinite().all())


@pytest.mark.parametrize(
    ("name", "late"),
    [
        pytest.param("resnet8", False, marks=pytest.mark.slow),
        pytest.param("resnet8", True, marks=pytest.mark.slow),
        ("transformer", False),
        pytest.param("recurrent", False, marks=pytest.mark.slow),
    ],
)
def test_what_is_saved_after_any_layer_is_enough_to_go_on_from(
    monkeypatch: pytest.MonkeyPatch, name: str, late: bool
) -> None:
    torch.manual_seed(0)
    dense = NETWORKS[name]().eval()
    if late:
        held = list(survey(dense, INPUTS, prunable(dense)).held.values())
        monkeypatch.setattr(collect, "MOST", 2 * held[-1] * (len(INPUTS[0]) - 5))
        assert held[0] > 2 * held[-1]
    saved: list[tuple[Position, dict[str, Tensor], dict[str, Tensor]]] = []

    def save(position: Position) -> None:
        saved.append((position, copy.deepcopy(network.model.state_dict()), copy.deepcopy(network.masks)))

    network = Network(copy.deepcopy(dense))
    whole = prune(network, dense, Blocks(), 0.3, INPUTS, steps=2, save=save)
    assert whole.samples == len(INPUTS[0]) - 5 * late
    assert len(saved) == 2 * (1 + len(whole.layers))
    for position, state, masks in saved[:: len(saved) // 5]:
        left = Network(copy.deepcopy(dense), masks=dict(masks))
        left.model.load_state_dict(state)
        heard: list[tuple[int, int]] = []
        found = prune(left, dense, Blocks(), 0.3, INPUTS, steps=2, resumed=position, on_layer=partial(_note, heard))
        done = (position.step - 1) * len(whole.layers) + len(position.layers)
        assert [at for at, _ in heard] == list(range(done + 1, 2 * len(whole.layers) + 1))
        assert [layer.after for layer in found.layers] == [layer.after for layer in whole.layers]
        for key, tensor in network.model.state_dict().items():
            assert torch.equal(tensor, left.model.state_dict()[key]), key
