"""Layers priced in milliseconds on a device, predicted from its profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle import registry
from dwindle.bench.prices.making import profile_device
from dwindle.bench.prices.predicting import fitting, found
from dwindle.bench.prices.profile import Profile
from dwindle.errors import UsageError
from dwindle.files import user_cache
from dwindle.price import Price, Shape

if TYPE_CHECKING:
    import numpy as np


class Profiled(Price):
    """Milliseconds of one inference, as predicted: nothing is measured."""

    unit = "predicted milliseconds"
    option = "latency"

    def __init__(self, target: str, precision: str, source: str | None = None) -> None:
        """source: a profile's file, the name of one that comes with dwindle, or that of a device, which is profiled
        once.

        Raises UsageError where that is missing or is no profile of such files.
        """
        if source is None:
            raise UsageError(
                "`latency` is of a device: give `on`, a profile that `dwindle profile` wrote or that comes with "
                "dwindle, or a device such as host",
                code="missing-option",
                option="on",
            )
        self.target, self.precision = target, precision
        self._where, self._ready = source, False
        if source.partition(":")[0] not in registry.names("dwindle.devices"):
            self._take(found(source))
            return
        name = "".join(letter if letter.isalnum() else "-" for letter in source)
        self._file = user_cache() / "profiles" / f"{name}-{target}-{precision}.json"
        with suppress(UsageError):  # of a device, one that doesn't fit any more is made again
            self._take(Profile.load(self._file))

    def require(self, progress: Callable[[str], None]) -> None:
        if not self._ready:
            made = profile_device(self._where, self.target, [self.precision], progress=progress)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            made.save(self._file)
            self._take(made)

    def layers(self, shapes: Sequence[Shape], progress: Callable[[str], None]) -> list[float]:
        return [self._predictor.layer(shape) for shape in shapes]

    def whole(self, file: Callable[[], tuple[Path, list[np.ndarray]]], layers: Sequence[Shape]) -> float:
        return self._predictor.network(Counter(layers)).ms

    def words(self, amount: float) -> str:
        return f"{self._predictor.around(amount)} predicted on {self.profile.device}"

    def note(self) -> str | None:
        return self.profile.source

    def _take(self, found: Profile) -> None:
        self._predictor = fitting(found, self._where, self.target, self.precision)
        self.profile, self._ready = found, True
