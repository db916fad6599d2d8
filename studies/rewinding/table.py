"""Test accuracy against the dense network, method by method, and who wins with an interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from studies.paired import gain, half_width
from studies.rewinding.grid import CONTROL, METHODS

OURS, PAPER = METHODS[0], "paper"
SAME = {"iterative": 0.04, "one-shot": 0.04, "channels": 0.08}
"""Ratios that differ by so little are one: of MACs, whole channels come within a few percent."""


@dataclass(frozen=True)
class Setting:
    """All that was run of one network on one data set in one way of pruning, by one name per line: a method or, among
    recipes, a recipe."""

    network: str
    data: str
    kind: str
    epochs: int
    per_round: float
    """Share of the surviving weights that a round prunes."""
    rows: tuple[dict[str, Any], ...]
    by: str = "method"
    recipe: str = "paper"
    """That of every row but the control's, among methods."""

    @property
    def title(self) -> str:
        rate = f" {self.per_round:.0%} a round" if self.kind == "iterative" else ""
        among = ", by recipe" if self.by == "recipe" else "" if self.recipe == PAPER else f", {self.recipe}"
        return f"{self.network} on {self.data}, {self.kind}{rate}{among}"

    @property
    def what(self) -> str:
        return "MACs" if self.kind == "channels" else "weights"

    @property
    def ours(self) -> str:
        """The line that the others are compared with."""
        return OURS if self.by == "method" else PAPER

    @property
    def before(self) -> str:
        return "the dense network" if self.by == "method" else f"the dense network that {PAPER} trained"

    @property
    def lead(self) -> str:
        """What the brackets say: how far a method is behind ours, how far a recipe is ahead of the paper's."""
        return f"{OURS} minus that one" if self.by == "method" else f"that one minus {PAPER}"

    @property
    def names(self) -> list[str]:
        found = {row[self.by] for row in self.rows}
        known = [name for name in (*METHODS, CONTROL) if name in found] if self.by == "method" else [PAPER]
        return known + sorted(found - set(known))

    @property
    def ratios(self) -> list[float]:
        """Those that were reached, each once."""
        lines = [row for row in self.rows if row["method"] != CONTROL]
        found: list[float] = []
        for ratio in sorted(self._ratio(point) for row in lines for point in row["history"][1:]):
            if not found or not math.isclose(ratio, found[-1], rel_tol=SAME[self.kind]):
                found.append(ratio)
        return found

    def drops(self, name: str, ratio: float) -> dict[int, float]:
        """By seed, the points of test accuracy gained or lost against the dense network before pruning: that of the
        paper's recipe, where recipes are compared."""
        before = {row["seed"]: row["history"][0]["test"] for row in self.rows if row[self.by] in (self.ours, name)}
        before |= {row["seed"]: row["history"][0]["test"] for row in self.rows if row[self.by] == self.ours}
        return {
            row["seed"]: point["test"] - before[row["seed"]]
            for row in self.rows
            if row[self.by] == name
            for point in row["history"][1:]
            if math.isclose(self._ratio(point), ratio, rel_tol=SAME[self.kind])
        }

    @property
    def seeds(self) -> int:
        return len({row["seed"] for row in self.rows if row[self.by] == self.ours and row["method"] == OURS})

    @property
    def dense(self) -> list[float]:
        return [row["history"][0]["test"] for row in self.rows if row[self.by] == self.ours and row["method"] == OURS]

    def _ratio(self, point: dict[str, float]) -> float:
        if self.kind != "channels":
            return 1 / point["density"]
        dense = next(row["history"][0]["macs"] for row in self.rows if row["history"][0]["macs"])
        return dense / point["macs"] if point["macs"] else 0.0


def settings(rows: Sequence[dict[str, Any]]) -> list[Setting]:
    """Methods under each recipe, the paper's first, then lr-rewind under all of them: where there is more than one."""
    found = []
    rows = [{"recipe": PAPER, **row} for row in rows]  # the first ones were written before there were others
    keys = sorted({_key(row) for row in rows})
    for key in keys:
        mine = [row for row in rows if _key(row) == key]
        recipes = {row["recipe"] for row in mine}
        for kind in ("iterative", "one-shot", "channels"):
            alike = [row for row in mine if row["kind"] == kind]
            for recipe in sorted(recipes, key=lambda name: (name != PAPER, name)):
                own = [row for row in alike if row["recipe"] == recipe or row["method"] == CONTROL]
                methods = {row["method"] for row in own} - {CONTROL}
                if not methods or (recipe != PAPER and len(methods) < 2):
                    continue
                once = _retrained_once(own, rows) if kind == "one-shot" else []
                found.append(_setting(kind, own + once, recipe=recipe))
            tried = [row for row in alike if row["method"] == OURS]
            if len({row["recipe"] for row in tried}) > 1:
                found.append(_setting(kind, tried, by="recipe"))
    return found


def _retrained_once(own: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The control of one-shot trials, which is one retraining whatever the ratio: the first of an iterative control."""
    key, seeds = _key(own[0]), {row["seed"] for row in own}
    densities = sorted({point["density"] for row in own for point in row["history"][1:]}, reverse=True)
    controls = [row for row in rows if row["method"] == CONTROL and _key(row)[:3] == key[:3] and row["seed"] in seeds]
    controls.sort(key=lambda row: _key(row) == key)  # one run beside them goes before one run at another rate
    return [
        {**row, "history": [dense, *({**once, "density": density} for density in densities)]}
        for row in {row["seed"]: row for row in controls}.values()
        for dense, once in [row["history"][:2]]
    ]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["network"], row["data"], row["epochs"], row["prune_per_round"]


def _setting(kind: str, rows: Sequence[dict[str, Any]], by: str = "method", recipe: str = PAPER) -> Setting:
    network, data, epochs, per_round = _key(rows[0])
    return Setting(network, data, kind, epochs, per_round, tuple(rows), by, recipe)


def table(setting: Setting) -> str:
    """A line per compression ratio: median over seeds, and our line's lead over each other."""
    names = setting.names
    lines = [
        f"## {setting.title}",
        "",
        f"{setting.epochs} epochs per training, {setting.seeds} seeds, "
        f"dense {statistics.mean(setting.dense):.2f} on average.",
        "",
        f"Points of test accuracy against {setting.before}: median over seeds; in brackets {setting.lead}, paired by "
        "seed, mean and 95% interval (bold where it excludes zero).",
        "",
        f"| fewer {setting.what} | " + " | ".join(names) + " |",
        "|---:|" + "---:|" * len(names),
    ]
    for ratio in setting.ratios:
        lines.append(f"| {ratio:.1f}× | " + " | ".join(_cell(setting, name, ratio) for name in names) + " |")
    return "\n".join([*lines, ""])


def _cell(setting: Setting, name: str, ratio: float) -> str:
    own = setting.drops(name, ratio)
    if not own:
        return ""
    median = f"{statistics.median(own.values()):+.2f}"
    ours = setting.drops(setting.ours, ratio)
    sign = 1 if setting.by == "method" else -1
    gains = [sign * (ours[seed] - own[seed]) for seed in own if seed in ours]
    if name == setting.ours or len(gains) < 2:
        return median
    text = gain(gains)
    return f"{median} ({f'**{text}**' if abs(statistics.mean(gains)) > half_width(gains) else text})"
