"""Iterative pruning: train, then prune and retrain until the budget holds (Renda et al. 2020, Algorithm 1)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from dwindle.compress import state
from dwindle.compress.allowance import Allowance, searched
from dwindle.compress.budget import Solver
from dwindle.compress.calibrate.calibration import Calibration, teaching
from dwindle.compress.calibrate.prune import Position
from dwindle.compress.calibrate.update import solve_survivors
from dwindle.compress.channels import carry
from dwindle.compress.gradual import Ramp
from dwindle.compress.masks import masks_of_zeros
from dwindle.compress.methods import Method
from dwindle.compress.network import Network
from dwindle.compress.pruning_settings import PruningSettings
from dwindle.compress.qat import Rounding
from dwindle.compress.recalibrate import can_recalibrate, norms, recalibrate_by
from dwindle.compress.surgery.exactness import difference
from dwindle.compress.training import Progress, Training
from dwindle.compress.watcher import Watcher
from dwindle.documents import parse
from dwindle.errors import BudgetMissed, DwindleError, UsageError
from dwindle.mask_files import pack_masks
from dwindle.models import ranks
from dwindle.models.build import loaded
from dwindle.models.copies import copied
from dwindle.models.layerwise.samples import spread
from dwindle.quantities import format_names
from dwindle.record import Cuts, Round
from dwindle.saved_rounds import (
    PARTIAL,
    ROUND,
    dense_round,
    last_round,
    partial_round,
    read_round,
    save_partial,
    save_round,
)
from dwindle.sealed import read_tensors

if TYPE_CHECKING:
    from torch import nn

    from dwindle.models.checked_task import CheckedTask

P = TypeVar("P", Progress, Position)
SHARP_FALL = 5.0
"""After a round that loses this many points of validation, it is checked whether batch norm is to blame."""


@dataclass(frozen=True)
class IterativePruning:
    """One run. `run` trains and prunes `network` in place, saving every round under `folder`."""

    folder: Path
    network: Network
    task: CheckedTask
    solvers: tuple[Solver, ...]
    """A solver for each granularity, in the order in which they prune: channels before blocks or single weights."""
    settings: PruningSettings
    watcher: Watcher
    build_dense: Callable[[], nn.Module]
    """Builds the dense architecture anew, to restore a cut network from."""
    as_shipped: Callable[[nn.Module], nn.Module] = lambda model: model
    """Returns what the exported file of a network will compute: a compressed network is judged by that."""
    allocated: Callable[[Solver], Solver] = lambda solver: solver
    """Called before a solver first prunes, when the dense network is trained: a search (AMC) may return a solver that
    prunes by the shares it found."""

    def run(self) -> tuple[Round, ...]:
        """Trains and prunes until the budget holds, from the last saved state if there is one.

        Returns the history, the dense round first. Raises DwindleError where the loss is no finite number (the rounds
        before it stay saved), UsageError where the task breaks its contract, BudgetMissed where nothing more can be
        pruned.
        """
        history = self._resume()
        self.watcher.begin(history, self._expected_rounds(history))
        trains = self.settings.method.retrains or not history
        if trains and (progress := self._interrupted(len(history), Progress)):
            history = self._report((*history, self._train(history, progress)))
        if not history:
            history = self._report((self._judge_pretrained() if self.settings.pretrained else self._train(()),))
        if self.settings.method.keep and len(history) == 1:
            history = self._report((*history, self._keep(history)))
        for solver in self.solvers:
            unmet = len(history) > 1 or solver.excess(self.network) > 1
            allocated = self.allocated(solver) if unmet else solver
            if self.network.widths and len(history) == 1 and allocated.excess(self.network) <= 1:
                history = self._report((*history, self._round_off(history)))
            while allocated.excess(self.network) > 1:
                after = self._round(allocated, self.settings.next_share(allocated, self.network, history), history)
                if after is None:
                    raise BudgetMissed(
                        f"nothing more can be pruned: round {history[-1].index} is the smallest network, with "
                        f"{history[-1].bytes:,} bytes; raise the budget to that, or use a finer granularity",
                        code="out-of-reach",
                    )
                history = after
            if allowance := solver.budget.allowance:
                history = self._shrink_within(allowance, solver, history)
        if allowance := self.solvers[-1].budget.allowance:
            history = allowance.held(self._searched(self.solvers[-1], history))
            self._back_to(history[-1])
        return history

    def _shrink_within(self, allowance: Allowance, solver: Solver, history: tuple[Round, ...]) -> tuple[Round, ...]:
        """Shrinks until validation allows no more; returns all rounds."""
        while own := self._searched(solver, history):
            best, rate = allowance.best(own), allowance.rate(own, self.settings.prune_per_round)
            if rate is None:
                break
            if best != history[-1]:
                self._back_to(best)
            after = self._round(solver, solver.granularity.share(self.network) * (1 - rate), history)
            if after is None:
                break
            history = after
            if not allowance.holds(history[-1], history):
                self.watcher.note(
                    f"round {history[-1].index} {allowance.missed(history[-1], history)}: going back "
                    + (f"to round {best.index}" if best.index else "to the dense network")
                )
        return history

    def _searched(self, solver: Solver, history: tuple[Round, ...]) -> tuple[Round, ...]:
        """The rounds that the search within a solver's allowance goes by: see `searched`."""
        allowances = [each.budget.allowance for each in self.solvers if each.budget.allowance]
        return searched(history, allowances)[self.solvers.index(solver)]

    def _round(self, solver: Solver, to: float, history: tuple[Round, ...]) -> tuple[Round, ...] | None:
        """Prunes to the share `to` and retrains; returns None where nothing more can be pruned."""
        if self.settings.calib_samples:
            return self._calibrate(solver, to, history, self.settings.calib_samples)
        ramp, before = self._ramp(solver, to), self.network.emptied
        if ramp is None and not self._prune(solver, to):
            return None
        record = self._train(history, Progress(ramp=ramp))
        if emptied := [name for name in self.network.emptied if name not in before]:
            self.watcher.note(
                f"round {record.index} pruned every weight of {format_names(emptied, 1)}, so that nothing passes "
                "through: the `score` lamp keeps some weights of every layer"
            )
        fell = history[-1].validation - record.validation >= SHARP_FALL
        if fell and not self.settings.recalibrate and norms(self.network.model) and can_recalibrate(self.task):
            self._note_what_batch_norm_costs(record)
        return self._report((*history, record))

    def _calibrate(
        self, solver: Solver, to: float, history: tuple[Round, ...], samples: int
    ) -> tuple[Round, ...] | None:
        """Prunes to the share `to` without labels (`dwindle.compress.calibrate`); returns None where nothing more can
        be pruned."""
        if solver.granularity.share(solver.shrunk(self.network, to)) >= solver.granularity.share(self.network):
            return None
        with torch.random.fork_rng(devices=[]):
            folder = dense_round(self.folder)
            dense = loaded(self.build_dense(), read_tensors(folder, "weights"), folder)
        inputs = spread(self.task.training_inputs(), samples)
        taught = replace(self, task=teaching(dense, inputs, self.settings.distill, self.task.keywords))
        resumed = taught._interrupted(len(history), Position)
        began = time.monotonic() - (resumed.spent if resumed else 0.0)
        calibration = Calibration(
            self.folder,
            len(history),
            self.network,
            self.build_dense,
            dense,
            inputs,
            taught.task,
            solver,
            self.settings,
            self.watcher,
            self._rounding,
            self._shipped_validation,
        )
        loss = calibration.run(to, resumed)
        return self._report((*history, self._finish(history, loss, began, {})))

    def _keep(self, history: tuple[Round, ...]) -> Round:
        """Returns the round of a network that comes pruned: its zeros become its masks."""
        self.network.masks = masks_of_zeros(self.network.model)
        return self._finish(history, None, time.monotonic(), {})

    def _round_off(self, history: tuple[Round, ...]) -> Round:
        """Returns the round of a network that fewer bits alone bring within the budget: nothing is pruned."""
        if self.settings.method.retrains:
            return self._train(history)
        return self._finish(history, None, time.monotonic(), {})

    def _note_what_batch_norm_costs(self, record: Round) -> None:
        """Notes where accuracy fell only because batch norm's running statistics do not fit the pruned network."""
        recalibrated = copied(self.network.model)
        recalibrate_by(self.task, recalibrated)
        validation = self.task.evaluate(self.as_shipped(recalibrated), "validation")
        if validation - record.validation >= SHARP_FALL:
            self.watcher.note(
                f"round {record.index} reaches {record.validation:.2f} on validation, and {validation:.2f} with "
                "batch norm recalibrated: start a new run with `recalibrate`, into another folder"
            )

    def _ramp(self, solver: Solver, to: float) -> Ramp | None:
        """The ramp of a gradual retraining; None where all is pruned before it, or there is nothing to prune."""
        steps = round(self.settings.gradual * (self.task.steps or 0) * (1 - self.settings.method.start))
        if solver.granularity.kind != "weights" or not steps:
            return None
        share, shrunk = solver.granularity.share(self.network), solver.shrunk(self.network, to)
        if solver.granularity.share(shrunk) >= share:
            return None
        return Ramp(share, to, steps, last=not solver.budget.allowance and solver.excess(shrunk) <= 1)

    def _prune(self, solver: Solver, to: float) -> bool:
        """Prunes to the share `to`, and restores what the method restores; False where nothing more can be pruned."""
        before = pruned = self.network.model
        share = solver.granularity.share(self.network)
        if self.settings.update:
            before = copied(pruned)  # masks are put on the network itself
        keep = solver.granularity.shrink(self.network, to)
        if solver.granularity.share(self.network) >= share:
            return False
        for change in self.network.changes if keep is not None else ():
            apart = difference(before, change.keep, self.network.inputs, (None,)).outputs
            self.watcher.note(
                f"{change.layer}: cut to {change.left} of {change.units} units, which changes the outputs by "
                f"{apart:.1%} of the largest before retraining ({change.reason})"
            )
        if keep is not None and self.task.optimizer is not None:
            carry(self.task.optimizer, pruned, self.network.model, keep)
        if self.settings.update:
            for sentence in solve_survivors(self.network, before, keep, self.task):
                self.watcher.note(sentence)
        if self.settings.method.restore:
            state.rewind(self.network, self.task, dense_round(self.folder))
        return True

    def _train(self, history: tuple[Round, ...], progress: Progress | None = None) -> Round:
        """Trains or retrains, from `progress` if that was interrupted; returns the round, judged and saved."""
        index, progress = len(history), progress or Progress()
        self._check_ranks_agree(f"the weights before round {index}")
        rewind_step = self._rewind_step() if index == 0 else None
        training = Training(
            index=index,
            network=self.network,
            task=self.task,
            method=self.settings.method if index else Method(start=0.0),
            solver=self.solvers[-1],
            watcher=self.watcher,
            progress=progress,
            rewind_step=rewind_step,
            rewind=self._rewind_state(progress, rewind_step),
            save=partial(self._save_partial, index),
            save_every=self.settings.save_every if self._saves_within_rounds() else math.inf,
            rounding=self._rounding() if index else None,
            rounded_share=self.settings.qat,
            recalibrate=self.settings.recalibrate,
        )
        training.run()
        return self._finish(history, progress.loss, training.began, training.rewind)

    def _rounding(self) -> Rounding | None:
        if not self.settings.qat or self.settings.target is None:
            return None
        return Rounding(self.network.model, self.task.example_inputs(), self.settings.target)

    def _saves_within_rounds(self) -> bool:
        """Whether this process saves training under way: the first rank does, if the task can go on from there."""
        return ranks.rank() == 0 and self.task.has("state_dict")

    def _save_partial(self, index: int, progress: Progress, rewind: state.State) -> None:
        cuts = state.cuts_of(self.network, self.build_dense)
        save_partial(self.folder, index, asdict(progress), cuts, {**state.capture(self.network, self.task), **rewind})

    def _judge_pretrained(self) -> Round:
        """The dense round of a network that comes trained."""
        return self._finish((), None, time.monotonic(), {})

    def _finish(self, history: tuple[Round, ...], loss: float | None, began: float, rewind: state.State) -> Round:
        """Judges the network as it is now, and saves it as the next round."""
        self._check_ranks_agree(f"the weights after round {len(history)}")
        record = Round(
            index=len(history),
            density=self.network.density,
            bytes=self.solvers[-1].packed_bytes(self.network.model),
            validation=self._shipped_validation() if history else self.task.evaluate(self.network.model, "validation"),
            loss=loss,
            seconds=time.monotonic() - began,
            macs=self.network.macs if self.network.inputs else None,
            samples=history[0].samples if history else self._judged_samples(),
        )
        tensors = {**state.capture(self.network, self.task), **rewind}
        cuts = state.cuts_of(self.network, self.build_dense)
        allowance = self.solvers[-1].budget.allowance
        best = allowance.best(self._searched(self.solvers[-1], (*history, record))).index if allowance else None
        ranks.broadcast_from_first(lambda: save_round(self.folder, record, history, cuts, tensors, keep=best))
        return record

    def _shipped_validation(self) -> float:
        return self.task.evaluate(self.as_shipped(self.network.model), "validation")

    def _judged_samples(self) -> int | None:
        """How many samples the accuracy on validation is of; None where the task doesn't say, or has another metric."""
        if self.task.metric != "accuracy":
            return None
        try:
            labels = self.task.labels("validation")
        except DwindleError as error:  # a trained round isn't lost for want of an interval
            self.watcher.note(f"accuracies have no interval: {error}")
            return None
        return None if labels is None else len(labels)

    def _report(self, history: tuple[Round, ...]) -> tuple[Round, ...]:
        self.watcher.finished(history[-1], self._expected_rounds(history))
        return history

    def _expected_rounds(self, history: tuple[Round, ...]) -> int:
        return self.settings.expected_rounds(self.solvers, self.network, history)

    def _check_ranks_agree(self, what: str) -> None:
        ranks.check_agree(what, {**self.network.model.state_dict(), **pack_masks(self.network.masks)})

    def _rewind_step(self) -> int | None:
        """The step of the dense training whose state the method restores; None where it restores none."""
        method = self.settings.method
        if not method.restore:
            return None
        if method.start and self.task.steps is None:
            raise UsageError(
                "weight rewinding needs the task's `steps`, to know which step to go back to: add that, or use another "
                "`method`",
                code="missing-member",
                option="method",
                name="steps",
            )
        return round(method.start * (self.task.steps or 0))

    def _rewind_state(self, progress: Progress, rewind_step: int | None) -> state.State:
        """The state to rewind to: the present one at the very start, what an interrupted training saved if that is past
        `rewind_step`, and else empty."""
        if rewind_step is None or progress.steps < rewind_step:
            return {}
        if progress.steps == 0:
            return state.capture_rewind(self.network, self.task)
        return state.read_rewind(self.folder / "rounds" / PARTIAL)

    def _resume(self) -> tuple[Round, ...]:
        saved = ranks.broadcast_from_first(lambda: last_round(self.folder))
        if saved is None:
            return ()
        history, cuts, folder = saved
        self._restore(folder, cuts)
        return history

    def _interrupted(self, index: int, kind: type[P]) -> P | None:
        """How far round `index` had come where it was interrupted, with the network restored to that; else None."""
        interrupted = ranks.broadcast_from_first(lambda: partial_round(self.folder, index))
        if interrupted is None:
            return None
        saved, cuts, folder = interrupted
        self._restore(folder, cuts)
        progress: P = parse(kind, saved, folder / ROUND, within="progress")
        return progress

    def _back_to(self, record: Round) -> None:
        _, cuts, folder = ranks.broadcast_from_first(lambda: read_round(self.folder, record.index))
        self._restore(folder, cuts)

    def _restore(self, folder: Path, cuts: Cuts) -> None:
        state.restore(self.network, self.task, folder, cuts, self.build_dense)
        if self.settings.method.retrains and self.task.labelled and not self.task.has("load_state_dict"):
            self.watcher.note(self.task.without("load_state_dict"))
