"""The export, rehearsed before anything is trained: what a target can't take is known in seconds, not after hours.

The network as it is, and a copy of it pruned by half, make a checkpoint in a scratch folder, which `dwindle.export`
writes to each target and compares as it will the trained one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from dwindle import checkpoint as store
from dwindle.compress.masks import prunable
from dwindle.compress.recalibrate import recalibrate
from dwindle.compress.state import cuts_of, packed_state
from dwindle.compress.tensor_options import WIDTHS
from dwindle.errors import DwindleError, RuntimeUnavailable
from dwindle.export.exporter import attempt
from dwindle.export.options import ExportOptions
from dwindle.manifest import Manifest
from dwindle.models.inputs import as_fed
from dwindle.models.task_values import users_code
from dwindle.record import Choice

if TYPE_CHECKING:
    from torch import nn

    from dwindle.compress.network import Granularity, Network
    from dwindle.models.checked_task import CheckedTask
    from dwindle.signature import Signature

HALF = 0.5
"""The share that the rehearsed network is pruned to, of what it has: what it will be isn't known yet."""
SAMPLES = 64
"""How many training inputs batch norm's statistics are taken from."""
_TRAINING_MAY_MEND = ("not-finite", "drowned-by-rounding")
"""Codes of failures that follow from the values of weights and activations."""


@dataclass(frozen=True)
class Rehearsal:
    """What the export of a network that is yet to be trained came to."""

    outcomes: Mapping[str, Manifest | DwindleError]
    """By target, the manifest, or why there is none."""
    trained: bool
    """Whether the weights were given, so that training explains no failure."""

    def refusal(self, target: str) -> DwindleError | None:
        """What a target failed by, as an error that says when; None where it didn't, or where training may mend it."""
        outcome = self.outcomes[target]
        if isinstance(outcome, Manifest | RuntimeUnavailable):  # another machine may have the runtime
            return None
        if not self.trained and outcome.code in _TRAINING_MAY_MEND:
            return None
        return type(outcome)(
            f"{outcome} (found by a rehearsal before training: change the model or the target, or turn `rehearsal` "
            "off)",
            code=outcome.code,
            option=outcome.option,
            path=outcome.path,
            name=outcome.name,
        )

    def sentence(self, target: str) -> str:
        """What is to be said of one target."""
        outcome = self.outcomes[target]
        if isinstance(outcome, DwindleError):
            return f"{'refused' if self.refusal(target) else 'not judged before training'}: {outcome}"
        if outcome.parity.relative is None:
            return f"written before training, and unproven: {outcome.parity.not_run}"
        said = f"written and compared before training, within {outcome.parity.relative:.1e}"
        if not outcome.parity.constant:
            return said
        alike = " and ".join(outcome.parity.constant)
        return f"{said}; as yet it gives {alike} alike for different inputs, so that this proves little of that"


def rehearse(
    network: Network,
    granularities: Sequence[Granularity],
    task: CheckedTask,
    build_dense: Callable[[], nn.Module],
    origin: dict[str, Any],
    targets: Sequence[str],
    *,
    trained: bool,
    objects: Mapping[str, Any] = MappingProxyType({}),
    signature: Signature | None = None,
    mixed: bool = False,
) -> Rehearsal:
    """Exports a network to targets, compares the files with it, and deletes them.

    network: before its first training. granularities: what it will be pruned by, in this order. build_dense: builds it
    anew. origin: what its checkpoint will record, the model, the task and the target of the budget among it. trained:
    whether its weights are more than initial ones. objects: what the caller gave as objects, by the names of
    Checkpoint's fields. signature: the network's; None: what one forward pass tells. mixed: whether tensors will have
    precisions of their own; as those aren't known yet, they have all that there are in turn.
    """
    dense = network.copy()
    dense.model = dense.model.cpu().eval()
    small = dense.copy()
    with torch.random.fork_rng(devices=[]):
        for granularity in granularities:
            granularity.shrink(small, HALF * granularity.share(small))
        if not trained and task.has("inputs"):
            inputs = tuple(as_fed(tensor[:SAMPLES]) for tensor in task.inputs("train"))
            with users_code("inputs", " as the model's inputs"):
                # With statistics of 0 and 1, activations would grow from block to block, beyond what fp16 holds.
                recalibrate(dense.model, inputs)
                recalibrate(small.model, inputs)
        with tempfile.TemporaryDirectory(prefix="dwindle-rehearsal-") as scratch:
            path = Path(scratch, "net.dwindle")
            done = replace(store.start(path, origin), done=True, preprocessing=task.preprocessing, signature=signature)
            tensors = {**packed_state(small), "dense": dense.model.state_dict()}
            turns = cycle(WIDTHS)
            choices = {name: Choice(next(turns), HALF) for name in prunable(small.model)} if mixed else None
            made = store.finish(done, tensors, cuts_of(small, build_dense).structure, choices)
            options = ExportOptions(unproven=True, keeps_rejected=False)
            outcomes = attempt(replace(made, **objects), targets, options, trust=True)
    return Rehearsal(outcomes, trained)
