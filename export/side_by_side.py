"""Several targets of one checkpoint at once: a process for each, of which nothing is shared but the checkpoint.

A converter's memory goes back when its process ends, and one that crashes takes no other target with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

from dwindle import errors
from dwindle.errors import DwindleError

_END = "\0"
"""Begins the last line of a process: what went wrong, as JSON."""


def run(
    checkpoint: Path, options: Sequence[Mapping[str, Any]], progress: Callable[[str], None], threads: int | None = None
) -> None:
    """Exports once per entry of `options`, keywords of `stage.export_one`, side by side.

    threads: for each process; None: its share of the machine's cores. All go on to their ends; then the first
    failure is raised, as what it was in its process, or DwindleError for a process that died.
    """
    share = threads or max(1, (os.cpu_count() or 1) // len(options))
    # The same places to look for a user's own modules as here, the working directory among them.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(share)}
    failures: dict[int, DwindleError] = {}

    def follow(index: int) -> None:
        command = [sys.executable, "-m", __name__, json.dumps({"checkpoint": str(checkpoint), **options[index]})]
        with (
            tempfile.TemporaryFile("w+") as chatter,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=chatter, text=True, env=environment) as process,
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if line.startswith(_END):
                        kind, message = json.loads(line.removeprefix(_END))
                        failures[index] = getattr(errors, kind)(message)
                    else:
                        progress(line.rstrip("\n"))
            finally:
                process.stdout.close()
            if process.wait() and index not in failures:
                chatter.seek(0)
                said = chatter.read().strip().splitlines() or ["nothing was said"]
                name = options[index]["name"]
                failures[index] = DwindleError(f"the export to {name} ended with {process.returncode}: {said[-1]}")

    followers = [Thread(target=follow, args=(index,)) for index in range(len(options))]
    for follower in followers:
        follower.start()
    for follower in followers:
        follower.join()
    if failures:
        raise failures[min(failures)]


def main() -> int:
    """One target in this process; progress on stdout, which nothing else may write to."""
    from dwindle.export.stage import export_one

    out, sys.stdout = sys.stdout, sys.stderr
    try:
        export_one(progress=lambda line: print(line, file=out, flush=True), **json.loads(sys.argv[1]))
    except DwindleError as error:
        known = next(kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
        print(_END + json.dumps([known, str(error)]), file=out, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
