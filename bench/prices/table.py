"""A profile in words: what was measured, and how far predictions from it are off."""

from __future__ import annotations

from collections.abc import Iterator

from dwindle.bench.prices.profile import Errors, Profile


def profile_table(profile: Profile) -> Iterator[str]:
    """A sentence for the whole and one for each precision."""
    machine = profile.machine
    measured = (
        f", measured in {profile.seconds:.0f} s, in which the device's speed varied by {profile.drift:.0%}"
        if profile.seconds  # none where the figures are others'
        else ""
    )
    yield (
        f"{profile.device} ({machine.cpu}, {machine.system}): {profile.runtime} {profile.version} on "
        f"{profile.threads} thread{'s' * (profile.threads > 1)}, by {profile.clock}{measured}"
    )
    if profile.source:
        yield profile.source
    for timed in profile.timed:
        off = [_off("layers", timed.layer_errors)] if timed.layer_errors else []
        yield f"{profile.target} {timed.precision}: of {'; of '.join([*off, _off('networks', timed.whole_errors)])}"


def _off(what: str, errors: Errors) -> str:
    return (
        f"{errors.count} held-out {what} half are predicted within {errors.median:.1%}, nine in ten within "
        f"{errors.p90:.1%}"
    )
