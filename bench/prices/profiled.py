"""Layers priced in milliseconds on a device, predicted from its profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle import registry
from dwindle.bench.prices.fit import Layers, Networks
from dwindle.bench.prices.making import profile_device
from dwindle.bench.prices.profile import Profile, Timed
from dwindle.errors import UsageError
from dwindle.files import user_cache
from dwindle.price import Price, Shape

if TYPE_CHECKING:
    import numpy as np

_PACKAGES = {"onnxruntime": "onnxruntime", "executorch": "executorch", "litert": "ai-edge-litert", "mnn": "MNN"}
"""The package of PyPI that has a runtime, by its name. What was profiled must be what files are written for now."""


class Profiled(Price):
    """Milliseconds of one inference, as predicted: nothing is measured."""

    unit = "predicted milliseconds"
    option = "latency"

    def __init__(self, target: str, precision: str, source: str | None = None) -> None:
        """source: a profile's file, or the name of a device, which is then profiled once.

        Raises UsageError where that is missing or is no profile of such files.
        """
        if source is None:
            raise UsageError(
                "`latency` is of a device: give `on`, a profile that `dwindle profile` wrote, or a device such as host",
                code="missing-option",
                option="on",
            )
        self.target, self.precision = target, precision
        self._file, self._where, self._ready = Path(source), source, False
        if source.partition(":")[0] in registry.names("dwindle.devices"):
            name = "".join(letter if letter.isalnum() else "-" for letter in source)
            self._file = user_cache() / "profiles" / f"{name}-{target}-{precision}.json"
            with suppress(UsageError):  # of a device, one that doesn't fit any more is made again
                self._take(Profile.load(self._file))
        elif not self._file.exists():
            raise UsageError(
                f"there is no profile {source}: make one with `dwindle profile host -o {source}`",
                code="unreadable",
                option="on",
                path=self._file,
            )
        else:
            self._take(Profile.load(self._file))

    def require(self, progress: Callable[[str], None]) -> None:
        if not self._ready:
            made = profile_device(self._where, self.target, [self.precision], progress=progress)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            made.save(self._file)
            self._take(made)

    def layers(self, shapes: Sequence[Shape], progress: Callable[[str], None]) -> list[float]:
        return [self._layers(shape) for shape in shapes]

    def whole(self, file: Callable[[], tuple[Path, list[np.ndarray]]], layers: Sequence[Shape]) -> float:
        return self._networks(layers)

    def words(self, amount: float) -> str:
        low, high = self.interval(amount)
        return f"{amount:.3g} ms predicted on {self.profile.device} ({low:.3g} to {high:.3g})"

    def interval(self, amount: float) -> tuple[float, float]:
        """Where nine in ten times are that are predicted to be `amount`."""
        off = self._timed.whole_errors.p90
        return amount / (1 + off), amount * (1 + off)

    def _take(self, found: Profile) -> None:
        if found.target != self.target:
            raise UsageError(
                f"{self._where} is a profile of {found.target} files, and the target is {self.target}: profile that, "
                f"or give {found.target} as `target`",
                code="other-target",
                option="on",
                name=found.target,
            )
        if (here := _version(found.runtime)) is not None and here != found.version:
            raise UsageError(
                f"{self._where} is a profile of {found.runtime} {found.version}, and {here} is installed: profile the "
                "device again with that version",
                code="other-version",
                option="on",
                name=found.version,
            )
        self.profile, self._ready = found, True
        self._timed: Timed = found.at(self.precision)
        self._layers = Layers(self._timed.layers)
        self._networks = Networks(self._layers, self._timed.wholes)


def _version(runtime: str) -> str | None:
    """The version of a runtime's package here; None where it has none, or isn't installed."""
    try:
        return version(_PACKAGES[runtime])
    except (KeyError, PackageNotFoundError):
        return None
