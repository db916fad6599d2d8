from __future__ import annotations

import pytest
from torch import nn

from dwindle.compress.layers import Layers
from dwindle.errors import UsageError

MODEL = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        (Layers(), {"0.weight", "1.0.weight", "1.1.weight"}),
        (Layers(include=("1.*",)), {"1.0.weight", "1.1.weight"}),
        (Layers(exclude=("1.1",)), {"0.weight", "1.0.weight"}),
        (Layers(include=("1.*",), exclude=("1.1.weight",)), {"1.0.weight"}),
    ],
)
def test_patterns_choose_layers(layers: Layers, left: set[str]) -> None:
    assert set(layers.of(MODEL)) == left


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (Layers(exclude=("classifier.*",)), "'classifier.\\*' matches no prunable layer: there are 0.weight"),
        (Layers(exclude=("*",)), "leave nothing to prune"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(layers: Layers, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        layers.of(MODEL)
