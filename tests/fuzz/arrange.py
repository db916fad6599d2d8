"""A checkpoint with everything in it that a checkpoint can hold, made in a second, without training."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dwindle import checkpoint as store
from dwindle.bench.machine import this_machine
from dwindle.bench.result import Bench
from dwindle.bench.rows import blank_rows, untried
from dwindle.checkpoint import Checkpoint
from dwindle.manifest import File, Manifest, Parity, manifests
from dwindle.mask_files import pack_masks
from dwindle.models.build import ModelSpec, build
from dwindle.models.classify import ImageClassification
from dwindle.models.structure import describe, tensors
from dwindle.models.tasks import make_task
from dwindle.record import Cuts, Numerics, Round, Uncut
from dwindle.saved_rounds import save_partial, save_round

MODEL = ModelSpec("zoo:resnet8", 10, (1, 8, 8))
NUMERICS = Numerics(1, False, "cpu", "a processor", "AVX2")


def origin() -> dict[str, Any]:
    """What a compression of such a network on digits records."""
    from dwindle.compress import Request
    from dwindle.compress.resolve import resolve

    task = make_task({"data": "digits"})
    request = Request(model=MODEL.spec, task={"data": "digits"}, size=50_000)
    assert isinstance(task.given, ImageClassification)
    whole = {"model": asdict(MODEL), "task": task.origin, **resolve(request).origin}
    return dict(json.loads(json.dumps(whole)))


def finished(path: Path, *, keeps_samples: bool = False) -> Checkpoint:
    """A finished checkpoint with an export and what was measured of it."""
    model = build(MODEL)
    masks = {
        f"{name}.weight": module.weight.detach().abs() > 0.05
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    }
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    history = tuple(
        Round(index, density, size, 90.0 - index, 0.1, 1.0, 500_000)
        for index, (density, size) in enumerate([(1.0, 312_000), (0.5, 170_000)])
    )
    begun = store.start(path, origin(), numerics=NUMERICS)
    done = replace(
        begun,
        done=True,
        history=history,
        metrics={"test": 88.5, "dense_test": 89.0},
        uncut=(Uncut("conv", 8, 16, "it is added to another"),),
    )
    structure = {"attributes": {}, "shapes": {}, "frozen": []}
    weights = tensors(model)
    groups = {"weights": weights, "dense": dense, "masks": pack_masks(masks)}
    if keeps_samples:
        groups["samples"] = {f"{split}.0": torch.rand(4, *MODEL.input_shape) for split in ("train", "validation")}
    store.finish(done, groups, structure)
    _export(path / "exports/onnx", weights)
    found = Checkpoint.load(path)
    exported = manifests(found.exports)
    rows = [untried(row, "it was not run") for pair in blank_rows(path, exported) for row in pair]
    Bench(tuple(rows), this_machine(), 0, "2026-01-01T00:00:00+00:00", "0", "zoo:resnet8 on digits").save(
        found.bench_path
    )
    return found


def _export(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Files in an export's place: what fuzzes reading them needs no runtime that would run them."""
    folder.mkdir(parents=True)
    for name, size in (("net.onnx", 4_000), ("dense.onnx", 9_000)):
        (folder / name).write_bytes(os.urandom(size))
    Manifest(
        target="onnx",
        precision="fp32",
        encoding="bitmask + fp32 survivors",
        file=File.of(folder / "net.onnx"),
        dense=File.of(folder / "dense.onnx"),
        parity=Parity(1e-6, 1e-6, 1e-4, 1.0, 16, 20),
        versions={"dwindle": "0", "onnx": "1"},
    ).write(folder)


def unfinished(path: Path) -> Checkpoint:
    """A checkpoint whose run was cut off within its second round."""
    model = build(MODEL)
    begun = store.start(path, origin(), numerics=NUMERICS)
    first = Round(0, 1.0, 312_000, 90.0, 0.1, 1.0, 500_000)
    state: dict[str, dict[str, torch.Tensor]] = {
        "weights": model.state_dict(),
        "masks": {},
        "kept": {},
        "task": {},
        "generator": {"torch": torch.get_rng_state()},
    }
    uncut = (Uncut("conv", 8, 16, "it is added to another"),)
    save_round(path, first, (), Cuts(describe(model, model), uncut), state)
    progress = {"steps": 3, "seconds": 1.0, "losses": [2.0, 1.5], "ramp": None}
    save_partial(path, 1, progress, Cuts(uncut=uncut), state)
    return begun


def copied(source: Path, to: Path) -> Path:
    """A copy of a checkpoint, in place of what is there."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to)
    return to
