"""A round without labels: the network is pruned, its surviving weights are solved, and, where that is asked for, taught
the dense network's answers, if validation says that they are better for it. It is saved between layers and between
steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from dwindle.compress import state
from dwindle.compress.calibrate.distill import Distillation, Inputs
from dwindle.compress.calibrate.prune import Position, prune
from dwindle.compress.methods import Method
from dwindle.compress.training import Progress, Training
from dwindle.models.checked_task import CheckedTask
from dwindle.record import Cuts
from dwindle.saved_rounds import PARTIAL, ROUNDS, save_partial

if TYPE_CHECKING:
    from torch import Tensor

    from dwindle.compress.budget import Solver
    from dwindle.compress.network import Network
    from dwindle.compress.pruning_settings import PruningSettings
    from dwindle.compress.qat import Rounding
    from dwindle.compress.watcher import Watcher

_SOLVED = "solved"
"""The name of the file that has the weights as they were solved, while they are taught."""
LAYERS_EVERY = 30.0
"""Seconds between two saves of a calibration, or fewer where `save_every` is."""


@dataclass(frozen=True)
class Calibration:
    """One round. `run` prunes, solves and teaches `network` in place."""

    folder: Path
    index: int
    network: Network
    build_dense: Callable[[], nn.Module]
    dense: nn.Module
    """The network as it was before any pruning, whose outputs are wanted."""
    inputs: Inputs
    """Samples, one tensor for each argument of the networks."""
    task: CheckedTask
    """That of `teaching`: what it has learned of its optimizer is saved with an interrupted round."""
    solver: Solver
    settings: PruningSettings
    watcher: Watcher
    rounding: Callable[[], Rounding | None]
    """Makes what the network is taught through, of the network as it is then."""
    judged: Callable[[], float]
    """Judges the network as it will ship, on validation."""

    def run(self, to: float, resumed: Position | None) -> float | None:
        """Prunes to the share `to` and goes on from `resumed`, where an interrupted round was when the network was
        saved. Returns the last loss of the distillation; None where there is none."""
        at = self._solved(to, resumed) if resumed is None or resumed.taught is None else resumed
        if not self.settings.distill:
            return None
        solved = self._solved_weights(at)
        training = Training(
            index=self.index,
            network=self.network,
            task=self.task,
            method=Method(start=0.0),
            solver=self.solver,
            watcher=self.watcher,
            progress=at.taught or Progress(),
            rewind_step=None,
            rewind={},
            save=lambda progress, _: self._save(replace(at, taught=progress), self._cuts(), {_SOLVED: solved}),
            save_every=self.settings.save_every,
            rounding=self.rounding(),
            rounded_share=self.settings.qat,
        )
        training.run()
        self.watcher.note(
            f"the network was taught the dense one's answers in {self.settings.distill} passes over "
            f"{len(self.inputs[0]):,} samples, without their labels"
        )
        self._keep_the_better(solved)
        return training.progress.loss

    def _solved_weights(self, at: Position) -> dict[str, Tensor]:
        """A copy of the network as it was before it was taught anything."""
        if at.taught is not None:
            return state.read(self.folder / ROUNDS / PARTIAL, _SOLVED)
        return copy.deepcopy(self.network.model.state_dict())

    def _keep_the_better(self, solved: dict[str, Tensor]) -> None:
        """Puts the solved weights back where validation falls by what was taught since."""
        model = self.network.model
        taught, after = copy.deepcopy(model.state_dict()), self.judged()
        model.load_state_dict(solved)
        before = self.judged()
        if after >= before:
            model.load_state_dict(taught)
            return
        self.watcher.note(
            f"taught, the network reaches {after:.2f} on validation, and {before:.2f} as it was solved: it stays as it "
            f"was solved; {len(self.inputs[0]):,} samples may be too few to learn from"
        )

    def _solved(self, to: float, resumed: Position | None) -> Position:
        """Prunes and solves; returns where it came to."""
        last, step, cuts, at = time.monotonic(), 0, Cuts(), resumed

        def save(position: Position) -> None:
            nonlocal last, step, cuts, at
            at = position
            if position.step != step:  # only here are the layers those of the network as it is built
                step, cuts = position.step, self._cuts()
            if time.monotonic() - last >= min(LAYERS_EVERY, self.settings.save_every):
                self._save(position, cuts)
                last = time.monotonic()

        small = self.solver.budget.allowance is not None  # each round is a small step itself
        found = prune(
            self.network,
            self.dense,
            self.solver.granularity,
            to,
            self.inputs,
            final=None if small else self.solver.largest_share,
            steps=1 if small else None,
            resumed=resumed,
            on_layer=lambda done, total, layer: self.watcher.step(self.index, done, total, layer.after),
            save=save,
        )
        self.watcher.note(f"the surviving weights were solved on {found.samples:,} samples, without their labels")
        for sentence in found.notes:
            self.watcher.note(sentence)
        assert at is not None
        return at

    def _cuts(self) -> Cuts:
        return state.cuts_of(self.network, self.build_dense)

    def _save(self, position: Position, cuts: Cuts, more: state.State | None = None) -> None:
        tensors = {**state.capture(self.network, self.task), **(more or {})}
        save_partial(self.folder, self.index, asdict(position), cuts, tensors)


def teaching(dense: nn.Module, inputs: Inputs, passes: int, keywords: tuple[str, ...] | None) -> CheckedTask:
    """The task of a distillation, or of none where `passes` is 0: its state is empty then."""
    return CheckedTask(Distillation(dense, inputs, passes=passes, keywords=keywords))
