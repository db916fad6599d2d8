"""Whether `best` reaches its accuracy in fewer epochs: by larger rounds, retrained as they are or solved first.

    python -m studies.rewinding.fewer             # resumes; an hour a seed on one core, most of it for resnet20
    python -m studies.rewinding.fewer --table     # only writes the table of what there is

Fashion-MNIST at 14x14, three epochs a training. The paper's rounds remove a fifth of the weights each, so that 9 and 18
times fewer weights take 10 and 13 of them; here the same densities are also reached in half as many rounds and in a
third. *Solved first*: the survivors of each round are set by least squares to give the outputs before it, and are
retrained from there (`--update least-squares`). Every way is paired by its seed with the paper's rounds, which are
those of `studies.rewinding.run`, on a CPU too. Ways are compared on validation; test is reported.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from dwindle.compress.calibrate.update import LEAST_SQUARES
from studies import journal
from studies.rewinding.grid import Trial
from studies.rewinding.trial import run

RESULTS = Path(__file__).with_name("fewer.jsonl")
COMPARISON = RESULTS.with_name("results.jsonl")
EPOCHS, REMOVED = 3, 0.2
WHOLE = {9: 10, 18: 13}
"""Rounds that remove a fifth each, by the times that there are fewer weights after them."""
FEWER = {"half": {9: 5, 18: 6}, "a third": {9: 3, 18: 4}}
"""Rounds by the same."""
UPDATES = {"retrained": None, "solved first": LEAST_SQUARES}
NETWORKS = ("zoo:resnet8", "zoo:resnet20")


def paper_rounds(network: str, seed: int) -> Trial:
    """The trial of the comparison that every way is paired with; it goes on to fewer weights than are looked at."""
    return Trial(network, "fashion-mnist-14", "lr-rewind", seed, EPOCHS, recipe="best")


def trial(network: str, seed: int, times: int, rounds: int, update: str | None) -> Trial:
    density = (1 - REMOVED) ** WHOLE[times]
    return replace(paper_rounds(network, seed), density=density, rounds=rounds, update=update)


def trials(seeds: list[int], networks: list[str]) -> Iterator[Trial]:
    """By what is worth knowing first: half before a third, and each without the update first."""
    for share, update, network, seed in product(FEWER, UPDATES.values(), networks, seeds):
        for times, rounds in FEWER[share].items():
            yield trial(network, seed, times, rounds, update)


def ahead(rows: list[dict[str, Any]], network: str, times: int, rounds: int, update: str | None) -> list[Any]:
    """Validation and test of each seed, less those of the paper's rounds of that seed at the same density."""
    found = {row["key"]: row["history"] for row in rows}
    pairs = []
    for seed in sorted({row["seed"] for row in rows}):
        whole = found.get(paper_rounds(network, seed).key)
        own = found.get(trial(network, seed, times, rounds, update).key)
        if whole and own:
            before, after = whole[WHOLE[times]], own[-1]
            pairs.append([after[split] - before[split] for split in ("validation", "test")])
    return pairs


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "Points of accuracy ahead of the paper's rounds of a fifth each, at the same density and with the same recipe",
        "(`best`): validation, test, and in brackets the least and the most of test over the seeds. Printed by",
        "`python -m studies.rewinding.fewer`, which says what each is.\n",
        "| network | times fewer weights | rounds | epochs of retraining | of the paper's | way | validation | test "
        "| seeds |",
        "|---|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    found = {row["key"]: row for row in rows}
    for network in NETWORKS:
        for times in WHOLE:
            seeds = sorted({row["seed"] for row in rows if row["network"] == network})
            whole = [found[key]["history"] for seed in seeds if (key := paper_rounds(network, seed).key) in found]
            base = [history[WHOLE[times]]["test"] - history[0]["test"] for history in whole]
            if base:
                lines.append(
                    f"| {network} | {times} | {WHOLE[times]} | {WHOLE[times] * EPOCHS} | 100% | retrained, against the "
                    f"dense network | | {statistics.mean(base):+.2f} ({min(base):+.2f} to {max(base):+.2f}) "
                    f"| {len(base)} |"
                )
            for rounds in (named[times] for named in FEWER.values()):
                for way, update in UPDATES.items():
                    pairs = ahead(rows, network, times, rounds, update)
                    if pairs:
                        validation, test = ([pair[split] for pair in pairs] for split in (0, 1))
                        lines.append(
                            f"| {network} | {times} | {rounds} | {rounds * EPOCHS} | {rounds / WHOLE[times]:.0%} "
                            f"| {way} | {statistics.mean(validation):+.2f} | {statistics.mean(test):+.2f} "
                            f"({min(test):+.2f} to {max(test):+.2f}) | {len(pairs)} |"
                        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    done = {row["key"] for row in journal.read(RESULTS)}
    for each in () if options.table else trials(options.seeds, options.networks):
        if each.key not in done:
            row = run(each)
            journal.add(RESULTS, row)
            print(each.key, row["history"][-1], flush=True)
    rows = journal.read(RESULTS)
    paired = {paper_rounds(row["network"], row["seed"]).key for row in rows}
    whole = [row for row in journal.read(COMPARISON) if row["key"] in paired]
    RESULTS.with_suffix(".md").write_text(table([*whole, *rows]))


if __name__ == "__main__":
    main()
