"""The granularity that pays for a budget on a target. What each brings is the target's own (`Target.verdict`)."""

from __future__ import annotations

_COMPUTING = {"macs": "a budget in MACs", "cost": "a budget in instructions", "latency": "a budget in milliseconds"}


def choose(target: str, packs_zeros: bool, *, computing: str | None) -> tuple[str, str]:
    """The granularity that `auto` stands for on a target, and why, in words.

    computing: the option that limits what an inference computes, where one is given.
    """
    if computing:
        return "channel", f"{_COMPUTING[computing]} is met by removing channels alone"
    if not packs_zeros:
        return "channel", f"{target} stores zeros like any weight, so only removed channels make its file smaller"
    return "unstructured", f"{target} packs zeros, and single weights lose the least accuracy for the bytes"
