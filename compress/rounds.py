"""The loop: train, then prune and retrain until the budget holds (Renda et al. 2020, Algorithm 1)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.checkpoint import (
    PARTIAL,
    ROUND,
    Round,
    dense_round,
    last_round,
    pack_masks,
    partial_round,
    read_round,
    save_partial,
    save_round,
)
from dwindle.compress import state
from dwindle.compress.allowance import Allowance
from dwindle.compress.asked import asked, judged, state_of, step_loss
from dwindle.compress.budget import Solver
from dwindle.compress.channels import carry
from dwindle.compress.gradual import Ramp
from dwindle.compress.masks import mask_applier, masks_hold
from dwindle.compress.methods import Method
from dwindle.compress.network import Network
from dwindle.compress.recalibrate import norms, recalibrate_by, source
from dwindle.compress.watcher import Watcher
from dwindle.documents import parse
from dwindle.errors import BudgetMissed, DwindleError, UsageError
from dwindle.models import ranks
from dwindle.quantities import format_names

if TYPE_CHECKING:
    from torch import nn

    from dwindle.task import Task

RECENT = 50
"""How many losses a round's reported loss is the mean of."""
SHARP = 5.0
"""Points of validation: a round that loses as many is asked whether batch norm is to blame."""


@dataclass(frozen=True)
class Plan:
    """How the rounds go about it."""

    method: Method
    prune_per_round: float
    """Share of what survives that each round removes."""
    rounds: int | None
    """A fixed number of rounds, of equal rate; None: as many as the rate needs."""
    recalibrate: bool = False
    """Whether each training ends with batch norm's statistics taken anew."""
    gradual: float = 0.0
    """The share of a retraining's steps over which its round's weights go; 0: all at once, before the first."""
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
    solvers: tuple[Solver, ...]
    """One for each granularity, in the order in which they prune: channels before what is finer."""
    plan: Plan
    watcher: Watcher
    fresh: Callable[[], nn.Module]
    """Builds the dense architecture anew, to put a cut network's weights back into."""
    ships: Callable[[nn.Module], nn.Module] = lambda model: model
    """What the file of a network will compute: that is what a compressed one is judged by."""
    aim: Callable[[Solver], Solver] = lambda solver: solver
    """Asked once the dense network is trained: what a search found out may say better what to prune."""

    def run(self) -> tuple[Round, ...]:
        """Trains and prunes until the budget holds, from the last saved state if there is one.

        Returns the history, the dense round first. Raises DwindleError when the loss stops being a number
        (the rounds before it stay saved), UsageError when the task breaks its contract, BudgetMissed when
        nothing more can be pruned.
        """
        history = self._resume()
        self.watcher.begin(history, self._rounds(history))
        if interrupted := ranks.broadcast_from_first(lambda: partial_round(self.folder, len(history))):
            document, folder = interrupted
            self._restore(folder, document["structure"])
            progress = parse(Progress, document.get("progress"), folder / ROUND, within="progress")
            history = self._report((*history, self._train(history, progress)))
        if not history:
            history = self._report((self._as_it_came() if self.plan.pretrained else self._train(()),))
        for solver in self.solvers:
            aimed = self.aim(solver) if solver.excess(self.network) > 1 else solver
            while aimed.excess(self.network) > 1:
                after = self._round(aimed, self._next_share(aimed, history), history)
                if after is None:
                    raise BudgetMissed(
                        f"nothing more can be pruned: the smallest is {history[-1].bytes:,} bytes, at round "
                        f"{history[-1].index}; ask for that, or for a finer granularity"
                    )
                history = after
            if allowance := solver.budget.allowance:
                history = self._as_far_as(allowance, solver, history)
        return history

    def _as_far_as(self, allowance: Allowance, solver: Solver, history: tuple[Round, ...]) -> tuple[Round, ...]:
        """Shrinks while validation allows it; the history of what did, the network as it was last."""
        while (rate := allowance.rate(history, self.plan.prune_per_round)) is not None:
            if (best := allowance.best(history)) != history[-1]:
                self._back_to(best)
            after = self._round(solver, solver.granularity.share(self.network) * (1 - rate), history)
            if after is None:
                break
            history = after
            if not allowance.holds(history[-1], history):
                lost = allowance.drop(history[-1], history)
                best = allowance.best(history)
                self.watcher.note(
                    f"round {history[-1].index} lost {lost:.2f} points, {allowance.points:g} are allowed: back to "
                    + (f"round {best.index}" if best.index else "the dense network")
                )
        self._back_to(best := allowance.best(history))
        if not best.index:
            raise BudgetMissed(f"every step lost more than {allowance.points:g} points: allow more")
        return tuple(record for record in history if allowance.holds(record, history))

    def _round(self, solver: Solver, to: float, history: tuple[Round, ...]) -> tuple[Round, ...] | None:
        """Prunes to a share and retrains; None where nothing more can go."""
        ramp, before = self._ramp(solver, to), self.network.emptied
        if ramp is None and not self._prune(solver, to):
            return None
        record = self._train(history, Progress(ramp=ramp))
        if emptied := [name for name in self.network.emptied if name not in before]:
            self.watcher.note(
                f"round {record.index} leaves nothing of {format_names(emptied, 1)}, and what only that passed on is "
                "lost: `score` lamp leaves something of every layer"
            )
        fell = history[-1].validation - record.validation >= SHARP
        if fell and not self.plan.recalibrate and norms(self.network.model) and source(self.task):
            self._say_what_batch_norm_costs(record)
        return self._report((*history, record))

    def _say_what_batch_norm_costs(self, record: Round) -> None:
        """Where accuracy falls, it may be the running averages alone that do not fit what is left of the network."""
        again = copy.deepcopy(self.network.model)
        recalibrate_by(self.task, again)
        if (validation := judged(self.task, self.ships(again), "validation")) - record.validation >= SHARP:
            self.watcher.note(
                f"round {record.index}: {record.validation:.2f} on validation, {validation:.2f} with batch norm's "
                "statistics taken anew: begin again with `recalibrate`, into another folder"
            )

    def _ramp(self, solver: Solver, to: float) -> Ramp | None:
        """How the retraining prunes, where it does that itself and there is anything to prune."""
        whole: int = getattr(self.task, "steps", None) or 0
        steps = round(self.plan.gradual * whole * (1 - self.plan.method.start))
        if solver.granularity.kind != "weights" or not steps:
            return None
        share, shrunk = solver.granularity.share(self.network), solver.shrunk(self.network, to)
        if solver.granularity.share(shrunk) >= share:
            return None
        return Ramp(share, to, steps, last=not solver.budget.allowance and solver.excess(shrunk) <= 1)

    def _prune(self, solver: Solver, to: float) -> bool:
        """Prunes to a share, and sets back what the method sets back; False where nothing more can go."""
        before, share = self.network.model, solver.granularity.share(self.network)
        keep = solver.granularity.shrink(self.network, to)
        if solver.granularity.share(self.network) >= share:
            return False
        optimizer = getattr(self.task, "optimizer", None)
        if keep is not None and optimizer is not None:
            carry(optimizer, before, self.network.model, keep)
        if self.plan.method.restore:
            state.rewind(self.network, self.task, dense_round(self.folder))
        return True

    def _next_share(self, solver: Solver, history: tuple[Round, ...]) -> float:
        """One regular step, or, where that would overshoot the budget, exactly as far as the budget.

        Depends on the network and the number of rounds alone, so that a resumed run chooses the same.
        """
        share = solver.granularity.share(self.network)
        if self.plan.rounds is None:
            step = share * (1 - self.plan.prune_per_round)
            # A budget just past the step is worth going straight to: a round costs a whole retraining.
            if solver.excess_at(self.network, step * (1 - self.plan.prune_per_round / 4)) > 1:
                return step
            return solver.largest_share(self.network)
        aim, left = solver.largest_share(self.network), max(1, self.plan.rounds + 1 - len(history))
        return float(share * (aim / share) ** (1 / left)) if left > 1 else aim

    def _rounds(self, history: tuple[Round, ...]) -> int:
        """How many prune-and-retrain rounds the whole run takes, as far as the weights at hand can tell."""
        done, rate = max(0, len(history) - 1), math.log(1 - self.plan.prune_per_round)
        if self.plan.rounds is not None:
            return self.plan.rounds
        if self.solvers[-1].budget.allowance:
            return done + 1  # nobody knows
        for solver in self.solvers:
            if solver.excess(self.network) > 1:
                ratio = solver.largest_share(self.network) / solver.granularity.share(self.network)
                done += max(1, math.ceil(math.log(max(ratio, 1e-6)) / rate - 0.25))
        return done

    def _train(self, history: tuple[Round, ...], progress: Progress | None = None) -> Round:
        """One training or retraining, from `progress` if it was cut off, judged and saved."""
        index, progress = len(history), progress or Progress()
        self._check_ranks_agree(f"what round {index} starts from")
        method = self.plan.method if index else Method(start=0.0)
        began = saved = time.monotonic() - progress.seconds
        hold = mask_applier(self.network.model, self.network.masks)
        whole: int | None = getattr(self.task, "steps", None)
        total = math.ceil(whole * (1 - method.start)) if whole else None
        point = self._rewind_point(whole) if index == 0 else None
        rewind = self._rewind_state(progress, point)

        def on_step(loss: float) -> None:
            nonlocal hold, rewind, saved
            now, loss = time.monotonic(), step_loss(loss)
            progress.step(loss, now - began)
            if progress.steps == 1:
                state_of(self.task)  # a state that can't be saved is better known now than when the round ends
            if not math.isfinite(loss):
                kept = f"round {index - 1} is kept" if index else "nothing was saved"
                raise DwindleError(
                    f"the loss became {loss} in round {index} at step {progress.steps}; {kept}: train with a "
                    "smaller learning rate into another -o"
                )
            if progress.ramp and progress.ramp.prune(progress.steps, self.network, self.solvers[-1]):
                hold = mask_applier(self.network.model, self.network.masks)
            hold()
            if progress.steps == point:
                rewind = state.capture_rewind(self.network, self.task)
            if ranks.rank() == 0 and now - saved >= self.plan.save_every and hasattr(self.task, "state_dict"):
                document = {"progress": asdict(progress), "structure": state.structure_of(self.network, self.fresh)}
                save_partial(self.folder, index, document, {**state.capture(self.network, self.task), **rewind})
                saved = time.monotonic()
            self.watcher.step(index, progress.steps, total, loss)

        # Only fine-tuning asks a task for more than the protocol's two arguments.
        options = {"last_lr": True} if method.last_lr else {}
        kept = f"; round {index - 1} is kept, and the same command goes on from there" if index else ""
        with asked(f"fit in round {index}", kept):
            self.task.fit(self.network.model, start=method.start, on_step=on_step, **options)
        if point is not None and not rewind:
            raise UsageError(
                f"the task's fit called on_step {progress.steps} times, and {self.plan.method.start:g} of its `steps` "
                f"is step {point}, which there was none to go back to: `steps` must be how many it takes"
            )
        if progress.ramp and progress.steps < progress.ramp.steps:
            raise UsageError(
                f"the task's fit called on_step {progress.steps} times, too few to prune over {progress.ramp.steps} "
                "steps: its `steps` must be how many it takes, or leave out `gradual`"
            )
        if progress.steps == 0 or not masks_hold(self.network.model, self.network.masks):
            raise UsageError(
                f"the task's fit called on_step {progress.steps} times and left pruned weights non-zero: it must "
                "call on_step(loss) after every optimizer step"
            )
        if self.plan.recalibrate:
            recalibrate_by(self.task, self.network.model)
        return self._finish(history, progress.loss, began, rewind)

    def _as_it_came(self) -> Round:
        """The dense round of a network that was trained elsewhere."""
        return self._finish((), None, time.monotonic(), {})

    def _finish(self, history: tuple[Round, ...], loss: float | None, began: float, rewind: state.State) -> Round:
        """The network as it is now, judged and saved as the next round."""
        self._check_ranks_agree(f"the weights after round {len(history)}")
        record = Round(
            index=len(history),
            density=self.network.density,
            bytes=self.solvers[-1].packed_bytes(self.network.model),
            validation=judged(
                self.task, self.ships(self.network.model) if history else self.network.model, "validation"
            ),
            loss=loss,
            seconds=time.monotonic() - began,
            macs=self.network.macs if self.network.inputs else None,
        )
        tensors = {**state.capture(self.network, self.task), **rewind}
        structure = state.structure_of(self.network, self.fresh)
        allowance = self.solvers[-1].budget.allowance
        best = allowance.best((*history, record)).index if allowance else None
        ranks.broadcast_from_first(lambda: save_round(self.folder, record, history, structure, tensors, keep=best))
        return record

    def _report(self, history: tuple[Round, ...]) -> tuple[Round, ...]:
        self.watcher.finished(history[-1], self._rounds(history))
        return history

    def _check_ranks_agree(self, what: str) -> None:
        ranks.check_agree(what, {**self.network.model.state_dict(), **pack_masks(self.network.masks)})

    def _rewind_point(self, whole: int | None) -> int | None:
        """The step of the dense training whose state the method goes back to; None where it doesn't."""
        if not self.plan.method.restore:
            return None
        if self.plan.method.start and whole is None:
            raise UsageError("weight rewinding needs the task to have `steps`, to know which step to go back to")
        return round(self.plan.method.start * (whole or 0))

    def _rewind_state(self, progress: Progress, point: int | None) -> state.State:
        """The state to go back to, once training has come past it: the very start, or what a killed run saved."""
        if point is None or progress.steps < point:
            return {}
        if progress.steps == 0:
            return state.capture_rewind(self.network, self.task)
        return state.read_rewind(self.folder / "rounds" / PARTIAL)

    def _resume(self) -> tuple[Round, ...]:
        saved = ranks.broadcast_from_first(lambda: last_round(self.folder))
        if saved is None:
            return ()
        history, structure, folder = saved
        self._restore(folder, structure)
        return history

    def _back_to(self, record: Round) -> None:
        _, structure, folder = ranks.broadcast_from_first(lambda: read_round(self.folder, record.index))
        self._restore(folder, structure)

    def _restore(self, folder: Path, structure: dict[str, Any]) -> None:
        state.restore(self.network, self.task, folder, structure, self.fresh)
        if not hasattr(self.task, "load_state_dict"):
            self.watcher.note("the task has no load_state_dict: its optimizer starts afresh")


@dataclass
class Progress:
    """How far a round has come."""

    steps: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """The last RECENT of them: what is reported is where training ended, not where it began."""
    ramp: Ramp | None = None
    """How the round prunes while it trains; None: it was pruned before."""

    def step(self, loss: float, seconds: float) -> None:
        self.steps, self.seconds = self.steps + 1, seconds
        self.losses = [*self.losses[1 - RECENT :], loss]

    @property
    def loss(self) -> float:
        return sum(self.losses) / len(self.losses)
