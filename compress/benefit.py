"""The granularity that pays for a budget on a target. What each brings is the target's own (`Target.verdict`)."""

from __future__ import annotations


def choose(target: str, packs_zeros: bool, *, macs: bool) -> tuple[str, str]:
    """The granularity that `auto` stands for with this budget on this target, and why, in words."""
    if macs:
        return "channel", "a budget in MACs is met by removing channels alone"
    if not packs_zeros:
        return "channel", f"{target} stores zeros like any weight, so only removed channels make its file smaller"
    return "unstructured", f"{target} packs zeros, and single weights lose the least accuracy for the bytes"
