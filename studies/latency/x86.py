"""Makes of a measured profile the one of an x86 host that dwindle ships: `--on x86`.

OMP_NUM_THREADS=1 dwindle profile host -o x86.json         # on an idle machine
python studies/latency/x86.py x86.json
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from dwindle.bench.prices.profile import Profile
from dwindle.bench.prices.table import profile_table

OUT = Path(__file__).parents[2] / "bench/prices/profiles/x86.json"


def main() -> None:
    measured = Profile.load(sys.argv[1])
    precisions = " and ".join(one.precision for one in measured.timed)
    machine = f"{measured.machine.cpu} ({measured.machine.cores} cores, {measured.machine.system})"
    source = (
        f"x86 was measured on a virtual machine's {machine} by {measured.runtime} {measured.version}, in {precisions} "
        f"on {measured.threads} thread: other CPUs and versions differ"
    )
    shipped = replace(measured, device="x86", source=source)
    shipped.save(OUT)
    print("\n".join(profile_table(shipped)))


if __name__ == "__main__":
    main()
