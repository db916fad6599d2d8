"""Which layers may be pruned, by shell patterns over their names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from dwindle.compress.masks import prunable, unnamed
from dwindle.errors import UsageError
from dwindle.quantities import format_names

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Layers:
    """Shell patterns over parameter names, such as `classifier.*`; a pattern also matches a layer's name.

    Where the network was seen running, a bare `nn.Parameter` that activations are multiplied by is a weight like any
    other. Any other trainable matrix is included by a pattern that matches no weight: by its name.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def of(self, model: nn.Module, kernels: Collection[str] = ()) -> dict[str, nn.Parameter]:
        """Returns the prunable weights of `model` that the patterns include, by parameter name.

        kernels: the names of parameters that are known to multiply activations, whatever they are called.

        Raises UsageError for a pattern that matches nothing, or where nothing is left.
        """
        weights, others = prunable(model), unnamed(model)
        weights |= {name: others.pop(name) for name in kernels if name in others}
        by_name = tuple(one for one in self.include if not any(matches(name, (one,)) for name in weights))
        weights |= {name: parameter for name, parameter in others.items() if matches(name, by_name)}
        for pattern in (*self.include, *self.exclude):
            if not any(matches(name, (pattern,)) for name in weights):
                raise UsageError(
                    f"the pattern {pattern!r} matches no prunable layer: {_listed(weights)}",
                    code="unknown-name",
                    name=pattern,
                )
        chosen = {
            name: weight
            for name, weight in weights.items()
            if matches(name, self.include) and not matches(name, self.exclude)
        }
        if not chosen:
            raise UsageError(
                f"`include` and `exclude` leave nothing to prune: {_listed(weights)}",
                code="nothing-to-prune",
                option="include",
            )
        return chosen


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns matches a parameter's name, or that of its layer."""
    layer = name.rpartition(".")[0]
    return any(fnmatchcase(name, pattern) or fnmatchcase(layer, pattern) for pattern in patterns)


def _listed(weights: Collection[str]) -> str:
    return f"there are {format_names(weights)}" if weights else "the model has no prunable weight"
