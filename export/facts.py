"""What a file says of itself to the app that loads it: how an image becomes its input, its classes, who made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dwindle.preprocessing import Preprocessing

PREPROCESSING, CLASSES = "preprocessing", "classes"
"""The keys of what is JSON in a file's metadata; others are plain text."""
_DIGITS = 7
"""As many as a float in fp32 has."""


def facts(
    preprocessing: Preprocessing | None, classes: Sequence[str] = (), about: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """The metadata of a file, by key.

    preprocessing: its class names are left out, which may outweigh a small network. classes: the labels that were asked
    for. about: further keys with their text, such as an author; those without text are left out.

        >>> facts(Preprocessing((0.5,), (0.25,), colours="L"))["preprocessing"]
        '{"mean":[0.5],"std":[0.25],"resize":"shorter","crop_share":1.0,"interpolation":"bicubic","colours":"L"}'
    """
    found = {}
    if preprocessing is not None:
        told: dict[str, Any] = {
            "mean": [_short(value) for value in preprocessing.mean],
            "std": [_short(value) for value in preprocessing.std],
            "size": preprocessing.size,
            "resize": preprocessing.resize,
            "crop_share": _short(preprocessing.crop_share),
            "interpolation": preprocessing.interpolation,
            "colours": preprocessing.colours,
        }
        found[PREPROCESSING] = _json({key: value for key, value in told.items() if value is not None})
    if classes:
        found[CLASSES] = _json(list(classes))
    return found | {key: text for key, text in (about or {}).items() if text}


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
