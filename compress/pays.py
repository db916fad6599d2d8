"""Will it pay? What each granularity brings on each target, and the ground for saying so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["weights", "n:m", "channel"]

PACKED = "packed as a coded mask and its survivors; unpacked when the file is loaded, so it runs at dense speed"
PACKED_COREML = "stored as constexpr_sparse_to_dense; what the Neural Engine makes of it has to be measured on a device"
STORED = "the format stores zeros like any weight, and its kernels multiply by them"
REMOVED = "what is removed is neither stored nor computed"


@dataclass(frozen=True)
class Pays:
    """A granularity on a target."""

    target: str
    smaller: bool
    """Whether the installed file shrinks."""
    faster: bool
    """Whether inference gets faster on the target's CPU runtime."""
    ground: str
    """Why, in words."""

    def sentence(self) -> str:
        gain = {
            (True, True): "smaller and faster",
            (True, False): "smaller, not faster",
            (False, True): "faster, not smaller",
            (False, False): "neither smaller nor faster",
        }[self.smaller, self.faster]
        return f"{gain} ({self.ground})"


def will_pay(kind: Kind, target: str, packs_zeros: bool) -> Pays:
    """What pruning of that kind brings on a target, which packs zeros or doesn't."""
    if kind == "channel":
        return Pays(target, True, True, REMOVED)
    if not packs_zeros:
        return Pays(target, False, False, STORED)
    ground = PACKED_COREML if target == "coreml" else PACKED
    if kind == "n:m":
        ground += "; only NVIDIA GPUs compute 2:4 faster"
    return Pays(target, True, False, ground)


def choose(target: str, packs_zeros: bool, *, macs: bool) -> tuple[str, str]:
    """What the granularity `auto` stands for: the one that pays for this budget on this target, and why, in words."""
    if macs:
        return "channel", "a budget in MACs is met by removing channels alone"
    if not packs_zeros:
        return "channel", f"{target} stores zeros like any weight, so only removed channels make its file smaller"
    return "unstructured", f"{target} packs zeros, and single weights lose the least accuracy for the bytes"
