"""What a profile predicts of networks, and where profiles are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from dwindle.bench.prices.fit import fitted
from dwindle.bench.prices.profile import Profile
from dwindle.errors import UsageError
from dwindle.price import Shape

_PACKAGES = {"onnxruntime": "onnxruntime", "executorch": "executorch", "litert": "ai-edge-litert", "mnn": "MNN"}
"""The package of PyPI that has a runtime, by its name."""
_SHIPPED = files(__package__) / "profiles"


def shipped() -> list[str]:
    """The names of the profiles that come with dwindle, each of which says its `source`."""
    return sorted(each.name.removesuffix(".json") for each in _SHIPPED.iterdir() if each.name.endswith(".json"))


def found(name: str, folder: Path | None = None) -> Profile:
    """The profile that comes with dwindle by that name, or else that of a file.

    folder: what a file's relative path starts from; None: the working directory. Raises UsageError where there is none,
    and for what is none.
    """
    if name in shipped():
        return Profile.load(Path(str(_SHIPPED / f"{name}.json")))
    path = Path(name) if folder is None else folder / name
    if not path.is_file():
        raise UsageError(
            f"there is no profile {path}: make one with `dwindle profile host -o {path}`, or give one that comes with "
            f"dwindle: {', '.join(shipped())}",
            code="unreadable",
            option="on",
            path=path,
        )
    return Profile.load(path)


def other_version(profile: Profile) -> str | None:
    """A sentence where another version of the profile's runtime is installed here; None where none or the same is."""
    try:
        here = version(_PACKAGES[profile.runtime])
    except (KeyError, PackageNotFoundError):
        return None
    if here == profile.version:
        return None
    return f"the profile of {profile.device} is of {profile.runtime} {profile.version}, and {here} is installed"


def fitting(profile: Profile, where: str, target: str, precision: str) -> Predictor:
    """What predicts times of a target's files at a precision.

    where: the profile as it was given, for messages. Raises UsageError where the profile is of other files, or of
    another version of the runtime than is installed here.
    """
    if profile.target != target:
        raise UsageError(
            f"{where} is a profile of {profile.target} files, and the target is {target}: profile that, or give "
            f"{profile.target} as `target`",
            code="other-target",
            option="on",
            name=profile.target,
        )
    if profile.source is None and (other := other_version(profile)):
        raise UsageError(
            f"{other}: profile the device again with that version",
            code="other-version",
            option="on",
            name=profile.version,
        )
    return Predictor(profile, precision)


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of one inference, which nobody measured."""

    ms: float
    low: float
    """Nine in ten times are from here to `high`, as far as the profile's own networks tell."""
    high: float

    def __str__(self) -> str:
        return f"{self.ms:.3g} ms ({self.low:.3g} to {self.high:.3g})"


class Predictor:
    """Predicts times on a profile's device, at one precision."""

    def __init__(self, profile: Profile, precision: str) -> None:
        """Raises UsageError where nothing was measured at that precision."""
        timed = profile.at(precision)
        self._model, self._off = fitted(timed.singles, timed.wholes), timed.whole_errors.p90

    def layer(self, shape: Shape) -> float:
        """Milliseconds of a layer by itself."""
        return self._model.layer(shape)

    def network(self, shapes: Mapping[Shape, int]) -> Prediction:
        """The time of a network that has so many layers of each shape."""
        return self.around(self._model.network(shapes))

    def around(self, ms: float) -> Prediction:
        """A predicted time with its interval."""
        return Prediction(ms, ms / (1 + self._off), ms * (1 + self._off))
