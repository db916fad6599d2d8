"""The model of time finds what made the times, and says how far off it is."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import nnls

from dwindle.bench.prices.designed import REFERENCE, layers
from dwindle.bench.prices.fit import SingleLayers, fitted, kind, layer_errors, nonnegative, whole_errors
from dwindle.bench.prices.profile import Layer, Whole
from dwindle.price import Shape, tally


def true(shape: Shape) -> float:
    """Milliseconds of a device with a roof, on which depthwise layers are slow and 5×5 ones lose another fifth."""
    per_mac = {"1×1": 2e-8, "spatial": 1.5e-8, "depthwise": 9e-8}[kind(shape)] * 1e3 / 1e3
    return 1e3 * (per_mac * shape.macs + 4e-9 * shape.activations) * (1.2 if 5 in shape.kernel else 1) + 1e-3


def measured(noise: float) -> list[Layer]:
    generator = random.Random(0)
    return [Layer(shape, true(shape) * (1 + noise * generator.uniform(-1, 1))) for shape in layers()]


def networks(offset: float) -> list[Whole]:
    generator, found = random.Random(1), []
    for index in range(8):
        inside = tuple(generator.sample(layers(), 12 + index))
        rest = offset + 2e-7 * sum(shape.activations for shape in inside)
        found.append(Whole(f"net{index}", tally(inside), sum(map(true, inside)) + rest))
    return found


def test_layers_that_were_not_measured_are_predicted() -> None:
    model = SingleLayers(measured(0.0))
    assert model(REFERENCE) == pytest.approx(true(REFERENCE), rel=0.1)
    assert layer_errors(measured(0.0)).median < 0.06


def test_an_error_is_as_large_as_the_noise() -> None:
    assert 0.05 < layer_errors(measured(0.3)).median < 0.3
    assert layer_errors(measured(0.3)).count == len(layers())


def test_networks_are_their_layers_and_a_rest() -> None:
    own = networks(0.05)
    model = fitted(measured(0.0), own).network
    for one in own:
        assert model(one.shapes) == pytest.approx(one.ms, rel=0.08)
    errors = whole_errors(measured(0.0), own)
    assert (errors.count, errors.p90 < 0.1) == (8, True)


def test_the_layers_are_the_same_in_every_profile_and_of_every_kind() -> None:
    assert layers() == layers()
    assert len(set(layers())) == len(layers())
    assert {kind(shape) for shape in layers()} == {"1×1", "spatial", "depthwise"}
    assert any(not shape.kernel for shape in layers())
    assert any(2 in shape.stride for shape in layers())


def test_networks_alone_tell_what_layers_take() -> None:
    own = [replace(one, ms=sum(times * plain(shape) for shape, times in one.shapes.items())) for one in networks(0.0)]
    model = fitted([], own)
    for one in own:
        assert model.network(one.shapes) == pytest.approx(one.ms, rel=0.03)
    errors = whole_errors([], own)
    assert (errors.count, errors.median < 0.1) == (8, True)
    assert model.layer(REFERENCE) == pytest.approx(plain(REFERENCE), rel=0.3)


def plain(shape: Shape) -> float:
    per_mac = {"1×1": 2e-8, "spatial": 1.5e-8, "depthwise": 9e-8}[kind(shape)]
    return 1e3 * per_mac * shape.macs + 1e-2


def test_weights_are_those_of_nonnegative_least_squares() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        rows = generator.normal(0.3, 1, (12, 5))
        expected, _ = nnls(rows, np.ones(12))
        assert nonnegative(rows) == pytest.approx(expected, abs=1e-8)
