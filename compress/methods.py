"""Methods: what a retraining restores, and where its schedule starts. All enter the same loop.

Renda et al. 2020, §3. After pruning a network that was trained for the whole schedule:

- *LR rewinding* goes on from the final weights, momentum and batch-norm statistics; only the learning rate
  goes back to an earlier point of its schedule;
- *weight rewinding* sets all of them back to what they were at that point;
- *the lottery ticket* (Frankle & Carbin 2019) is weight rewinding to the very start;
- *fine-tuning* goes on from the final state for as long, at the schedule's last learning rate;
- *AMC* (He et al. 2018) is about what to prune, not how to retrain: an agent chooses each layer's share, and
  retraining is LR rewinding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dwindle.errors import UsageError
from dwindle.registry import unknown_name


@dataclass(frozen=True)
class Method:
    """One way to retrain a pruned network."""

    start: float
    """The point of the schedule to retrain from, as a fraction of it: 0 is all of it, warmup included."""
    restore: bool = False
    """Whether weights, optimizer state and batch-norm statistics go back to that point too."""
    last_lr: bool = False
    """Whether the learning rate stays at the schedule's last value throughout."""
    search: bool = False
    """Whether each layer's share is searched for first (`dwindle.compress.amc`)."""


METHODS = {
    "lr-rewind": Method(start=0.0),
    "weight-rewind": Method(start=0.1, restore=True),
    "lottery-ticket": Method(start=0.0, restore=True),
    "finetune": Method(start=0.0, last_lr=True),
    "amc": Method(start=0.0, search=True),
}


def method(name: str, rewind_to: float | None = None) -> Method:
    """The method of that name, retraining from `rewind_to` instead of its own default.

    Raises UsageError for an unknown name, a fraction outside [0, 1), or a lottery ticket rewound to
    anywhere but the start.
    """
    if name not in METHODS:
        raise unknown_name("method", name, list(METHODS), option="method")
    found = METHODS[name]
    if rewind_to is None:
        return found
    if not 0 <= rewind_to < 1:
        raise UsageError(
            f"`rewind_to` is {rewind_to}: give a fraction from 0 (the whole schedule) up to, not including, 1",
            code="out-of-range",
            option="rewind_to",
        )
    if name == "lottery-ticket" and rewind_to:
        raise UsageError(
            "`method` lottery-ticket rewinds to the start: use `method` weight-rewind with `rewind_to`",
            code="conflict",
            option="rewind_to",
        )
    return replace(found, start=rewind_to)
