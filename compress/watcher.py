"""Watchers: objects that a run reports its progress to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dwindle.errors import DwindleError, UsageError, one_line
from dwindle.record import Round

if TYPE_CHECKING:
    from dwindle.compress.amc.search import Result, Settings
    from dwindle.tracking import Tracker


_log = logging.getLogger(__name__)


class Watcher:
    """Receives the progress of a run. This one logs rounds and notes, at the level INFO, through `logging`; subclasses
    draw them on a terminal or send them to trackers."""

    def begin(self, history: tuple[Round, ...], rounds: int) -> None:
        """Called when the run starts, or resumes after `history`; about `rounds` rounds follow the dense training."""

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        """Called when round `index` has done `done` of `total` optimizer steps; `total` is None where it is unknown."""

    def finished(self, record: Round, rounds: int) -> None:
        """Called when a round is trained, judged and saved; `rounds` is as in `begin`, estimated anew."""
        _log.info(
            "round %d of about %d: density %.1f%%, %s bytes, validation %.2f",
            record.index,
            rounds,
            100 * record.density,
            "?" if record.bytes is None else f"{record.bytes:,}",
            record.validation,
        )

    def search(self, judged: int, rewards: Sequence[float], settings: Settings) -> None:
        """Called when AMC has judged another allocation.

        judged: how many of `settings.allocations` are judged. rewards: those of the agent's episodes so far.
        """

    def allocation(self, result: Result) -> None:
        """Called when AMC's search is finished, or was finished before this run was interrupted."""

    def note(self, sentence: str) -> None:
        """Receives a sentence that the user should read and that is no error."""
        _log.info("%s", sentence)


@contextmanager
def tracked(
    watcher: Watcher, trackers: Sequence[Tracker], name: str, origin: Mapping[str, Any]
) -> Iterator[TrackingWatcher]:
    """Yields a watcher that passes everything on to `watcher`, and figures to `trackers`, which end with the block.

    Raises UsageError where a tracker cannot start; nothing is trained by then.
    """
    for tracker in trackers:
        try:
            tracker.begin(name, origin)
        except DwindleError:
            raise
        except Exception as error:  # whatever its server or folder does
            raise UsageError(
                f"the tracker {type(tracker).__name__} cannot start ({one_line(error)}): run without it",
                code="tracker-failed",
                option="track",
                name=type(tracker).__name__,
            ) from error
    watching = TrackingWatcher(watcher, trackers)
    try:
        yield watching
    finally:
        watching.end()


class TrackingWatcher(Watcher):
    """Passes every call on to another watcher, and the figures in it to trackers."""

    def __init__(self, watcher: Watcher, trackers: Sequence[Tracker]) -> None:
        self.watcher, self.trackers = watcher, list(trackers)
        self.percent, self.at = -1, 0

    def begin(self, history: tuple[Round, ...], rounds: int) -> None:
        self.watcher.begin(history, rounds)
        for record in history:
            self._log(_figures(record), 1000 * (record.index + 1))

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        self.watcher.step(index, done, total, loss)
        percent = 100 * done // total if total else 0
        if total and percent != self.percent:  # a hundred losses per round make a curve
            self.percent = percent
            self._log({"loss": loss}, 1000 * index + 1000 * done // total)

    def finished(self, record: Round, rounds: int) -> None:
        self.watcher.finished(record, rounds)
        self._log(_figures(record), 1000 * (record.index + 1))

    def search(self, judged: int, rewards: Sequence[float], settings: Settings) -> None:
        self.watcher.search(judged, rewards, settings)

    def allocation(self, result: Result) -> None:
        self.watcher.allocation(result)

    def note(self, sentence: str) -> None:
        self.watcher.note(sentence)

    def result(self, metrics: Mapping[str, float]) -> None:
        """Passes the metrics of the finished network on to the trackers."""
        self._log(metrics, self.at)

    def end(self) -> None:
        self._each(lambda tracker: tracker.end())

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        self.at = step
        self._each(lambda tracker: tracker.log(figures, step))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        """Calls every tracker; one that fails is dropped with a note, as no training should end because of it."""
        for tracker in list(self.trackers):
            try:
                call(tracker)
            except Exception as error:  # a server gone, a disk full: whatever a tracker meets
                self.trackers.remove(tracker)
                self.note(f"{type(tracker).__name__} failed ({one_line(error)}) and receives no more figures")


def _figures(record: Round) -> dict[str, float]:
    return {f"round/{name}": value for name, value in asdict(record).items() if value is not None and name != "index"}
