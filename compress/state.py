"""What a round continues from, as tensors: the network under its cuts and masks, the task, the generators."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dwindle.checkpoint import pack_masks, unpack_masks
from dwindle.compress.asked import state_of
from dwindle.compress.channels import cut_by
from dwindle.compress.masks import mask_applier
from dwindle.compress.network import Network
from dwindle.models import ranks
from dwindle.models.build import loaded
from dwindle.models.structure import describe, rebuild, tensors
from dwindle.sealed import read_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.task import Task

State = dict[str, dict[str, "Tensor"]]
"""Tensors by file, then by name."""


def capture(network: Network, task: Task) -> State:
    """Everything, copied."""
    state = {
        "weights": tensors(network.model) if network.kept else network.model.state_dict(),
        "masks": pack_masks(network.masks),
        "kept": network.kept,
        "task": state_of(task),
        "generator": {"torch": torch.get_rng_state()},
    }
    return copy.deepcopy(state)


def structure_of(network: Network, fresh: Callable[[], nn.Module]) -> dict[str, Any]:
    """What surgery left of the architecture; empty where nothing was cut."""
    with torch.random.fork_rng(devices=[]):  # how often a run is saved must not change what it draws
        return describe(network.model, fresh()) if network.kept else {}


def restore(
    network: Network, task: Task, folder: Path, structure: Mapping[str, Any], fresh: Callable[[], nn.Module]
) -> None:
    """Takes up a state that `capture` took and a folder holds."""
    weights = _read(folder, "weights")
    if structure:
        network.model = rebuild(structure, fresh(), weights)
    else:
        loaded(network.model, weights, folder / "weights.safetensors")
    network.masks = unpack_masks(_read(folder, "masks"), weights, folder / "masks.safetensors")
    network.kept = _read(folder, "kept")
    _load_task(task, _read(folder, "task"), network.model)
    torch.set_rng_state(_read(folder, "generator")["torch"])


REWIND = "rewind_"


def capture_rewind(network: Network, task: Task) -> State:
    """The state of the dense training to go back to: weights, batch-norm statistics and the task."""
    state = capture(network, task)
    return {REWIND + name: state[name] for name in ("weights", "task")}


def read_rewind(folder: Path) -> State:
    """What `capture_rewind` took, from a folder that holds it."""
    return {REWIND + name: _read(folder, REWIND + name) for name in ("weights", "task")}


def rewind(network: Network, task: Task, folder: Path) -> None:
    """Sets weights, optimizer state and batch-norm statistics back, under the present cuts and masks."""
    state = {name: cut_by(network.kept, named) for name, named in read_rewind(folder).items()}
    network.model.load_state_dict(state[REWIND + "weights"])
    _load_task(task, state[REWIND + "task"], network.model)
    mask_applier(network.model, network.masks)()


def _read(folder: Path, stem: str) -> dict[str, Tensor]:
    return ranks.broadcast_from_first(lambda: read_tensors(folder, stem))


def _load_task(task: Task, state: Mapping[str, Tensor], model: nn.Module) -> None:
    load = getattr(task, "load_state_dict", None)
    if load:
        load(state, model)
