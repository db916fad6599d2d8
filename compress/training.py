"""One training of the network, dense or pruned: the task's `fit`, and all that happens between its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwindle.compress import state
from dwindle.compress.budget import Solver
from dwindle.compress.gradual import Ramp
from dwindle.compress.masks import mask_applier, masks_hold
from dwindle.compress.methods import Method
from dwindle.compress.network import Network
from dwindle.compress.qat import STILL_SHARE, Rounding, first_step
from dwindle.compress.recalibrate import recalibrate_by
from dwindle.errors import DwindleError, UsageError
from dwindle.models.ranks import tensor_digest

if TYPE_CHECKING:
    from dwindle.compress.watcher import Watcher
    from dwindle.models.checked_task import CheckedTask

RECENT = 50
"""How many losses a round's reported loss is the mean of."""


@dataclass
class Progress:
    """How far a round's training has come."""

    steps: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """The last RECENT losses: what is reported is where training ended, not where it began."""
    ramp: Ramp | None = None
    """How the round prunes while it trains; None where it was pruned before."""

    def step(self, loss: float, seconds: float) -> None:
        """Counts a step that ended `seconds` after the training began."""
        self.steps, self.seconds = self.steps + 1, seconds
        self.losses = [*self.losses[1 - RECENT :], loss]

    @property
    def loss(self) -> float:
        """The mean of the last losses."""
        return sum(self.losses) / len(self.losses)


