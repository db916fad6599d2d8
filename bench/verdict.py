"""What the gate found: each limit on what ships holds, is missed, or has no figure, which is never a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dwindle.bench.files.contents import Contents
from dwindle.errors import BudgetMissed, RuntimeUnavailable
from dwindle.notebook import table
from dwindle.quantities import format_bytes, format_ms


@dataclass(frozen=True)
class Check:
    """The outcome of one limit on one target's file."""

    name: str
    """The limit's name in `dwindle.bench.limits`; growth is checked as `max_growth.size` and `max_growth.cost`."""
    target: str
    """The target; of a model file its path."""
    limit: float
    measured: float | None
    passed: bool
    reason: str | None
    """What the figure consists of; where `measured` is None, why there is no figure."""
    device: str | None = None
    """The device, or the profile as the file of limits calls it, that the limit is about; None for one of neither."""
    checkpoint: str | None = None
    """The path of the target's checkpoint, where several were checked at once."""
    allowed: str | None = None
    """Why it may go beyond its limit, where it does and the file of limits approves of that: it then passed."""

    @property
    def subject(self) -> str:
        """What the limit is about, such as `onnx`, `onnx on browser`, `net.onnx` or `net.dwindle as onnx`."""
        subject = f"{self.checkpoint} as {self.target}" if self.checkpoint else self.target
        return f"{subject} on {self.device}" if self.device else subject

    @property
    def title(self) -> str:
        """The limit in words, such as `max size` or `max growth of cost`."""
        return self.name.replace(".", " of ").replace("_", " ")

    @property
    def outcome(self) -> str:
        """`pass`, `miss`, `unmeasured`, or `allowed` for a miss that the file of limits approves of."""
        if self.allowed:
            return "allowed"
        if self.measured is None:
            return "unmeasured"
        return "pass" if self.passed else "miss"

    def amount(self, value: float) -> str:
        """The limit's value, or what was measured, with its unit."""
        kind = self.name.partition(".")[0]
        if kind in ("max_size", "max_download"):
            return f"{format_bytes(value)} ({value:,.0f})"
        if kind == "max_cost":
            return f"{value / 1e6:,.2f}M instructions"
        if kind in ("max_latency", "max_predicted_latency"):
            return format_ms(value)
        if kind == "max_ratio":
            return f"{value:.3f} × dense"
        if kind == "max_zeros":
            return f"{value:.1%}"
        if kind == "max_undelegated":
            return f"{value:.0f} calls"
        if kind == "max_difference":
            return f"{value:.3g}"
        if kind == "max_deviations":
            return f"{value:+.1f} σ".replace("-", "−")
        if kind == "max_signature_changes":
            return f"{value:.0f}"
        if kind == "max_growth":
            return f"{value:+.2%}".replace("-", "−")
        return f"{value:.2f} points"


@dataclass(frozen=True)
class Verdict:
    """The outcome of every limit that was checked."""

    rows: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What holds no limit and should be known: files whose outputs were never compared with their network's."""
    files: Mapping[str, Contents] = field(default_factory=dict)
    """What is in each model file, by its path, and where `why` was asked, in each export of a checkpoint."""
    before: Mapping[str, Contents] = field(default_factory=dict)
    """What was in the earlier version of each, by the same names, where `why` was asked."""
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of each model file, by its path, and each export checked, as `net.dwindle as onnx`: `size` in bytes and, where
    they are known, `cost` in instructions, `accuracy` in points, and `download` in bytes where `download` was asked."""
    previous: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The same figures of the baseline, of those that it has."""
    subjects: Mapping[str, Path] = field(default_factory=dict)
    """The model file or the checkpoint that figures are of, by the same names."""

    @property
    def passed(self) -> bool:
        """Whether every limit holds; false where a figure is missing."""
        return all(row.passed for row in self.rows)

    @property
    def sentence(self) -> str:
        """The verdict, in one line."""
        every, unmeasured = len(self.rows), len(self.unmeasured)
        missed = sum(not row.passed for row in self.rows) - unmeasured
        if missed:
            others = f", {unmeasured} could not be measured" if unmeasured else ""
            return f"{missed} of {every} limits missed{others}"
        if unmeasured:
            return f"{unmeasured} of {every} limits could not be measured: not a pass"
        if not self.rows:
            return "no limit was given"
        allowed = sum(row.allowed is not None for row in self.rows)
        return f"every limit holds but {allowed} that may be exceeded for now" if allowed else "every limit holds"

    def _repr_html_(self) -> str:
        """A table with the sentence over a row per limit, for a notebook."""
        rows = (
            (
                row.outcome,
                row.title,
                row.subject,
                row.amount(row.limit),
                "" if row.measured is None else row.amount(row.measured),
                row.reason or "",
            )
            for row in self.rows
        )
        return table(self.sentence, rows, ("", "limit", "target", "allowed", "measured", ""))

    def named(self, checkpoint: str) -> Verdict:
        """The same, its rows and files said to be of that checkpoint."""
        rows = tuple(replace(row, checkpoint=checkpoint) for row in self.rows)
        files, before = (
            {f"{checkpoint} as {target}": found for target, found in each.items()} for each in (self.files, self.before)
        )
        return replace(self, rows=rows, files=files, before=before)

    @property
    def unmeasured(self) -> tuple[Check, ...]:
        """The limits that have no figure."""
        return tuple(row for row in self.rows if row.measured is None)

    @property
    def exit_code(self) -> int:
        """0 where every limit holds, 5 where a figure is absent, 3 where one is missed."""
        if self.unmeasured:
            return RuntimeUnavailable.exit_code
        return 0 if self.passed else BudgetMissed.exit_code


def joined(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdicts on several files or checkpoints as one."""
    return Verdict(
        tuple(row for each in verdicts for row in each.rows),
        tuple(note for each in verdicts for note in each.notes),
        {name: found for each in verdicts for name, found in each.files.items()},
        {name: found for each in verdicts for name, found in each.before.items()},
        {name: found for each in verdicts for name, found in each.figures.items()},
        {name: found for each in verdicts for name, found in each.previous.items()},
        {name: found for each in verdicts for name, found in each.subjects.items()},
    )
