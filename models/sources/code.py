"""The user's own networks: made by a function, `package.module:factory`, or given as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dwindle.errors import UsageError
from dwindle.models.factory import call_factory
from dwindle.models.sources.source import ModelSource


class Code(ModelSource):
    """Networks that a factory makes. It is called with `num_classes=` and `in_channels=` where it takes them."""

    usage = "package.module:factory"
    is_code = True
    repeatable = False

    def build(self, name: str, config: Mapping[str, Any], classes: int | None, shape: tuple[int, ...]) -> nn.Module:
        offered = {"num_classes": classes, "in_channels": next(iter(shape), None)}
        known = {key: value for key, value in offered.items() if value is not None}
        built = call_factory(name, "model", through="num_classes", **known)
        if not isinstance(built, nn.Module):
            raise UsageError(
                f"the factory {name!r} returned a {type(built).__name__}: it must return a torch.nn.Module",
                code="bad-model",
                option="model",
            )
        return built


class Given(ModelSource):
    """The network that the caller has, with the weights that it has."""

    usage = "a torch.nn.Module"
    is_code = True

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def build(self, name: str, config: Mapping[str, Any], classes: int | None, shape: tuple[int, ...]) -> nn.Module:
        return self.module
