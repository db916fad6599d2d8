"""What pruning at a granularity brings on a target: a smaller file, a faster one, both or neither.

The facts are the target's own (`Target.effects`). This module picks those of one granularity and puts them into words.
"""

from __future__ import annotations

from dataclasses import dataclass

from dwindle.export.target import Target
from dwindle.export.zeros import Effect, Kind


@dataclass(frozen=True)
class Benefit:
    """The effect of one kind of pruning on one target."""

    target: str
    """The target's name."""
    kind: Kind
    """What is pruned."""
    effect: Effect
    """Whether files get smaller and faster, and on what grounds that is said."""

    @property
    def smaller(self) -> bool:
        """Whether the installed file shrinks."""
        return self.effect.smaller

    def sentence(self) -> str:
        """As in `smaller (…); not faster on the CPU (measured, …)`."""
        size = f"{'smaller' if self.effect.smaller else 'not smaller'} ({self.effect.storage})"
        speeds = [speed.sentence() for speed in self.effect.speeds] or ["whether it is faster was not measured"]
        return "; ".join([size, *speeds])


def benefit(kind: Kind, target: Target) -> Benefit:
    """What pruning of that kind brings on a target."""
    return Benefit(target.name, kind, target.effects.of(kind))


def choose(target: str, packs_zeros: bool, *, macs: bool) -> tuple[str, str]:
    """The granularity that `auto` stands for with this budget on this target, and why, in words."""
    if macs:
        return "channel", "a budget in MACs is met by removing channels alone"
    if not packs_zeros:
        return "channel", f"{target} stores zeros like any weight, so only removed channels make its file smaller"
    return "unstructured", f"{target} packs zeros, and single weights lose the least accuracy for the bytes"
