"""Every kind of device that is registered, by the names that `dwindle bench --device` and the gate have for them."""

from __future__ import annotations

from collections.abc import Sequence

from dwindle import registry
from dwindle.bench.devices.device import Device
from dwindle.bench.result import Row
from dwindle.errors import UsageError

GROUP = "dwindle.devices"


def reach(name: str) -> Device:
    """The device of a name such as `host`, `browser:4` or `ssh://pi@board`. Entering it connects.

    Raises UsageError for anything that is not the name of a device.
    """
    scheme = name.partition(":")[0]
    known = registry.names(GROUP)
    if scheme not in known:
        raise registry.unknown_name("device", scheme, known)
    return device_kind(scheme)(name)


def device_kind(scheme: str) -> type[Device]:
    """The class of the devices whose names begin with `scheme`.

    Raises UsageError for an unknown scheme, and for a registered object that is not a subclass of Device.
    """
    return registry.resolve_class(GROUP, scheme, "device", Device)  # type: ignore[type-abstract]


def device_kinds() -> list[type[Device]]:
    """Every registered kind of device: this machine first, then those that were tried, then the experimental ones."""
    found = [device_kind(scheme) for scheme in registry.names(GROUP)]
    return sorted(found, key=lambda kind: (kind.scheme != "host", kind.not_yet_run_on is not None, kind.scheme))


def require_options(devices: Sequence[Device], **options: bool) -> None:
    """Raises UsageError for an option that is set and that none of the devices supports."""
    for option, given in options.items():
        if given and not any(option in device.options for device in devices):
            able = " or ".join(kind.usage for kind in device_kinds() if option in kind.options)
            raise UsageError(
                f"`{option}` has no effect on {', '.join(device.url for device in devices)}: give the device {able} "
                "with it",
                code="no-effect",
                option=option,
            )


def device_help() -> str:
    """What `--device` takes, a line for every kind, for the command's help."""
    lines = []
    for kind in device_kinds():
        experimental = " (experimental)" if kind.not_yet_run_on else ""
        lines.append(f"{kind.usage}: {kind.summary}{experimental}")
    return "\n".join(lines)


def setup_help() -> str:
    """What `doctor --setup` takes, for the command's help."""
    able = [kind for kind in device_kinds() if kind.setup_downloads]
    return "Devices that can be set up: " + ", ".join(f"{kind.scheme} ({kind.setup_downloads})" for kind in able)


def unreached(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """What experimental devices would measure of files, in the form in which `wording.gaps` lists what is missing.

    That is one entry for each kind of device that runs any of the files and has no row of them.
    """
    found = []
    for kind in device_kinds():
        hardware = kind.not_yet_run_on
        files = dict.fromkeys(row.target for row in rows if row.target in kind.targets) if hardware else {}
        if files and not any((row.runtime.device or "").startswith(f"{kind.scheme}:") for row in rows):
            why = str(kind.check() or f"run `dwindle bench --device {kind.scheme}://NAME`")
            found.append((", ".join(files), f"all on {hardware}", f"it has not been run on {hardware}: {why}"))
    return found
