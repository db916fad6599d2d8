"""Whether the optimal brain surgeon's saliency chooses better than magnitude, where the survivors are solved.

    python -m studies.calibrate.saliency            # resumes; a CPU minute a density and network, dense trainings first
    python -m studies.calibrate.saliency --table

For a layer whose inputs X have the Gram matrix H = XᵀX, removing the weight w of a row and solving the row's survivors
anew adds w² / [H⁻¹]ww to the squared error of the layer's outputs (Hassibi and Stork 1993, eq. 5), over the row's
survivors. The error is taken as a share of the energy of the layer's outputs, so that layers compare.
Between two steps of pruning the survivors are solved, as `--method calibrate` does.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.calibrate.reconstruct import reconstruct
from dwindle.compress.network import Network
from dwindle.models.layerwise.collect import batched, moments_of
from dwindle.models.layerwise.least_squares import DAMPING
from dwindle.models.layerwise.lockstep import lockstep
from dwindle.models.layerwise.moments import Moments
from dwindle.models.layerwise.parts import with_parts
from dwindle.models.layerwise.products import product
from dwindle.models.layerwise.survey import survey
from studies import journal
from studies.calibrate.networks import dense, task
from studies.calibrate.run import samples

RESULTS = Path(__file__).with_name("saliency.jsonl")
DENSITIES = (0.3, 0.2, 0.1, 0.05)
WAYS = (("magnitude", 4), ("surgeon", 4), ("magnitude", 8), ("surgeon", 8))


@torch.no_grad()
def removal_errors(model: nn.Module, inputs: tuple[Tensor, ...], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The saliency of each of `weights`, the model's own parameters by name, in eval mode; zero weights have zero.

    `inputs`: samples, one tensor for each argument, (N, …). A weight of no layer that can be solved is missing. Raises
    as `survey` does.
    """
    found_errors: dict[str, Tensor] = {}
    with with_parts(model):
        found = survey(model, inputs, weights)
        taken = batched(inputs, found)
        layers = {name: model.get_submodule(name) for name in found.layers}
        with lockstep(model, taken.tensors, layers, "inputs", taken.present) as walk:
            while (stop := walk.advance()) is not None:
                name, weight = stop.name, found.layers[stop.name]
                matrix = product(layers[name])
                assert matrix is not None
                rows = matrix.rows(weights[weight])
                outputs = (layers[name].forward(batch) for batch in stop.tensors)
                moments = moments_of(matrix, rows, stop.tensors, outputs, len(found_errors))
                has_bias = layers[name]._parameters.get("bias") is not None
                centred = moments.centred() if has_bias or name in found.before_norm else moments
                found_errors[weight] = matrix.weight(_errors(centred, rows)).to(weights[weight].dtype)
    return found_errors


def _errors(moments: Moments, rows: Tensor) -> Tensor:
    """(groups, outputs, inputs), float64."""
    errors = torch.zeros_like(rows, dtype=torch.float64)
    alive = rows != 0
    for group in range(len(rows)):
        ridge = DAMPING * float(moments.inner[group].diagonal().mean()) or torch.finfo(torch.float64).tiny
        patterns, which = torch.unique(alive[group], dim=0, return_inverse=True)
        for pattern, survivors in enumerate(patterns):
            members, columns = (which == pattern).nonzero()[:, 0], survivors.nonzero()[:, 0]
            if len(columns) == 0:
                continue
            square = moments.inner[group][columns[:, None], columns]
            square.diagonal().add_(ridge)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(square)).diagonal()
            errors[group, members[:, None], columns] = (
                rows[group, members[:, None], columns].double().square() / inverse
            )
    return errors / (float(moments.energy.sum()) or 1.0)


def pruned(
    network: Network, whole: nn.Module, saliency: str, steps: int, share: float, inputs: tuple[Tensor, ...]
) -> None:
    """Prunes to `share` in steps of equal ratio, and solves the survivors after each."""

    def surgeon(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = removal_errors(network.model, inputs, weights)
        return {name: found[name] for name in weights}

    granularity = replace(Blocks(), score=surgeon) if saliency == "surgeon" else Blocks()
    for step in range(1, steps + 1):
        granularity.shrink(network, share ** (step / steps))
        reconstruct(network, whole, inputs)


def row(name: str, seed: int, share: float, saliency: str, steps: int) -> dict[str, Any]:
    its = task(seed)
    whole, inputs = dense(name, seed, its), samples(its, seed)
    network = Network(copy.deepcopy(whole), its.example_inputs())
    began = time.process_time()
    pruned(network, whole, saliency, steps, share, inputs)
    seconds = time.process_time() - began
    scores = {
        split: its.evaluate(network.model, split) - its.evaluate(whole, split) for split in ("validation", "test")
    }
    key = {"network": name, "seed": seed, "share": share, "saliency": saliency, "steps": steps}
    return {**key, **scores, "cpu_seconds": seconds}


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each network and density: points of validation against dense, and of test."""
    lines = [
        "# Saliency",
        "",
        "Points of validation accuracy against the dense network, of test in brackets, and CPU seconds. "
        "Fashion-MNIST at 14x14, 1,024 unlabelled samples. Printed by `python -m studies.calibrate.saliency`.",
        "",
        "| network | seed | kept | " + " | ".join(f"{saliency}, {steps} steps" for saliency, steps in WAYS) + " |",
        "|---|---:|---:|" + "---:|" * len(WAYS),
    ]
    by = {(r["network"], r["seed"], r["share"], r["saliency"], r["steps"]): r for r in rows}
    for network, seed, share in dict.fromkeys(key[:3] for key in by):
        found = [by.get((network, seed, share, *way)) for way in WAYS]
        cells = [f"{r['validation']:+.2f} ({r['test']:+.2f}), {r['cpu_seconds']:.0f} s" if r else "–" for r in found]
        lines.append(f"| {network.removeprefix('zoo:')} | {seed} | {share:.0%} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--networks", nargs="*", default=["zoo:resnet8", "zoo:resnet20"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {(r["network"], r["seed"], r["share"], r["saliency"], r["steps"]) for r in journal.read(RESULTS)}
    for seed in () if options.table else options.seeds:
        for key in ((name, seed, share, *way) for name in options.networks for share in DENSITIES for way in WAYS):
            if key not in done:
                journal.add(RESULTS, row(*key))
    text = table(journal.read(RESULTS))
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
