"""Size against accuracy, of the rounds in output.txt: what each round's ONNX file would weigh, and its validation.

.venv/bin/python -m studies.demo.figure
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot

from dwindle.bench.stats import wilson

FOLDER = Path(__file__).parent
SAMPLES = 359
"""Of the validation split of scikit-learn's digits."""
BUDGET = 25.0
ROUND = re.compile(r"round \d+ of .*bytes ([\d.]+) KB,.*?validation ([\d.]+)")
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dwindle", "font.size": 9, "axes.spines.top": False})


def rounds(printed: str) -> list[tuple[float, float]]:
    """The kilobytes and the validation accuracy, in points, of every round that the demo printed."""
    return [(float(size), float(validation)) for size, validation in ROUND.findall(printed)]


def interval(points: float, samples: int = SAMPLES) -> tuple[float, float]:
    """Wilson's 95% interval of an accuracy, both in points, from its two decimals."""
    low, high = wilson(round(points / 100 * samples), samples)
    return 100 * low, 100 * high


def draw(path: Path) -> None:
    """An SVG: a line through the rounds, a band for the 95% interval of each, and the budget."""
    sizes, validations = zip(*rounds((FOLDER / "output.txt").read_text(encoding="utf-8")), strict=True)
    figure, axes = pyplot.subplots(figsize=(6.4, 3.2), layout="constrained")
    axes.plot(sizes, validations, color="#0b6e4f", marker="o", markersize=3.5, linewidth=1.4)
    lows, highs = zip(*map(interval, validations), strict=True)
    axes.fill_between(sizes, lows, highs, color="#0b6e4f", alpha=0.12, linewidth=0)
    axes.axvline(BUDGET, color="#444444", linestyle="--", linewidth=0.8)
    axes.annotate(f" budget: {BUDGET:.0f} KB", (BUDGET, 90.5))
    dense, last = (sizes[0], validations[0]), (sizes[-1], validations[-1])
    axes.annotate(f"dense: {dense[0]:.0f} KB", dense, (-4, -14), textcoords="offset points", ha="right")
    axes.annotate(f"round {len(sizes) - 1}: {last[0]} KB", last, (6, -42), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xticks([25, 50, 100, 200, 300], ["25", "50", "100", "200", "300"])
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.set_ylim(90, 100.4)
    axes.set_xlabel("KB of the ONNX file, installed")
    axes.set_ylabel("validation accuracy, points")
    axes.set_title("make demo: ResNet-8 on handwritten digits, a point per round", loc="left", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw(FOLDER / "size-against-accuracy.svg")
