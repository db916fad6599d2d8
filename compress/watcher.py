"""What a run tells whoever watches it."""

from __future__ import annotations

from dwindle.checkpoint import Round


class Watcher:
    """Hears of a run as it happens. This one says nothing; the command line's draws it."""

    def begin(self, history: tuple[Round, ...], rounds: int) -> None:
        """The run starts, or resumes after `history`. `rounds`: how many follow the dense training, about."""

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        """Optimizer step `done` of `total` (None: not known yet) in round `index`."""

    def finished(self, record: Round, rounds: int) -> None:
        """A round is trained, judged and saved; `rounds` as in `begin`, better known now."""

    def note(self, sentence: str) -> None:
        """Something worth saying that is not an error."""