@dataclass
class Training:
    """The training of one round. `run` trains `network` in place, from `progress` on where it was interrupted."""

    index: int
    """The index of the round; 0 is the dense training."""
    network: Network
    task: CheckedTask
    method: Method
    solver: Solver
    """The solver by which a gradual round prunes."""
    watcher: Watcher
    progress: Progress
    rewind_step: int | None
    """The step whose state weight rewinding will go back to; None where nothing goes back to this training."""
    rewind: state.State
    """The state at `rewind_step`, once training has passed that step; empty before."""
    save: Callable[[Progress, state.State], None]
    """Saves the training as it is, with the state to rewind to."""
    save_every: float
    """Seconds between saves; infinite where this process saves nothing."""
    rounding: Rounding | None = None
    """Rounds weights as the target will, over the last `rounded_share` of the steps."""
    rounded_share: float = 0.0
    recalibrate: bool = False
    """Whether batch norm is recalibrated: when the training ends; with `rounding` before batch norm stands still, as
    what was trained through wouldn't be what ships if it were changed afterwards."""

    def __post_init__(self) -> None:
        self.began = self.saved = time.monotonic() - self.progress.seconds
        self.before: str | None = None  # the weights at the start, while none is known to have moved
        self.apply_masks = mask_applier(self.network.model, self.network.masks)
        steps = self.task.steps
        self.total = math.ceil(steps * (1 - self.method.start)) if steps else None
        total = self.total if self.rounding else None
        self.rounds_from = first_step(self.rounded_share, total) if total else math.inf
        self.still_from = first_step(min(self.rounded_share, STILL_SHARE), total) if total else math.inf

    def run(self) -> None:
        """Trains to the end of the schedule.

        Raises DwindleError where `fit` fails or the loss is not finite, UsageError where `fit` does not do
        what `dwindle.Task` says.
        """
        saved = f"; round {self.index - 1} is saved, and the same command resumes from it" if self.index else ""
        self.before = self._weights() if not self.progress.steps else None
        self._round()
        try:
            self.task.fit(
                self.network.model,
                start=self.method.start,
                on_step=self.on_step,
                last_lr=self.method.last_lr,
                context=f" in round {self.index}{saved}",
            )
            self._check_steps()
        finally:
            if self.rounding:
                self.rounding.close()
        if not masks_hold(self.network.model, self.network.masks):
            self.apply_masks()
            self.watcher.note(
                f"round {self.index}: the task's `fit` changed pruned weights after its last call of on_step, as "
                "loading an average or the best epoch does: they were set to zero again"
            )
        if self.before is not None and self.before == self._weights():
            raise self._broken(
                "changed no weight: its optimizer must update the parameters of the model it is given, which are "
                "new ones after channels were removed; make the optimizer in `fit`, or keep it as the task's "
                "`optimizer`"
            )
        if any(bool(parameter.isnan().any()) for parameter in self.network.model.parameters()):
            raise self._diverged("weights are no numbers after")
        if self.recalibrate and self.progress.steps < self.still_from:
            recalibrate_by(self.task, self.network.model)

    def on_step(self, loss: float) -> None:
        """Checks a step, and puts the masks back on; `fit` calls it after every step of its optimizer."""
        now = time.monotonic()
        self.progress.step(loss, now - self.began)
        if self.progress.steps == 1:
            self.task.state_dict()  # a state that can't be saved is better known now than when the round ends
        self._check_finite(loss)
        if self.rounding:
            self.rounding.absorb()
        self._look_whether_it_trains()
        self._prune_gradually()
        self.apply_masks()
        if self.progress.steps == self.rewind_step:
            self.rewind = state.capture_rewind(self.network, self.task)
        if now - self.saved >= self.save_every:
            self.save(self.progress, self.rewind)
            self.saved = time.monotonic()
        self._round()
        self.watcher.step(self.index, self.progress.steps, self.total, loss)

    def _round(self) -> None:
        steps = self.progress.steps
        if not self.rounding or steps < self.rounds_from:
            return
        if self.recalibrate and steps == self.still_from:
            self.rounding.round(frozen=False)
            recalibrate_by(self.task, self.network.model)
            self.rounding.absorb()
        self.rounding.round(frozen=steps >= self.still_from)

    def _look_whether_it_trains(self) -> None:
        """Notes that the weights have moved. They may be back where they were when `fit` ends, as it may load the best
        epoch. Looked at after 1, 2, 4, 8, … steps, as a warmup's first rates may be 0."""
        if self.before is not None and self.progress.steps.bit_count() == 1 and self.before != self._weights():
            self.before = None

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss} at")

    def _diverged(self, what: str) -> DwindleError:
        saved = f"round {self.index - 1} is saved" if self.index else "nothing was saved"
        through = ", or through the rounding for less of it (`qat`)" if self.progress.steps > self.rounds_from else ""
        return DwindleError(
            f"{what} step {self.progress.steps} of round {self.index}; {saved}: train with a smaller learning "
            f"rate{through}, into another folder",
            code="diverged",
        )

    def _prune_gradually(self) -> None:
        ramp = self.progress.ramp
        if ramp and ramp.prune(self.progress.steps, self.network, self.solver):
            self.apply_masks = mask_applier(self.network.model, self.network.masks)

    def _check_steps(self) -> None:
        """Raises UsageError where `fit` called `on_step` less often than its method needs."""
        steps, ramp = self.progress.steps, self.progress.ramp
        if self.rewind_step is not None and not self.rewind:
            raise self._broken(
                f"called on_step {steps} times, and weight rewinding goes back to step {self.rewind_step}: the task's "
                "`steps` must be the number of steps that `fit` takes"
            )
        if ramp and steps < ramp.steps:
            raise self._broken(
                f"called on_step {steps} times, and gradual pruning takes {ramp.steps} steps: the task's `steps` "
                "must be the number of steps that `fit` takes; or leave out `gradual`"
            )
        if steps == 0:
            raise self._broken("never called on_step: it must call on_step(loss) after every optimizer step")

    def _weights(self) -> str:
        """A digest of all parameters, equal where none of them has changed."""
        return tensor_digest(dict(self.network.model.named_parameters()))

    def _broken(self, sentence: str) -> UsageError:
        return UsageError(f"in round {self.index} the task's `fit` {sentence}", code="bad-member", name="fit")
