"""A network's price by the table is its price whole, wherever the cut was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dwindle.compress import Request, plan
from dwindle.compress.budget import Budget, Solver
from dwindle.compress.channels import Channels
from dwindle.compress.meter import Meter, Table
from dwindle.compress.network import Network
from dwindle.compress.resolve import resolve
from dwindle.compress.surgery.find import find_groups
from dwindle.errors import BudgetMissed, UsageError
from dwindle.export import targets
from dwindle.models.layerwise.shapes import calls
from dwindle.models.zoo import mobilenetv2, resnet8, resnet20
from dwindle.price import Price, Shape


class Simple(Price):
    """Six for an activation and a third for a multiply-accumulate, and in a whole network an offset and more for each
    activation that no layer by itself has."""

    unit, option = "coins", "cost"

    def __init__(self, offset: float = 0.0, more: float = 0.0) -> None:
        self.offset, self.more, self.asked = offset, more, 0

    def require(self, progress: Callable[[str], None]) -> None:
        pass

    def layers(self, shapes: Sequence[Shape], progress: Callable[[str], None]) -> list[float]:
        self.asked += len(shapes)
        return [6 * shape.activations + shape.macs / 3 for shape in shapes]

    def whole(self, file: Callable[[], tuple[Path, list[np.ndarray]]], layers: Sequence[Shape]) -> float:
        more = self.more * sum(shape.activations for shape in layers)
        return sum(self.layers(layers, lambda line: None)) + more + self.offset

    def words(self, amount: float) -> str:
        return f"{amount:,.0f} {self.unit}"


@pytest.fixture(scope="module", params=["resnet20", pytest.param("mobilenetv2", marks=pytest.mark.slow)])
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    model = {"resnet20": resnet20, "mobilenetv2": mobilenetv2}[request.param](in_channels=1).eval()
    return Network(model, (torch.randn(1, 1, 16, 16),))


def metered(network: Network, **more: float) -> Meter:
    found = find_groups(network.model, network.inputs)
    return Meter(network.model, network.inputs, found, Simple(**more), targets.load("pytorch"))


class Tiled(Simple):
    """As `Simple`, by kernels that compute 16 channels at once."""

    def layers(self, shapes: Sequence[Shape], progress: Callable[[str], None]) -> list[float]:
        def full(width: int) -> int:
            return -(-width // 16) * 16

        return super().layers([shape.at(full(shape.inputs), full(shape.outputs)) for shape in shapes], progress)


@pytest.mark.parametrize("price", [Simple(), Tiled()])
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.data())
def test_a_table_holds_for_every_width(
    price: Simple, inputs: int, outputs: int, kernel: int, data: st.DataObject
) -> None:
    shape = Shape(8 * inputs, 8 * outputs, (8, 8), (kernel, kernel), (1, 1), (0, 0), (1, 1))
    table = Table(shape)
    table.fill(dict(zip(table.shapes, price.layers(table.shapes, print), strict=True)))
    assert len(table.shapes) <= 6
    small = shape.at(8 * data.draw(st.integers(1, inputs)), 8 * data.draw(st.integers(1, outputs)))
    assert table.price(small.inputs, small.outputs) == pytest.approx(price.layers([small], print)[0])


def test_a_side_that_no_cut_changes_is_priced_as_it_is() -> None:
    stem = Shape(3, 32, (8, 8), (3, 3), (2, 2), (1, 1), (1, 1))
    table = Table(stem, inputs=False)
    assert [(shape.inputs, shape.outputs) for shape in table.shapes] == [(3, 16), (3, 32), (3, 24)]
    fixed = Table(stem, inputs=False, outputs=False)
    fixed.fill({stem: 5.0})
    assert (fixed.shapes, fixed.price(3, 32)) == ([stem], 5.0)


def test_channels_that_are_convolved_by_themselves_have_one_width() -> None:
    shape = Shape(64, 64, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 64)
    table = Table(shape)
    table.fill(dict(zip(table.shapes, Simple().layers(table.shapes, print), strict=True)))
    assert {(one.inputs, one.outputs, one.groups) for one in table.shapes} == {(n, n, n) for n in (16, 24, 64)}
    assert table.price(40, 40) == pytest.approx(Simple().layers([shape.at(40, 40)], print)[0])


def test_layers_of_one_shape_are_priced_once(network: Network) -> None:
    meter = metered(network)
    assert isinstance(meter.price, Simple)
    shapes = {call.shape for call in meter.calls}
    assert len(shapes) < len(meter.calls)
    assert meter.price.asked <= 6 * len(shapes) + len(meter.calls)


@pytest.mark.slow
def test_a_cut_network_costs_what_the_table_says(network: Network) -> None:
    meter, cut = metered(network), network.copy()
    Channels(align=8, counts="price", meter=meter).shrink(cut, 0.5)
    assert meter.of(network.model) == pytest.approx(meter.dense)
    assert meter.of(cut.model) == pytest.approx(meter.whole(cut.model), rel=0.02)
    assert 0.47 * meter.dense < meter.of(cut.model) <= 0.5 * meter.dense
    found = find_groups(cut.model, cut.inputs)
    assert meter.at(found)(found.units) == pytest.approx(meter.of(cut.model))


@pytest.mark.slow
def test_one_cut_network_corrects_what_layers_do_not_tell(network: Network) -> None:
    meter = metered(network, offset=2e6, more=3.0)
    half, third = network.copy(), network.copy()
    Channels(align=8, counts="price", meter=meter).shrink(half, 0.5)
    wrong = meter.correct(half.model)
    assert wrong < -0.05
    assert meter.of(half.model) == pytest.approx(meter.whole(half.model))
    assert meter.of(network.model) == pytest.approx(meter.dense)
    Channels(align=8, counts="price", meter=meter).shrink(third, 0.6)
    assert meter.of(third.model) == pytest.approx(meter.whole(third.model), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0.7, 4e6])
def test_a_budget_is_met_within_three_percent(limit: float, network: Network) -> None:
    meter = metered(network)
    limit = limit if limit < 1 else meter.dense * 0.4
    solver = Solver(
        Budget(cost=limit), Channels(align=8, counts="price", meter=meter), lambda model: 0, "pytorch", meter
    )
    solver.check_feasible(network)
    small = solver.shrunk(network, solver.largest_share(network))
    asked = limit * meter.dense if limit < 1 else limit
    assert 0.97 * asked < meter.whole(small.model) <= 1.01 * asked


@pytest.mark.slow
def test_a_budget_out_of_reach_says_the_least_there_is(network: Network) -> None:
    meter = metered(network)
    granularity = Channels(align=8, counts="price", meter=meter)
    solver = Solver(Budget(cost=0.001), granularity, lambda model: 0, "pytorch", meter)
    with pytest.raises(BudgetMissed) as missed:
        solver.check_feasible(network)
    assert (missed.value.option, missed.value.code) == ("cost", "out-of-reach")
    least = meter.of(solver.shrunk(network, 0.0).model)
    assert f"{least:,.0f} coins" in str(missed.value)
    with pytest.raises(UsageError) as whole:
        Solver(Budget(cost=1.0), granularity, lambda model: 0, "pytorch", meter).check_feasible(network)
    assert whole.value.code == "nothing-to-prune"


def test_a_price_can_have_the_file() -> None:
    class Weighed(Simple):
        def whole(self, file: Callable[[], tuple[Path, list[np.ndarray]]], layers: Sequence[Shape]) -> float:
            path, sample = file()
            return path.stat().st_size + sample[0].size

    torch.manual_seed(0)
    model, inputs = resnet8(in_channels=1).eval(), (torch.randn(1, 1, 8, 8),)
    meter = Meter(model, inputs, find_groups(model, inputs), Weighed(), targets.load("pytorch"))
    assert meter.dense > 4 * sum(parameter.numel() for parameter in model.parameters())


def test_a_layer_that_is_used_twice_costs_twice() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(layer, nn.MaxPool2d(2), layer, nn.Flatten(), nn.Linear(64, 2))
    found = calls(model, (torch.randn(1, 4, 8, 8),))
    assert [(call.layer, call.shape.size) for call in found] == [("0", (8, 8)), ("0", (4, 4)), ("4", ())]


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"macs": "50%"}, "cost"),
        ({"granularity": "unstructured"}, "cost"),
        ({"method": "amc"}, "cost"),
        ({"target": "coreml"}, "cost"),
        ({"max_drop": 1.0}, "max_drop"),
    ],
)
def test_what_a_cost_cannot_be_combined_with(options: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError) as refused:
        resolve(Request("zoo:resnet8", "digits", cost="50%", **options))
    assert (refused.value.code, refused.value.option) == ("conflict", option)


def test_a_cost_is_met_by_channels() -> None:
    resolved = resolve(Request("zoo:resnet8", "digits", cost="40M"))
    ((granularity, budget),) = resolved.phases
    assert (granularity.kind, budget.cost, resolved.request.cost) == ("channel", 40e6, 40e6)


@pytest.mark.slow
@pytest.mark.needs("arm64")
@pytest.mark.parametrize("target", ["mnn", "executorch"])
def test_a_plan_is_what_is_counted(target: str) -> None:
    request = Request("zoo:resnet8", {"data": "digits", "epochs": 1}, cost="60%", target=target, rehearsal=False)
    priced = plan(request).priced
    assert priced is not None
    assert 0.57 < priced.compressed / priced.dense <= 0.6
