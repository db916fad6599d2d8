from __future__ import annotations

import pytest

from dwindle.compress.blocks import Blocks
from dwindle.compress.granularity import granularity
from dwindle.compress.layers import Layers
from dwindle.compress.n_of_m import NofM
from dwindle.compress.request import Request
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
    with pytest.raises(UsageError, match="unknown granularity"):
        granularity(name, magnitude, Layers())


def test_a_pattern_brings_its_own_budget() -> None:
    assert Request("zoo:resnet8", "digits", granularity="2:4").phases[0][1].density == 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rounds": 0}, "--rounds 0"),
        ({"prune_per_round": 1.0}, "--prune-per-round"),
        ({"rewind_to": 2.0}, "--rewind-to"),
        ({"score": "lmap"}, "did you mean 'lamp'"),
        ({"target": "onyx"}, "did you mean 'onnx'"),
        ({"size": "big"}, "is not a size"),
        ({"method": "amd"}, "unknown method"),
        ({"macs": "half"}, "no number of MACs"),
        ({"macs": "50%", "granularity": "unstructured"}, "computes with zeros"),
        ({"granularity": "unstructured+channel"}, "channels first"),
        ({"granularity": "channel+2:4"}, "needs --macs"),
        ({"align": 0}, "--align 0"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_built(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Request("zoo:resnet8", "digits", **{"density": 0.5, **options})  # type: ignore[arg-type]


def test_no_budget_is_refused() -> None:
    with pytest.raises(UsageError, match="give --size"):
        Request("zoo:resnet8", "digits")
