"""The options of `export` that only some targets have a use for: what they say, and refusals where none has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dwindle import registry
from dwindle.errors import UsageError
from dwindle.export.target import Target
from dwindle.export.targets import GROUP, kind_of

DELEGATES = {"xnnpack": "executorch", "coreml": "executorch-coreml"}
"""What an ExecuTorch file can delegate its work to, and the target that writes such files."""


def delegated(names: Sequence[str], delegate: str | None) -> list[str]:
    """The names of targets, with ExecuTorch's replaced by the one for that delegate.

    Raises UsageError for an unknown delegate, and for one without ExecuTorch among the targets.
    """
    if delegate is None:
        return list(names)
    if delegate not in DELEGATES:
        raise UsageError(
            registry.unknown("delegate", delegate, list(DELEGATES)),
            code="unknown-name",
            option="delegate",
            name=delegate,
        )
    if DELEGATES["xnnpack"] not in names:
        raise UsageError(
            "`delegate` says what an ExecuTorch file delegates its work to: add executorch to `target`",
            code="unused-option",
            option="delegate",
        )
    return [DELEGATES[delegate] if name == DELEGATES["xnnpack"] else name for name in names]


def runtime_version(text: str) -> tuple[str, tuple[int, int]]:
    """The name and version in a `min_runtime`, such as onnxruntime==1.17; raises UsageError for other text.

    >>> runtime_version("onnxruntime-web==1.20.1")
    ('onnxruntime-web', (1, 20))
    """
    if not (found := re.fullmatch(r"([\w.-]+)==(\d+)\.(\d+)(\.\d+)*", text.replace(" ", ""))):
        raise UsageError(
            f"`min_runtime` is {text!r}: give the name and version of a runtime, such as onnxruntime==1.17",
            code="invalid-value",
            option="min_runtime",
        )
    return found[1], (int(found[2]), int(found[3]))


def require_used(
    targets: Sequence[Target],
    min_os: str | None,
    calib_samples: int | None,
    min_runtime: str | None = None,
    keep_float: tuple[str, ...] = (),
) -> None:
    """Raises UsageError for an option of `export` that none of these targets has a use for."""
    if keep_float and not any(target.calibrates for target in targets):
        raise UsageError(
            "`keep_float` says which layers stay float where all others compute in int8 over calibrated ranges: give "
            "`precision` w8a8, or leave it out; at int8 ExecuTorch's layers round each input over its own range, and "
            "none can be kept",
            code="unused-option",
            option="keep_float",
        )
    if min_runtime is not None:
        name, version = runtime_version(min_runtime)
        if not (takers := [target for target in targets if name in target.runtimes]):
            known = {name: kind for kind in registry.names(GROUP) for name in kind_of(kind).runtimes}
            those = f"{' or '.join(known)} with {' or '.join(dict.fromkeys(known.values()))} as `target`"
            raise UsageError(
                f"`min_runtime` names {name}, which loads the files of none of these targets: "
                + (f"add {known[name]} to `target`" if name in known else f"leave it out, or give {those}"),
                code="unused-option",
                option="min_runtime",
                name=name,
            )
        for target in takers:
            target.for_runtime(name, version)
    if min_os is not None and not any(target.systems for target in targets):
        raise UsageError(
            "`min_os` says which system's Core ML a file is for: add coreml to `target`",
            code="unused-option",
            option="min_os",
        )
    if calib_samples is not None and not any(target.calibrates for target in targets):
        raise UsageError(
            "`calib_samples` is how many samples set the ranges of rounded activations, or choose codes: give "
            "`precision` w8a8, or `rounding` calibrated",
            code="unused-option",
            option="calib_samples",
        )


def require_codes(targets: Sequence[Target]) -> None:
    """Raises UsageError for `rounding` calibrated where none of these targets stores codes that it could choose."""
    if not any(target.has_codes for target in targets):
        raise UsageError(
            "`rounding` calibrated chooses codes, and none of these files stores any: give `precision` int8, w8a8, "
            "int4 or palette4",
            code="unused-option",
            option="rounding",
        )
