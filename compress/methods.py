"""Methods: what a retraining restores, and where its schedule starts. All enter the same loop.

Renda et al. 2020, §3. After pruning a network that was trained for the whole schedule:

- *LR rewinding* goes on from the final weights, momentum and batch-norm statistics; only the learning rate
  goes back to an earlier point of its schedule;
- *weight rewinding* sets all of them back to what they were at that point;
- *the lottery ticket* (Frankle & Carbin 2019) is weight rewinding to the very start;
- *fine-tuning* goes on from the final state for as long, at the schedule's last learning rate;
- *AMC* (He et al. 2018) is about what to prune, not how to retrain: an agent chooses each layer's share, and
  retraining is LR rewinding;
- *calibration* does not retrain: `dwindle.compress.calibrate` solves the surviving weights by least squares, for a few
  hundred samples without labels, and trains nothing but, with `distill`, by the dense network's answers to them;
- *keep* takes a network that comes with zeros as it is: they become its masks, and nothing is pruned or trained.
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
    samples: int | None = None
    """For a method that solves the surviving weights instead of retraining: on how many samples, unless told."""
    keep: bool = False
    """Whether the zeros that the network came with are all that is pruned."""

    @property
    def retrains(self) -> bool:
        """Whether a pruned network is trained at all."""
        return self.samples is None and not self.keep


METHODS = {
    "lr-rewind": Method(start=0.0),
    "weight-rewind": Method(start=0.1, restore=True),
    "lottery-ticket": Method(start=0.0, restore=True),
    "finetune": Method(start=0.0, last_lr=True),
    "amc": Method(start=0.0, search=True),
    "calibrate": Method(start=0.0, samples=1024),
    "keep": Method(start=0.0, keep=True),
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
    if not found.retrains:
        raise UsageError(
            f"`method` {name} does not retrain: leave out `rewind_to`", code="conflict", option="rewind_to"
        )
    if name == "lottery-ticket" and rewind_to:
        raise UsageError(
            "`method` lottery-ticket rewinds to the start: use `method` weight-rewind with `rewind_to`",
            code="conflict",
            option="rewind_to",
        )
    return replace(found, start=rewind_to)
