"""Shares of their own for some layers: how many of its weights, or of its channels, each of them keeps."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dwindle.compress.layers import matches
from dwindle.errors import UsageError
from dwindle.quantities import format_names, parse_share


@dataclass(frozen=True)
class LayerShares:
    """Shell patterns over parameter names, each with the share that the layers it matches keep. A pattern also matches
    a layer's name; of several that match a layer the last counts."""

    patterns: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> LayerShares:
        """Reads `PATTERN=SHARE`, such as `layer4.*=30%`. Raises UsageError for anything else."""
        patterns = []
        for text in texts:
            pattern, equals, share = text.rpartition("=")
            if not (pattern and equals):
                raise UsageError(
                    f"`layer_share` is {text!r}: write a pattern of layer names, = and a share, such as layer4.*=30%",
                    code="invalid-value",
                    option="layer_share",
                )
            try:
                patterns.append((pattern, parse_share(share)))
            except UsageError as error:
                raise UsageError(
                    f"`layer_share` is {text!r}: {error}", code="invalid-value", option="layer_share"
                ) from None
        return cls(tuple(patterns))

    def of(self, names: Collection[str]) -> dict[str, float]:
        """Returns the share of every parameter that has one, by name. Raises UsageError for a pattern that matches
        none of `names`."""
        shares: dict[str, float] = {}
        for pattern, share in self.patterns:
            matched = [name for name in names if matches(name, (pattern,))]
            if not matched:
                near = difflib.get_close_matches(pattern, [layer(name) for name in names], n=3)
                hint = f"did you mean {format_names(near)}?" if near else f"there are {format_names(names)}"
                raise UsageError(
                    f"`layer_share` gives {share:.0%} to {pattern!r}, which matches no layer that is pruned: {hint}",
                    code="unknown-name",
                    option="layer_share",
                    name=pattern,
                )
            shares |= dict.fromkeys(matched, share)
        return shares


def layer(parameter: str) -> str:
    """The name of the layer whose weight a parameter is."""
    return parameter.removesuffix(".weight")
