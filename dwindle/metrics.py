"""The names of what networks are judged by, and how their values are read. Imports nothing heavy."""

from __future__ import annotations

import math

ACCURACY = "accuracy"
"""The metric of a task that names none: the percentage of samples whose class is right."""
AGREEMENT = "agreement with dense"
"""The metric without labels of networks that give a score for each class: the percentage of samples whose top class is
that of the dense network."""
SQNR = "output SQNR in dB"
"""The metric without labels of other networks: the energy of the dense network's output over that of the differences
from it. Of several outputs it is the worst one's; whole numbers, such as chosen classes, don't count beside others."""
WITHOUT_LABELS = (AGREEMENT, SQNR)
LOSSLESS = 144.0
"""The SQNR of outputs that are the same to the last bit of float32, and the highest that is told."""
NOTABLE_LOSS = 1.0
"""From this many points of the test metric on, or percent of changed answers, a loss is said in words."""


def decibels(signal: float, noise: float) -> float:
    """The ratio of two energies, between ±LOSSLESS; noise that isn't finite drowns any signal.

    >>> decibels(100.0, 1.0), decibels(1.0, 0.0)
    (20.0, 144.0)
    """
    if not math.isfinite(noise) or (noise and not signal):
        return -LOSSLESS
    return max(-LOSSLESS, min(LOSSLESS, 10 * math.log10(signal / noise))) if noise else LOSSLESS


def change(value: float, metric: str) -> float | None:
    """What of the dense network's answers changed, in percent; None for a metric that needs labels.

    Of AGREEMENT the samples whose top class did; of SQNR the root mean square of the differences, over that of the
    outputs.

    >>> change(98.0, AGREEMENT), change(40.0, SQNR)
    (2.0, 1.0)
    """
    if metric == AGREEMENT:
        return 100 - value
    if metric == SQNR:
        return 0.0 if value >= LOSSLESS else 100 * 10 ** (-value / 20)
    return None


def value_of(value: float, metric: str) -> str:
    """A value with its unit, percent unless it is known to be another.

    >>> value_of(98.765, ACCURACY), value_of(40.0, SQNR)
    ('98.77%', '40.00 dB')
    """
    return f"{value:.2f}{' dB' if metric == SQNR else '%'}"


def named(what: str, metric: str) -> str:
    """What a value is called beside `what`, such as its split: the metric is named unless it is the accuracy.

    >>> named("test", ACCURACY), named("test", AGREEMENT)
    ('test', 'test agreement with dense')
    """
    return what if metric == ACCURACY else f"{what} {metric}"
