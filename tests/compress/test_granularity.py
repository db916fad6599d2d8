from __future__ import annotations

import pytest

from dwindle.compress.blocks import Blocks
from dwindle.compress.granularity import granularity
from dwindle.compress.layers import Layers
from dwindle.compress.n_of_m import NofM
from dwindle.compress.scores import magnitude
from dwindle.errors import UsageError


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("unstructured", Blocks(1, 1)),
        ("4x1", Blocks(4, 1)),
        ("block 1x8", Blocks(1, 8)),
        ("2:4", NofM(2, 4)),
    ],
)
def test_by_name(name: str, made: object) -> None:
    assert granularity(name, magnitude, Layers()) == made


@pytest.mark.parametrize("name", ["", "filters", "0x3", "4:4", "5:4", "4", "x"])
def test_what_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        granularity(name, magnitude, Layers())
    assert refused.value.option == "granularity"
