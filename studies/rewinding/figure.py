"""The comparison as a picture: what each method loses or gains against the dense network as it shrinks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

from studies.paired import half_width
from studies.rewinding.table import Setting

COLOURS = {
    "lr-rewind": "#0b6e4f",
    "weight-rewind": "#3d7ea6",
    "lottery-ticket": "#8e6bbf",
    "amc": "#c98a1b",
    "finetune": "#c0392b",
    "control": "#888888",
    "paper": "#222222",
    "best": "#0b6e4f",
}
"""Of those that have one in every figure."""
BANDS = 6
"""Of more lines, the bands would hide each other."""
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dwindle", "font.size": 9, "axes.spines.top": False})


def draw(setting: Setting, methods: Sequence[str], path: Path) -> None:
    """An SVG: a line through the means over seeds, a band for the 95% interval of each mean of three or more,
    if the lines are few."""
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    lowest = highest = 0.0
    for method in methods:
        points = []
        for ratio in setting.ratios:
            drops = list(setting.drops(method, ratio).values())
            if drops:
                points.append((ratio, statistics.mean(drops), half_width(drops) if len(drops) > 2 else 0.0))
        if not points:
            continue
        ratios, means, halves = zip(*points, strict=True)
        style = "--" if method == "control" else "-"
        options: dict[str, Any] = {
            "color": COLOURS.get(method),
            "marker": "o",
            "markersize": 2.5,
            "linewidth": 1.4,
            "label": method,
        }
        (line,) = axes.plot(ratios, means, style, **options)
        low, high = ([mean + sign * half for mean, half in zip(means, halves, strict=True)] for sign in (-1, 1))
        if len(methods) <= BANDS:
            axes.fill_between(ratios, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        lowest, highest = min(lowest, *means), max(highest, *means)
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(setting.ratios[:: max(1, len(setting.ratios) // 8)])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.1f}×")
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.set_ylim(max(lowest - 1, -12), highest + 1)
    axes.set_xlabel(f"fewer {setting.what}")
    axes.set_ylabel("points of test accuracy against dense")
    axes.set_title(setting.title, loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
