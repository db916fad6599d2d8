"""What a board's speed depends on, as its kernel reports it: clocks, temperatures, battery, which cores are fast."""

from __future__ import annotations

from collections.abc import Sequence

# Whatever of it there is, a line each: `clock CPU KHZ_MAX KHZ_LIMIT GOVERNOR`, `heat ZONE MILLIDEGREES` and `power
# STATUS PERCENT` (kernel Documentation/admin-guide/pm/cpufreq.rst, driver-api/thermal/sysfs-api.rst and
# ABI/testing/sysfs-class-power), then `pin` where taskset is.
SCRIPT = """
cd /sys/devices/system/cpu && for c in cpu[0-9]*; do f=$c/cpufreq
[ -r $f/cpuinfo_max_freq ] && echo clock ${c#cpu} $(cat $f/cpuinfo_max_freq $f/scaling_max_freq $f/scaling_governor)
done
for z in /sys/class/thermal/thermal_zone*; do [ -r $z/temp ] && echo heat $(cat $z/type $z/temp); done
for p in /sys/class/power_supply/*; do [ -r $p/capacity ] && echo power $(cat $p/status $p/capacity); done
command -v taskset >/dev/null && echo pin
:
"""


def conditions(said: str) -> dict[str, str]:
    """The output of SCRIPT in words, by subject: `cpufreq`, `thermal`, `battery`, as far as the board tells them."""
    found: dict[str, list[str]] = {}
    for kind, *rest in _lines(said):
        if kind == "clock" and len(rest) == 4:
            core, most, limit, governor = rest
            found.setdefault("cpufreq", []).append(
                f"cpu{core} {int(limit) / 1e6:.2f} of {int(most) / 1e6:.2f} GHz, {governor}"
            )
        elif kind == "heat" and len(rest) == 2 and rest[1].lstrip("-").isdigit():
            found.setdefault("thermal", []).append(f"{rest[0]} {int(rest[1]) / 1000:.1f} °C")
        elif kind == "power" and len(rest) >= 2:
            found.setdefault("battery", []).append(f"{rest[-1]}%, {' '.join(rest[:-1]).lower()}")
    return {about: "; ".join(lines) for about, lines in found.items()}


def pinning(said: str, threads: int) -> Sequence[str]:
    """The words before a command that keep it to the `threads` fastest cores, from the output of SCRIPT.

    No words where all cores are alike or there is no taskset. A scheduler that moves a run between big and little cores
    would mix the times of two devices.
    """
    lines = _lines(said)
    speeds = {int(rest[0]): int(rest[1]) for kind, *rest in lines if kind == "clock" and len(rest) == 4}
    if ["pin"] not in lines or len(set(speeds.values())) < 2:
        return ()
    fastest = sorted(speeds, key=lambda core: (-speeds[core], core))[:threads]
    return ("taskset", f"{sum(1 << core for core in fastest):x}")


def _lines(said: str) -> list[list[str]]:
    return [line.split() for line in said.splitlines() if line.strip()]
