"""What a run tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dwindle.checkpoint import Round
from dwindle.errors import DwindleError, UsageError
from dwindle.models.factory import one_line

if TYPE_CHECKING:
    from dwindle.compress.amc.search import Result, Settings
    from dwindle.tracking import Tracker


class Watcher:
    """Hears of a run as it happens. This one says nothing; the command line's draws it."""

    def begin(self, history: tuple[Round, ...], rounds: int) -> None:
        """The run starts, or resumes after `history`. `rounds`: how many follow the dense training, about."""

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        """Optimizer step `done` of `total` (None: not known yet) in round `index`."""

    def finished(self, record: Round, rounds: int) -> None:
        """A round is trained, judged and saved; `rounds` as in `begin`, better known now."""

    def search(self, judged: int, rewards: Sequence[float], settings: Settings) -> None:
        """AMC has judged so many of `settings.allocations`; `rewards` are those of its agent's episodes so far."""

    def allocation(self, result: Result) -> None:
        """What AMC found, or had found before this run was interrupted."""

    def note(self, sentence: str) -> None:
        """Something worth saying that is not an error."""


@contextmanager
def tracked(
    watcher: Watcher, trackers: Sequence[Tracker], name: str, origin: Mapping[str, Any]
) -> Iterator[TrackingWatcher]:
    """A watcher that gives the figures to `trackers` too, which begin here and end with the block.

    Raises UsageError where one can't begin: nothing is trained by then.
    """
    for tracker in trackers:
        try:
            tracker.begin(name, origin)
        except DwindleError:
            raise
        except Exception as error:  # whatever its server or folder does
            raise UsageError(f"{type(tracker).__name__} can't begin ({one_line(error)}): run without it") from error
    watching = TrackingWatcher(watcher, trackers)
    try:
        yield watching
    finally:
        watching.end()


class TrackingWatcher(Watcher):
    """Passes on what it hears, and gives the figures to trackers."""

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
        """What the finished network is worth."""
        self._log(metrics, self.at)

    def end(self) -> None:
        self._each(lambda tracker: tracker.end())

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        self.at = step
        self._each(lambda tracker: tracker.log(figures, step))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        """No training ends because its record can't be kept."""
        for tracker in list(self.trackers):
            try:
                call(tracker)
            except Exception as error:  # a server gone, a disk full: whatever a tracker meets
                self.trackers.remove(tracker)
                self.note(f"{type(tracker).__name__} is told no more, it failed with {one_line(error)}")


def _figures(record: Round) -> dict[str, float]:
    return {f"round/{name}": value for name, value in asdict(record).items() if value is not None and name != "index"}
