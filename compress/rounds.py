"""The loop: train, then prune and retrain until the budget holds (Renda et al. 2020, Algorithm 1)."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dwindle.checkpoint import (
    PARTIAL,
    Round,
    dense_round,
    last_round,
    pack_masks,
    partial_round,
    save_partial,
    save_round,
    unpack_masks,
)
from dwindle.compress.budget import Solver
from dwindle.compress.masks import held, holder
from dwindle.compress.methods import Method
from dwindle.compress.network import Granularity, Network
from dwindle.compress.watcher import Watcher
from dwindle.errors import BudgetMissed, DwindleError, UsageError
from dwindle.sealed import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from dwindle.task import Task


STATE = ("weights", "masks", "task", "generator")
"""The tensor files of a saved state."""
RECENT = 50


@dataclass(frozen=True)
class Plan:
    """How the rounds go about it."""

    method: Method
    prune_per_round: float
    """Share of what survives that each round removes."""
    rounds: int | None
    """A fixed number of rounds, of equal rate; None: as many as the rate needs."""
    save_every: float = 300.0
    """Seconds between saves within a round."""
    pretrained: bool = False
    """Whether the network comes trained: then the dense round judges it as it is."""


@dataclass(frozen=True)
class Loop:
    """One run's parts. `run` trains `network` in place, saving every round under `folder`."""

    folder: Path
    network: Network
    task: Task
    granularity: Granularity
    solver: Solver
    plan: Plan
    watcher: Watcher

    def run(self) -> tuple[Round, ...]:
        """Trains and prunes until the budget holds, from the last saved round if there is one.

        Returns the history, the dense round first. Raises DwindleError when the loss stops being a number
        (the rounds before it stay saved), UsageError when the task breaks its contract.
        """
        history = self._resume()
        if interrupted := partial_round(self.folder, len(history)):
            self._load(interrupted[1])
            history = (*history, self._train(history, interrupted[0]))
        # Only for show: how far there is to go, as the weights at hand tell it.
        aim = self.solver.largest_share(self.network)
        self.watcher.begin(history, self._rounds(history, aim))
        if not history:
            history = (self._as_it_came() if self.plan.pretrained else self._train(()),)
            aim = self.solver.largest_share(self.network)
            self.watcher.finished(history[-1], self._rounds(history, aim))
        while self.solver.excess(self.network) > 1:
            share = self.granularity.share(self.network)
            self.granularity.shrink(self.network, self._next_share(history))
            if self.granularity.share(self.network) >= share:
                raise BudgetMissed(
                    f"nothing more can be pruned: the smallest is {history[-1].bytes:,} bytes, at round "
                    f"{history[-1].index}; ask for that, or for a finer granularity"
                )
            if self.plan.method.restore:
                self._rewind()
            history = (*history, self._train(history))
            self.watcher.finished(history[-1], self._rounds(history, aim))
        return history

    def _next_share(self, history: tuple[Round, ...]) -> float:
        """One regular step, or, where that would overshoot the budget, exactly as far as the budget.

        Depends on the network and the number of rounds alone, so that a resumed run chooses the same.
        """
        share = self.granularity.share(self.network)
        if self.plan.rounds is None:
            step = share * (1 - self.plan.prune_per_round)
            # A budget just past the step is worth going straight to: a round costs a whole retraining.
            if self.solver.excess_at(self.network, step * (1 - self.plan.prune_per_round / 4)) > 1:
                return step
            return self.solver.largest_share(self.network)
        aim, left = self.solver.largest_share(self.network), max(1, self.plan.rounds + 1 - len(history))
        return float(share * (aim / share) ** (1 / left)) if left > 1 else aim

    def _rounds(self, history: tuple[Round, ...], aim: float) -> int:
        """How many prune-and-retrain rounds the whole run takes, if it ends at a share of `aim`."""
        if self.plan.rounds is not None:
            return self.plan.rounds
        done, share = max(0, len(history) - 1), self.granularity.share(self.network)
        if self.solver.excess(self.network) <= 1:
            return done
        rate = math.log(1 - self.plan.prune_per_round)
        return done + max(1, math.ceil(math.log(max(aim, 1e-6) / share) / rate - 0.25))

    def _train(self, history: tuple[Round, ...], done: dict[str, Any] | None = None) -> Round:
        """One training or retraining, judged and saved; `done`: the document of the part done before a kill."""
        index = len(history)
        method = self.plan.method if index else Method(start=0.0)
        progress = Progress(**done["progress"]) if done else Progress()
        began = saved = time.monotonic() - progress.seconds
        hold = holder(self.network.model, self.network.masks)
        whole: int | None = getattr(self.task, "steps", None)
        total = math.ceil(whole * (1 - method.start)) if whole else None
        point = self._rewind_point(whole) if index == 0 else None
        rewind = self._rewind_state(progress, point)

        def on_step(loss: float) -> None:
            nonlocal rewind, saved
            now = time.monotonic()
            progress.step(loss, now - began)
            if not math.isfinite(loss):
                kept = f"round {index - 1} is kept" if index else "nothing was saved"
                raise DwindleError(
                    f"the loss became {loss} in round {index} at step {progress.steps}; {kept}: train with a "
                    "smaller learning rate into another -o"
                )
            hold()
            if progress.steps == point:
                rewind = self._state("rewind_")
            if now - saved >= self.plan.save_every and hasattr(self.task, "state_dict"):
                save_partial(self.folder, index, {"progress": asdict(progress)}, {**self._state(), **rewind})
                saved = time.monotonic()
            self.watcher.step(index, progress.steps, total, loss)

        # Only fine-tuning asks a task for more than the protocol's two arguments.
        options = {"last_lr": True} if method.last_lr else {}
        self.task.fit(self.network.model, start=method.start, on_step=on_step, **options)
        if progress.steps == 0 or not held(self.network.model, self.network.masks):
            raise UsageError(
                f"the task's fit called on_step {progress.steps} times and left pruned weights non-zero: it must "
                "call on_step(loss) after every optimizer step"
            )
        return self._finish(history, progress.loss, began, rewind)

    def _as_it_came(self) -> Round:
        """The dense round of a network that was trained elsewhere."""
        return self._finish((), None, time.monotonic(), {})

    def _finish(
        self, history: tuple[Round, ...], loss: float | None, began: float, rewind: dict[str, dict[str, Tensor]]
    ) -> Round:
        """The network as it is now, judged and saved as the next round."""
        record = Round(
            index=len(history),
            density=self.granularity.share(self.network),
            bytes=self.solver.packed_bytes(self.network.model),
            validation=self._judge(),
            loss=loss,
            seconds=time.monotonic() - began,
        )
        save_round(self.folder, record, history, {**self._state(), **rewind})
        return record

    def _judge(self) -> float:
        value = self.task.evaluate(self.network.model, "validation")
        if not isinstance(value, float) or not math.isfinite(value):
            raise UsageError(f"the task's evaluate returned {value!r}: it must return one finite float")
        return value

    def _state(self, prefix: str = "") -> dict[str, dict[str, Tensor]]:
        """Everything that a round continues from, copied."""
        state_of = getattr(self.task, "state_dict", dict)
        tensors = (
            self.network.model.state_dict(),
            pack_masks(self.network.masks),
            state_of(),
            {"torch": torch.get_rng_state()},
        )
        return {prefix + stem: copy.deepcopy(dict(named)) for stem, named in zip(STATE, tensors, strict=True)}

    def _load(self, folder: Path, prefix: str = "") -> None:
        """Takes up a state that was saved by `_state`."""
        weights = read_tensors(folder, prefix + "weights")
        self.network.model.load_state_dict(weights)
        if not prefix:
            self.network.masks = unpack_masks(read_tensors(folder, "masks"), weights)
            torch.set_rng_state(read_tensors(folder, "generator")["torch"])
        load = getattr(self.task, "load_state_dict", None)
        if load:
            load(read_tensors(folder, prefix + "task"), self.network.model)
        else:
            self.watcher.note("the task has no load_state_dict: its optimizer goes on as it is")

    def _rewind_point(self, whole: int | None) -> int | None:
        """The step of the dense training whose state the method goes back to; None where it doesn't."""
        if not self.plan.method.restore:
            return None
        if self.plan.method.start and whole is None:
            raise UsageError("weight rewinding needs the task to have `steps`, to know which step to go back to")
        return round(self.plan.method.start * (whole or 0))

    def _rewind_state(self, progress: Progress, point: int | None) -> dict[str, dict[str, Tensor]]:
        """The state to go back to, as far as the dense training has come: saved before a kill, or the very start."""
        if point is None or progress.steps < point:
            return {}
        if progress.steps == 0:
            return self._state("rewind_")
        partial = self.folder / "rounds" / PARTIAL
        return {f"rewind_{stem}": read_tensors(partial, f"rewind_{stem}") for stem in STATE}

    def _rewind(self) -> None:
        """Sets weights, optimizer state and batch-norm statistics back, under the present masks."""
        self._load(dense_round(self.folder), "rewind_")
        holder(self.network.model, self.network.masks)()

    def _resume(self) -> tuple[Round, ...]:
        saved = last_round(self.folder)
        if saved is None:
            return ()
        history, folder = saved
        self._load(folder)
        return history


@dataclass
class Progress:
    """How far a round has come."""

    steps: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """The last RECENT of them: what is reported is where training ended, not where it began."""

    def step(self, loss: float, seconds: float) -> None:
        self.steps, self.seconds = self.steps + 1, seconds
        self.losses = [*self.losses[1 - RECENT :], loss]

    @property
    def loss(self) -> float:
        return sum(self.losses) / len(self.losses)
