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


def begun_of(model: nn.Module) -> list[int]:
    """Grows by one as each forward pass begins."""
    begun: list[int] = []
    model.register_forward_pre_hook(lambda _, args: begun.append(len(args[0])))
    return begun


def test_a_batch_that_joins_late_is_at_the_layer_with_what_those_before_have_become() -> None:
    model = network()
    begun = begun_of(model)
    with lockstep(model, BATCHES, {"first": model[0], "last": model[3]}, "inputs", {"first": 1, "last": 2}) as walk:
        assert not begun
        first = walk.advance()
        assert first is not None
        assert ([len(tensor) for tensor in first.tensors], begun) == ([5], [5])
        with torch.no_grad():
            model[0].weight.zero_()
            model[0].bias.fill_(2)
        last = walk.advance()
        assert last is not None
        assert ([len(tensor) for tensor in last.tensors], begun) == ([5, 2], [5, 2])
        assert last.name == "last"
        assert all(bool((tensor == 2).all()) for tensor in last.tensors)
        assert walk.advance() is None


def test_batches_are_let_go_of_as_the_walk_goes_on() -> None:
    model = network()
    with lockstep(model, BATCHES, {"first": model[0], "last": model[3]}, "outputs") as walk:
        first = walk.advance()
        assert first is not None
        assert len(first.tensors) == 2
        walk.advance()
        assert not first.tensors


@pytest.mark.parametrize("stops", [0, 1])
def test_batches_that_have_not_joined_need_no_end(stops: int) -> None:
    model = network()
    begun = begun_of(model)
    with lockstep(model, BATCHES, {"first": model[0], "last": model[3]}, "inputs", {"first": 1, "last": 2}) as walk:
        for _ in range(stops):
            walk.advance()
    assert begun == [5] * stops
    assert model(BATCHES[1][0]).shape == (2, 2)


class Wayward(nn.Module):
    """Few samples take another way than many, and very few none."""

    def __init__(self) -> None:
        super().__init__()
        self.few, self.many, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return x
        chosen: Tensor = self.last((self.few if len(x) < 3 else self.many)(x))
        return chosen


@pytest.mark.parametrize("late", [1, 2])
def test_a_batch_that_joins_late_by_another_way_is_refused(late: int) -> None:
    model = Wayward()
    layers = {"few": model.few, "many": model.many, "last": model.last}
    with lockstep(model, [BATCHES[0], (torch.randn(late, 3),)], layers, "inputs", {"many": 1, "last": 2}) as walk:
        walk.advance()
        with pytest.raises(DwindleError) as failed:
            walk.advance()
    assert failed.value.code == "data-dependent"


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(input=x)
        return found


def test_a_layer_may_be_called_by_keyword() -> None:
    model = Named()
    with lockstep(model, BATCHES, {"last": model.last}, "inputs") as walk:
        stop = walk.advance()
        assert stop is not None
        assert all(one is batch for one, (batch,) in zip(stop.tensors, BATCHES, strict=True))
