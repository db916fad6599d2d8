"""The state of a run between two optimizer steps: the network with its cuts and masks, the task's own state, and the
random generators.

`capture` takes it as tensors, and `cuts_of` what of it is no tensor; `restore` takes both. Whatever else a run depends
on follows from its options and its history.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dwindle.compress.channels import cut_by
from dwindle.compress.masks import mask_applier
from dwindle.compress.network import Network
from dwindle.mask_files import pack_masks, unpack_masks
from dwindle.models import ranks
from dwindle.models.build import loaded
from dwindle.models.structure import describe, rebuild, tensors
from dwindle.record import Cuts
from dwindle.sealed import read_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.models.checked_task import CheckedTask

State = dict[str, dict[str, "Tensor"]]
"""Tensors by file, then by name."""


def capture(network: Network, task: CheckedTask) -> State:
    """Returns a copy of the whole state."""
    state = {
        **packed_state(network),
        "kept": network.kept,
        "task": task.state_dict(),
        "generator": _generators(),
    }
    return copy.deepcopy(state)


def packed_state(network: Network) -> State:
    """Returns the tensors of the network itself, which a checkpoint holds; the weights are not copied."""
    return {
        "weights": tensors(network.model) if network.kept else network.model.state_dict(),
        "masks": pack_masks(network.masks),
    }


def cuts_of(network: Network, build_dense: Callable[[], nn.Module]) -> Cuts:
    """Describes what cuts left of the dense network, and what they could not remove; empty where nothing was cut."""
    if not network.kept:
        return Cuts()
    with torch.random.fork_rng(devices=[]):  # how often a run is saved must not change what it draws
        return Cuts(describe(network.model, build_dense()), network.uncut)


def restore(
    network: Network,
    task: CheckedTask,
    folder: Path,
    cuts: Cuts,
    build_dense: Callable[[], nn.Module],
) -> None:
    """Restores, in place, a state that `capture` took and that was saved in `folder` beside its `cuts`."""
    weights = read(folder, "weights")
    network.uncut = cuts.uncut
    if cuts.structure:
        network.model = rebuild(cuts.structure, build_dense(), weights)
    elif network.kept:  # back to before the first cut
        network.model = loaded(build_dense(), weights, folder / "weights.safetensors")
    else:
        loaded(network.model, weights, folder / "weights.safetensors")
    network.masks = unpack_masks(read(folder, "masks"), weights, folder / "masks.safetensors")
    network.kept = read(folder, "kept")
    task.load_state_dict(read(folder, "task"), network.model)
    _set_generators(read(folder, "generator"))


def _generators() -> dict[str, Tensor]:
    """The states of PyTorch's generators: the CPU's, and that of the GPU in use, if one is."""
    on_gpu = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {}
    return {"torch": torch.get_rng_state(), **on_gpu}


def _set_generators(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


REWIND = "rewind_"
"""The beginning of the names of files that hold the state to rewind to."""


def capture_rewind(network: Network, task: CheckedTask) -> State:
    """Returns a copy of what weight rewinding goes back to: weights, batch-norm statistics and the task's state."""
    state = capture(network, task)
    return {REWIND + name: state[name] for name in ("weights", "task")}


def read_rewind(folder: Path) -> State:
    """Reads a state that `capture_rewind` took and that was saved in `folder`."""
    return {REWIND + name: read(folder, REWIND + name) for name in ("weights", "task")}


def rewind(network: Network, task: CheckedTask, folder: Path) -> None:
    """Sets weights, optimizer state and batch-norm statistics back to the state that `folder` holds to rewind to; the
    network keeps its present cuts and masks."""
    state = {name: cut_by(network.kept, named) for name, named in read_rewind(folder).items()}
    network.model.load_state_dict(state[REWIND + "weights"])
    task.load_state_dict(state[REWIND + "task"], network.model)
    mask_applier(network.model, network.masks)()


def read(folder: Path, stem: str) -> dict[str, Tensor]:
    """The tensors of a file that is saved in `folder`, on every rank as the first finds them."""
    return ranks.broadcast_from_first(lambda: read_tensors(folder, stem))
