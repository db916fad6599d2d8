from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import DwindleError
from dwindle.models.layerwise.lockstep import Stop, lockstep


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)).train()


BATCHES = [(torch.randn(5, 3),), (torch.randn(2, 3),)]


def test_all_batches_come_to_each_layer_before_any_passes_it() -> None:
    model = network()
    with lockstep(model, BATCHES, {"first": model[0], "last": model[3]}, "inputs") as walk:
        first = walk.advance()
        assert isinstance(first, Stop)
        assert first.name == "first"
        assert [len(tensor) for tensor in first.tensors] == [5, 2]
        with torch.no_grad():
            model[0].weight.zero_()
            model[0].bias.fill_(2)
        last = walk.advance()
        assert isinstance(last, Stop)
        assert last.name == "last"
        assert all(bool((tensor == 2).all()) for tensor in last.tensors)
        assert walk.advance() is None


def test_outputs_are_those_of_a_plain_pass_in_eval_mode() -> None:
    model = network()
    with lockstep(model, BATCHES, {"last": model[3]}, "outputs") as walk:
        stop = walk.advance()
    assert model.training
    assert stop is not None
    model.eval()
    for tensor, batch in zip(stop.tensors, BATCHES, strict=True):
        torch.testing.assert_close(tensor, model(*batch))
        assert not tensor.requires_grad


@pytest.mark.parametrize("stops", [0, 1])
def test_a_walk_that_is_left_early_leaves_the_network_as_it_was(stops: int) -> None:
    model = network()
    model[2].eval()
    with lockstep(model, BATCHES, {"first": model[0], "last": model[3]}, "inputs") as walk:
        for _ in range(stops):
            walk.advance()
    assert [part.training for part in model] == [True, True, False, True]
    assert model(BATCHES[0][0]).shape == (5, 2)


def test_what_a_forward_pass_raises_is_raised() -> None:
    model = network()
    with (
        pytest.raises(RuntimeError, match="shapes"),
        lockstep(model, [(torch.randn(5, 7),)], {"last": model[3]}, "inputs") as walk,
    ):
        walk.advance()
    assert model(BATCHES[0][0]).shape == (5, 2)


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.few, self.many = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        chosen: Tensor = (self.few if len(x) < 3 else self.many)(x)
        return chosen


def test_a_network_that_takes_another_way_for_other_samples_is_refused() -> None:
    model = Undecided()
    with (
        pytest.raises(DwindleError) as failed,
        lockstep(model, BATCHES, {"few": model.few, "many": model.many}, "inputs") as walk,
    ):
        walk.advance()
    assert failed.value.code == "data-dependent"
