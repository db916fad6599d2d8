"""The state of a run between two optimizer steps, as tensors: the network with its cuts and masks, the task's own
state, and the random generator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dwindle.checkpoint import pack_masks, unpack_masks
from dwindle.compress.channels import cut_by
from dwindle.compress.masks import mask_applier
from dwindle.compress.network import Network
from dwindle.models import ranks
from dwindle.models.build import loaded
from dwindle.models.structure import describe, rebuild, tensors
from dwindle.sealed import read_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.models.checked_task import CheckedTask

State = dict[str, dict[str, "Tensor"]]
"""Tensors by file, then by name."""


def capture(network: Network, task: CheckedTask) -> State:
    """Returns a copy of the whole state."""
    state = {
        "weights": tensors(network.model) if network.kept else network.model.state_dict(),
        "masks": pack_masks(network.masks),
        "kept": network.kept,
        "task": task.state_dict(),
        "generator": {"torch": torch.get_rng_state()},
    }
    return copy.deepcopy(state)


def structure_of(network: Network, build_dense: Callable[[], nn.Module]) -> dict[str, Any]:
    """Describes the architecture that cuts left of the dense network; empty where nothing was cut."""
    with torch.random.fork_rng(devices=[]):  # how often a run is saved must not change what it draws
        return describe(network.model, build_dense()) if network.kept else {}


def restore(
    network: Network,
    task: CheckedTask,
    folder: Path,
    structure: Mapping[str, Any],
    build_dense: Callable[[], nn.Module],
) -> None:
    """Restores, in place, a state that `capture` took and that was saved in `folder`."""
    weights = _read(folder, "weights")
    if structure:
        network.model = rebuild(structure, build_dense(), weights)
    else:
        loaded(network.model, weights, folder / "weights.safetensors")
    network.masks = unpack_masks(_read(folder, "masks"), weights, folder / "masks.safetensors")
    network.kept = _read(folder, "kept")
    task.load_state_dict(_read(folder, "task"), network.model)
    torch.set_rng_state(_read(folder, "generator")["torch"])


REWIND = "rewind_"
"""The beginning of the names of files that hold the state to rewind to."""


def capture_rewind(network: Network, task: CheckedTask) -> State:
    """Returns a copy of what weight rewinding goes back to: weights, batch-norm statistics and the task's state."""
    state = capture(network, task)
    return {REWIND + name: state[name] for name in ("weights", "task")}


def read_rewind(folder: Path) -> State:
    """Reads a state that `capture_rewind` took and that was saved in `folder`."""
    return {REWIND + name: _read(folder, REWIND + name) for name in ("weights", "task")}


def rewind(network: Network, task: CheckedTask, folder: Path) -> None:
    """Sets weights, optimizer state and batch-norm statistics back to the state that `folder` holds to rewind to; the
    network keeps its present cuts and masks."""
    state = {name: cut_by(network.kept, named) for name, named in read_rewind(folder).items()}
    network.model.load_state_dict(state[REWIND + "weights"])
    task.load_state_dict(state[REWIND + "task"], network.model)
    mask_applier(network.model, network.masks)()


def _read(folder: Path, stem: str) -> dict[str, Tensor]:
    return ranks.broadcast_from_first(lambda: read_tensors(folder, stem))
