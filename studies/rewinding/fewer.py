"""Whether `best` reaches its accuracy in fewer epochs: by larger rounds, solved first or not, or one long retraining.

    python -m studies.rewinding.fewer             # resumes; an hour a seed on one core, most of it for resnet20
    python -m studies.rewinding.fewer --table     # only writes the table of what there is

Fashion-MNIST at 14x14, three epochs a training. The paper's rounds remove a fifth of the weights each, so that 9 and 18
times fewer weights take 10 and 13 of them; here the same densities are also reached in half as many rounds and in a
third. *Solved first*: the survivors of each round are set by least squares to give the outputs before it, and are
retrained from there (`--update least-squares`). *One retraining* has all epochs in one schedule, and weights are pruned
over its first half (`--rounds 1 --gradual 50% --weights DENSE --epochs ALL`). Every way is paired by its seed with the
paper's rounds, which are those of `studies.rewinding.run`, on a CPU too. Ways are compared on validation; test is
reported.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Way:
    """How a network is shrunk in fewer epochs than by the paper's rounds."""

    name: str
    rounds: Mapping[int, int]
    """How many, by the times that there are fewer weights after them."""
    epochs: Mapping[int, int | None]
    """Of each retraining, by the same; None: as many as the dense training has."""
    update: str | None = None
    gradual: float = 0.0

    def all_epochs(self, times: int) -> int:
        """Of all its retrainings together."""
        return self.rounds[times] * (self.epochs[times] or EPOCHS)


_AS_DENSE = dict.fromkeys(WHOLE)
_ONE = dict.fromkeys(WHOLE, 1)
HALF, THIRD = {9: 5, 18: 6}, {9: 3, 18: 4}
WAYS = (
    Way("half as many rounds", HALF, _AS_DENSE),
    Way("one retraining, pruned over its first half", _ONE, {9: 15, 18: 18}, gradual=0.5),
    Way("half as many rounds, solved first", HALF, _AS_DENSE, LEAST_SQUARES),
    Way("one retraining, pruned over its first half", _ONE, {9: 10, 18: 13}, gradual=0.5),
    Way("a third as many rounds", THIRD, _AS_DENSE),
    Way("a third as many rounds, solved first", THIRD, _AS_DENSE, LEAST_SQUARES),
)
"""By what is worth knowing first."""
NETWORKS = ("zoo:resnet8", "zoo:resnet20")


def paper_rounds(network: str, seed: int) -> Trial:
    """The trial of the comparison that every way is paired with; it goes on to fewer weights than are looked at."""
    return Trial(network, "fashion-mnist-14", "lr-rewind", seed, EPOCHS, recipe="best")


def trial(network: str, seed: int, times: int, way: Way) -> Trial:
    density = (1 - REMOVED) ** WHOLE[times]
    return replace(
        paper_rounds(network, seed),
        density=density,
        rounds=way.rounds[times],
        update=way.update,
        gradual=way.gradual,
        retraining=way.epochs[times],
    )


def trials(seeds: list[int], networks: list[str], ways: list[int]) -> Iterator[Trial]:
    for way, network, seed, times in product(ways, networks, seeds, WHOLE):
        yield trial(network, seed, times, WAYS[way])


def ahead(rows: list[dict[str, Any]], network: str, times: int, way: Way) -> list[Any]:
    """Validation and test of each seed, less those of the paper's rounds of that seed at the same density."""
    found = {row["key"]: row["history"] for row in rows}
    pairs = []
    for seed in sorted({row["seed"] for row in rows}):
        whole, own = found.get(paper_rounds(network, seed).key), found.get(trial(network, seed, times, way).key)
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
                    f"| {network} | {times} | {WHOLE[times]} | {WHOLE[times] * EPOCHS} | 100% "
                    f"| the paper's rounds, against the dense network | | {statistics.mean(base):+.2f} "
                    f"({min(base):+.2f} to {max(base):+.2f}) | {len(base)} |"
                )
            for way in WAYS:
                if pairs := ahead(rows, network, times, way):
                    validation, test = ([pair[split] for pair in pairs] for split in (0, 1))
                    share = way.all_epochs(times) / (WHOLE[times] * EPOCHS)
                    lines.append(
                        f"| {network} | {times} | {way.rounds[times]} | {way.all_epochs(times)} | {share:.0%} "
                        f"| {way.name} | {statistics.mean(validation):+.2f} | {statistics.mean(test):+.2f} "
                        f"({min(test):+.2f} to {max(test):+.2f}) | {len(pairs)} |"
                    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--ways", nargs="*", type=int, default=range(len(WAYS)), help="by their places in WAYS")
    options = parser.parse_args()
    done = {row["key"] for row in journal.read(RESULTS)}
    for each in () if options.table else trials(options.seeds, options.networks, options.ways):
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
