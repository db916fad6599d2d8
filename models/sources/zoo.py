"""`zoo:NAME`: dwindle's own networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dwindle.models.sources.source import ModelSource, classifier_needs_classes
from dwindle.models.zoo import ZOO
from dwindle.registry import unknown_name


class Zoo(ModelSource):
    """The networks of `dwindle.models.zoo`, which take images of any size and number of channels."""

    usage = "zoo:NAME"

    def build(self, name: str, config: Mapping[str, Any], classes: int | None, shape: tuple[int, ...]) -> nn.Module:
        if name not in ZOO:
            raise unknown_name("zoo model", name, list(ZOO), option="model")
        if classes is None:
            raise classifier_needs_classes(f"zoo:{name}")
        return ZOO[name](num_classes=classes, in_channels=shape[0])
