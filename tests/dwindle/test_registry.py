"""What is said of a name that isn't known."""

from __future__ import annotations

from dwindle.registry import MOST, unknown


def test_the_nearest_name_is_said_or_a_list_that_can_be_read() -> None:
    known = [f"network{index}" for index in range(10 * MOST)]
    assert unknown("network", "network7x", known) == "unknown network 'network7x': did you mean 'network7'?"
    listed = unknown("network", "elephant", known)
    assert listed.count("network") == MOST + 1
    assert listed.endswith(f"and {9 * MOST} more")
