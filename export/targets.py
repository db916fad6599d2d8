"""The targets there are: each by its name, at a precision, for a system."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dwindle import registry
from dwindle.errors import RuntimeUnavailable, UsageError
from dwindle.export.target import Target

if TYPE_CHECKING:
    from dwindle.signature import Signature

GROUP = "dwindle.targets"
_REQUIRED = ("name", "suffix", "precisions", "packages")
"""Class attributes that have no default."""


def load(name: str, precision: str | None = None, min_os: str | None = None) -> Target:
    """The target of that name at a precision, by default its first one.

    min_os: the earliest system that must load its files; ignored by a target without `systems`. Raises UsageError for
    an unknown name, precision or system, and for a registered object that is no Target.
    """
    kind = kind_of(name)
    known = _precisions(kind, mixed=True)
    if precision is not None and precision not in known:
        raise UsageError(
            f"`precision` {precision!r} is unknown to {name}: give {_each_since(known, kind)}",
            code="unknown-precision",
            option="precision",
            name=name,
        )
    if min_os is not None and kind.systems and min_os not in kind.systems:
        raise UsageError(
            f"`min_os` {min_os!r} is unknown to {name}: give {' or '.join(kind.systems)}",
            code="unknown-system",
            option="min_os",
            name=name,
        )
    return kind(precision, min_os if kind.systems else None)


def _precisions(kind: type[Target], *, mixed: bool) -> tuple[str, ...]:
    """Those of a target; `mixed` among them where that is asked for and the target can."""
    from dwindle.export.quantize import MIXED

    return (*kind.precisions, MIXED) if mixed and kind.mixes else kind.precisions


def _each_since(precisions: Sequence[str], kind: type[Target]) -> str:
    """Precisions of a target, for a message, each with the earliest system that has it where not all have."""
    return " or ".join(one + (f" ({kind.since[one]})" if one in kind.since else "") for one in precisions)


def possible(name: str, min_os: str | None = None, *, mixed: bool = False) -> tuple[str, ...]:
    """The precisions of a target that its files can have, made by what is installed, for a system.

    mixed: whether the network was compressed at `precision` mixed, so that it has one for each tensor.
    """
    found, kind = [], kind_of(name)
    for precision in _precisions(kind, mixed=mixed):
        try:
            load(name, precision, min_os)
        except RuntimeUnavailable:
            continue
        except UsageError as error:
            if error.code != "system-too-old":
                raise
            continue
        found.append(precision)
    return tuple(found)


def kind_of(name: str) -> type[Target]:
    """The class registered as `name`. Raises UsageError for what is not a complete subclass of Target."""
    kind: Any = registry.resolve(GROUP, name, "target")
    reason = ""
    if not (inspect.isclass(kind) and issubclass(kind, Target)):
        reason = "it is not a subclass of dwindle.export.target.Target"
    elif missing := sorted({*kind.__abstractmethods__, *(member for member in _REQUIRED if member not in dir(kind))}):
        reason = f"it lacks {', '.join(missing)}"
    if reason:
        raise UsageError(
            f"target {name!r} cannot be used, because {reason}: mend or remove the package that registers it",
            code="not-a-target",
            option="target",
            name=name,
        )
    found: type[Target] = kind
    return found


def require_inputs(target: Target, signature: Signature) -> None:
    """Raises UsageError where a target's files can't have a network's inputs: their dtypes, or sizes that vary."""
    for one in signature.inputs:
        if one.dtype in target.lacks:
            raise UsageError(
                f"inputs of {target.name} files can't be {one.dtype}, as {one.name!r} of `example_inputs` is: give the "
                "model another dtype, such as int32 or float32, and convert that in its forward",
                code="no-such-dtype",
                name=one.name,
            )
    if signature.fixed or target.dynamic:
        return
    raise UsageError(
        f"inputs of {target.name} files have fixed sizes: leave out `dynamic` (`none` at export), or export to "
        "onnx, coreml or executorch",
        code="fixed-by-format",
        option="dynamic",
        name=target.name,
    )
