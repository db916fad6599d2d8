"""How many SIGKILLs runs of every kind survive: each is started again, and must end as the uninterrupted one."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.fuzz import kills


def counted(each: int) -> kills.Killed:
    """Kills every kind of run `each` times; a run that is killed several times in a row is compared once."""
    total = kills.Killed()
    for name in kills.available():
        with tempfile.TemporaryDirectory() as folder:
            one = kills.killed(Path(folder), name, each, seed=1)
        total.kills, total.runs, total.faults = (
            total.kills + one.kills,
            total.runs + one.runs,
            total.faults + one.faults,
        )
        print(f"{name}: {one.kills} kills, {one.runs} runs, {len(one.faults)} unequal", file=sys.stderr, flush=True)
    return total


if __name__ == "__main__":
    found = counted(int(sys.argv[1]) if sys.argv[1:] else 8)
    print(f"{found.kills} kills of {found.runs} runs, {len(found.faults)} unequal", *found.faults, sep="\n")
