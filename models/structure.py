"""structure.json: how a slimmed network differs from one that is built afresh, and the way back.

The description holds sizes only, never code: integer attributes that became smaller, and shapes. With it and the
tensors, the slimmed network is rebuilt on a fresh one without the engine that slimmed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from dwindle.errors import CheckpointError
from dwindle.models.attention import STAND_INS, slim
from dwindle.models.signature import nested
from dwindle.quantities import format_names


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, also buffers that a state_dict leaves out: what `rebuild` needs beside the
    description. A tensor with several names is listed once."""
    return {name: tensor.detach() for name, tensor in _named(module).items()}


def describe(module: nn.Module, fresh: nn.Module) -> dict[str, Any]:
    """Describes how `module` differs from `fresh`, for JSON:

        attributes  {layer: {name: int or [int]}}
        shapes      {tensor: [int]}
        frozen      [parameter]

    Raises CheckpointError where `module` is another architecture, not the same one with less in it.
    """
    layers, fresh_layers = dict(module.named_modules()), dict(fresh.named_modules())
    if odd := layers.keys() ^ fresh_layers.keys():
        raise CheckpointError(f"the model has other layers than a fresh one: {format_names(sorted(odd))}")
    for name, layer in layers.items():
        if _kind(layer) not in (_kind(fresh_layers[name]), _stand_in(fresh_layers[name])):
            raise CheckpointError(f"layer {name!r} has become a {type(layer).__name__}: only its sizes may change")
    changed = {name: _changed(_sizes(layer), _sizes(fresh_layers[name])) for name, layer in layers.items()}
    structure = {
        "attributes": {name: sizes for name, sizes in changed.items() if sizes},
        "shapes": _changed(_shapes(module), _shapes(fresh)),
        "frozen": [
            n for n, p in module.named_parameters() if not p.requires_grad and fresh.get_parameter(n).requires_grad
        ],
    }
    _check(structure, fresh)
    return structure


def rebuild(structure: Mapping[str, Any], fresh: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Turns `fresh` into the module that was described, with the tensors of `state`: what `tensors` gave, or a
    state_dict where no other buffer became smaller. In place; returns it. Tied parameters stay tied.

    Raises CheckpointError, before anything is changed, for attributes that `fresh` doesn't have, sizes that are not
    smaller ones, and tensors that are missing, unknown, or of another shape or type than described.
    """
    _check(structure, fresh)
    names = _all_names(fresh)
    shapes = _shapes(fresh) | structure.get("shapes", {})
    if unknown := state.keys() - {alias for aliases in names.values() for alias in aliases}:
        raise CheckpointError(
            f"there are weights of tensors that the model doesn't have: {format_names(sorted(unknown))}"
        )
    persistent = fresh.state_dict().keys()
    new: dict[int, Tensor] = {}
    for name, own in _named(fresh).items():
        tensor = next((state[alias] for alias in names[name] if alias in state), None)
        if tensor is None:
            if name in persistent or shapes[name] != list(own.shape):
                raise CheckpointError(f"the weights lack {name}")
            continue
        if list(tensor.shape) != shapes[name] or tensor.dtype != own.dtype:
            raise CheckpointError(
                f"the weights have {name} as {tensor.dtype} of shape {list(tensor.shape)}, "
                f"the model needs {own.dtype} of shape {shapes[name]}"
            )
        trained = own.requires_grad and name not in structure.get("frozen", ())
        new[id(own)] = nn.Parameter(tensor, trained) if isinstance(own, nn.Parameter) else tensor
    for layer in fresh.modules():
        tables: list[dict[str, Any]] = [layer._parameters, layer._buffers]
        for table in tables:
            table.update({name: new[id(old)] for name, old in table.items() if id(old) in new})
        if isinstance(layer, nn.RNNBase):  # which lists its weights once more
            layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]
    for layer in fresh.modules():  # attention goes by the weights of the layers inside it
        slim(layer)
    for path, sizes in structure.get("attributes", {}).items():
        for name, size in sizes.items():
            old = getattr(fresh.get_submodule(path), name)
            setattr(fresh.get_submodule(path), name, size if isinstance(size, int) else type(old)(size))
    return fresh


def _check(structure: Mapping[str, Any], fresh: nn.Module) -> None:
    """Raises CheckpointError unless `fresh` has everything that is described, at the same size or larger."""
    layers, shapes, parameters = dict(fresh.named_modules()), _shapes(fresh), dict(fresh.named_parameters())
    sizes = {name: _sizes(layer) for name, layer in layers.items()}
    described: list[tuple[str, Any, Any]] = []
    try:
        for layer, attributes in structure.get("attributes", {}).items():
            for name, size in attributes.items():
                described.append((f"attribute {name} of layer {layer!r}", size, sizes.get(layer, {}).get(name)))
        described += [(f"tensor {name}", size, shapes.get(name)) for name, size in structure.get("shapes", {}).items()]
        described += [
            (f"parameter {name}", 1, 1 if name in parameters else None) for name in structure.get("frozen", [])
        ]
    except (AttributeError, TypeError):
        raise CheckpointError("the structure is not one that this version of dwindle writes") from None
    for what, size, old in described:
        if old is None:
            raise CheckpointError(f"the structure describes {what}, which the model doesn't have")
        if not _fits(size, old):
            raise CheckpointError(f"the structure makes {what} {size}, which is no part of {old}")


def _fits(size: Any, old: int | list[int]) -> bool:
    if isinstance(old, list):
        return isinstance(size, list) and len(size) == len(old) and all(map(_fits, size, old))
    return type(size) is int and (size == old or 0 < size <= old)


def _sizes(layer: nn.Module) -> dict[str, int | list[int]]:
    """The attributes of a layer that can be sizes."""
    plain = {name: value for name, value in vars(layer).items() if not name.startswith("_")}
    return {
        name: value if isinstance(value, int) else list(value)
        for name, value in plain.items()
        if type(value) is int or (isinstance(value, list | tuple) and value and all(type(v) is int for v in value))
    }


def _shapes(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in _named(module).items()}


def _named(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by the first of their names."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _all_names(module: nn.Module) -> dict[str, list[str]]:
    """All names of each tensor, by the first of them."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for listing in (module.named_parameters, module.named_buffers):
        for name, tensor in listing(remove_duplicate=False):
            names.setdefault(first.setdefault(id(tensor), name), []).append(name)
    return names


def _changed(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in new.items() if name in old and value != old[name]}


def _kind(layer: nn.Module) -> type[nn.Module]:
    """The class of a layer; every GraphModule is of a class of its own."""
    own = nested(layer)
    return GraphModule if isinstance(own, GraphModule) else type(own)


def _stand_in(layer: nn.Module) -> type[nn.Module] | None:
    return next((known.slim for known in STAND_INS if known.original is type(layer)), None)
