"""Learning-rate rewinding against what it is compared with, by the product's own loop.

    python -m studies.rewinding.run --quick      # minutes, on digits
    python -m studies.rewinding.run --compact    # an hour or two, on Fashion-MNIST
    python -m studies.rewinding.run              # hours on a CPU, on Fashion-MNIST; resumes trial by trial
    python -m studies.rewinding.run --table      # only prints and draws what there is

Option: `--processes N` (one per core; an H100 takes 15, under MPS). Every finished trial is a line in results.jsonl,
with what made it; a trial whose line is there is not run again. The network is judged on validation and on test after
every round. Nothing is chosen by either, so that both are honest; the tables are of the test split.
"""

from __future__ import annotations

import argparse
import os
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from studies import journal
from studies.rewinding.figure import draw
from studies.rewinding.grid import compact, quick, whole
from studies.rewinding.table import settings, table
from studies.rewinding.trial import run

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--compact", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    rows = journal.read(RESULTS)
    known = {row["key"] for row in rows}
    grid = quick if options.quick else compact if options.compact else whole
    trials = [trial for trial in dict.fromkeys(grid()) if trial.key not in known]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(run, trial) for trial in trials if not options.table]
        for done in as_completed(running):
            rows.append(done.result())
            journal.add(RESULTS, rows[-1])
            print(f"{len(rows) - len(known)} of {len(trials)}: {rows[-1]['key']}", flush=True)
    shown = settings(rows)
    for setting in shown:
        name = "-".join(re.findall(r"[\w-]+", setting.title))
        draw(setting, setting.names, HERE / f"{name}.svg")
    text = "\n".join(map(table, shown))
    (HERE / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
