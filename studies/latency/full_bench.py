"""How long a full bench of one small checkpoint takes, on every runtime of this machine: two minutes are allowed.

dwindle compress zoo:resnet8 --data digits --epochs 2 --density 0.3 -o small.dwindle
dwindle export small.dwindle --target onnx,executorch,coreml
python -m studies.latency.full_bench small.dwindle
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dwindle.bench import bench
from dwindle.checkpoint import Checkpoint

ALLOWED = 120.0


def main() -> int:
    checkpoint, began = Checkpoint.load(Path(sys.argv[1])), time.monotonic()
    found = bench(checkpoint, progress=lambda line: print(f"{time.monotonic() - began:6.1f} s  {line}"))
    took = time.monotonic() - began
    for row in found.rows:
        reasons = row.noise.reasons if row.noise else ()
        quiet = "not timed" if row.noise is None else f"noisy: {'; '.join(reasons)}" if reasons else "quiet"
        print(f"{row.target} {row.role} in {row.runtime.place}: {quiet}")
    print(f"{took:.1f} s, {'within' if took <= ALLOWED else 'MORE THAN'} {ALLOWED:.0f} s")
    return 0 if took <= ALLOWED else 3


if __name__ == "__main__":
    sys.exit(main())
