"""Every source keeps the contract, and what it needs is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from dwindle.errors import DwindleError, UsageError
from dwindle.models.build import ModelSpec, build, source_of
from dwindle.models.sources import source as contract
from dwindle.models.sources.source import ModelSource
from dwindle.models.trust import is_code
from dwindle.registry import names


@pytest.mark.needs("timm", "transformers")
def test_only_code_of_somebodys_own_needs_trust() -> None:
    assert {"zoo", "torchvision", "timm", "hf"} <= set(names("dwindle.models"))
    assert not any(map(is_code, ("zoo:resnet8", "torchvision:resnet18", "timm:anything", "hf:any/thing", "no_prefix")))
    assert is_code("my_package.models:net")


class Ours(ModelSource):
    usage = "ours:NAME"

    def build(self, name: str, config: Mapping[str, Any], classes: int | None, shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], classes or 1))


def test_another_packages_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "names", lambda group: ["ours"])
    monkeypatch.setattr(contract, "resolve_class", lambda *arguments: Ours)
    assert not is_code("ours:one")
    assert build(ModelSpec("ours:one", 3, (4,)))(torch.zeros(1, 4)).shape == (1, 3)
    source, name = source_of("ours:one")
    with pytest.raises(UsageError) as refused:
        source.weights(name, source.find(name, pretrained=True))
    assert (refused.value.code, refused.value.option) == ("no-weights", "pretrained")


@pytest.mark.parametrize("given", [nn.Identity, lambda: nn.Identity(), None])
def test_what_makes_a_network_is_no_network(given: Any) -> None:
    with pytest.raises(UsageError) as refused:
        source_of(given)
    assert (refused.value.code, refused.value.option) == ("bad-model", "model")


def test_a_source_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'dwindle\[timm\]'") as refused:
        build(ModelSpec("timm:resnet18", 3, (3, 32, 32)))
    assert (refused.value.code, refused.value.name) == ("not-installed", "timm")


def test_an_installation_from_before_there_were_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "names", lambda group: [])
    with pytest.raises(DwindleError, match="pip install --no-deps --editable") as refused:
        build(ModelSpec("zoo:resnet8", 3, (3, 32, 32)))
    assert refused.value.code == "stale-installation"
