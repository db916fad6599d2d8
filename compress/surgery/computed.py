"""Weights that a model computes in its forward from parameters alone: standardised, normalised, fake-quantised, cast.

Which parts of the parameters go with which channels isn't read off the operations, of which there are too many ways
to write one: it is tried. Each index of a parameter is set to other values, and to zeros, and what becomes of the
weight tells whether that index makes a channel of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._pytree import tree_map

from dwindle.compress.surgery.labels import Computed, Source

_LAYERS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")
_WEIGHT = 1
"""Where a layer's weight is among its arguments."""


def computed_weights(program: ExportedProgram) -> dict[Node, Computed | None]:
    """The operations that compute weights: of the last of each what it computes, of those before it None.

    Only where every one of them works on parameters and buffers alone, nothing but layers reads the result, and the
    channels of what goes in are told from its shape: the others are followed like any operation.
    """
    stored = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
    found: dict[Node, Computed | None] = {}
    for node in program.graph.nodes:
        weight = node.args[_WEIGHT] if _is_layer(node) and len(node.args) > _WEIGHT else None
        if isinstance(weight, Node) and weight.op == "call_function" and weight not in found:
            steps = _steps(weight, stored)
            if steps and (what := _tried(program, weight, steps, stored)) is not None:
                found |= {**dict.fromkeys(steps), weight: what}
    return found


def _is_layer(node: Node) -> bool:
    return str(getattr(node.target, "overloadpacket", "")).removeprefix("aten.") in _LAYERS


def _readers(node: Node) -> list[Node]:
    """The operations that make something of a node's result: not those that only check it, as a cast has beside it."""
    return [user for user in node.users if user.op == "output" or user.meta.get("val") is not None]


def _steps(weight: Node, stored: Mapping[str, str]) -> list[Node]:
    """The operations that a weight comes out of, in their order; none where an activation is among what they take, one
    writes in place, or anything but they and the layers of that weight reads what they make."""
    steps, waiting = {weight}, [weight]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node.op == "call_function" and node not in steps:
                steps.add(node)
                waiting.append(node)
            elif node.op != "call_function" and node.name not in stored:
                return []
    read = {user for node in steps - {weight} for user in _readers(node)}
    by_layers = all(_is_layer(user) and user.args[_WEIGHT] is weight for user in _readers(weight))
    if not by_layers or read - steps or any(map(_is_mutable, steps)):
        return []
    return [node for node in weight.graph.nodes if node in steps]


def _is_mutable(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.target is not operator.getitem and (schema is None or schema.is_mutable)


def _tried(program: ExportedProgram, weight: Node, steps: list[Node], stored: Mapping[str, str]) -> Computed | None:
    """How a weight follows from what is given; None where a tensor's shape doesn't tell which channels it belongs to,
    where none or several could be the weight itself, and where the operations can't be run alone."""
    shape = weight.meta["val"].shape
    given = {node: stored[node.name] for step in steps for node in step.all_input_nodes if node not in steps}
    dims = {node: _dims(node.meta["val"].shape, shape) for node in given}
    parameters = program.graph_signature.inputs_to_parameters
    bases = [node for node in given if node.name in parameters and node.meta["val"].shape == shape]
    if len(bases) != 1 or any(own is None for own in dims.values()):
        return None
    generator = torch.Generator().manual_seed(0)
    values = {node: _some(program, node, name, generator) for node, name in given.items()}

    def made(changed: Mapping[Node, Tensor]) -> Tensor:
        known: dict[Node, Any] = {**values, **changed}
        for step in steps:
            arguments, keywords = tree_map(
                lambda leaf: known[leaf] if isinstance(leaf, Node) else leaf, (step.args, dict(step.kwargs))
            )
            known[step] = step.target(*arguments, **keywords)  # type: ignore[operator]
        result: Tensor = known[weight]
        return result

    try:
        with torch.no_grad():
            plain = made({})
            if plain.shape != shape or not plain.isfinite().all():
                return None
            sources = tuple(
                tuple(
                    Source(given[node], place, _silences(made, node, values[node], place, dim))
                    for node, own in dims.items()
                    for at, place in own or ()
                    if at == dim
                )
                for dim in (0, 1)
            )
            mixed = tuple(_mixes(made, plain, bases[0], values[bases[0]], dim, generator) for dim in (0, 1))
    except Exception:  # whatever operations raise that can't be run alone
        return None
    return Computed(given[bases[0]], shape, sources, mixed)


def _dims(own: torch.Size, shape: torch.Size) -> list[tuple[int, int]] | None:
    """Which of the weight's first two dimensions are which of a tensor's: both of the weight's own parameter, one of
    what is as wide as the channels, none of one number or of one for each place of a kernel, and None where that can't
    be told."""
    wide = [dim for dim, size in enumerate(own) if size > 1]
    if own == shape:
        return [(0, 0), (1, 1)]
    if not wide:
        return []
    if len(wide) == 1 and len(own) in (1, len(shape)):
        dim = 0 if len(own) == 1 else wide[0]
        if own[wide[0]] == shape[dim]:
            return [(dim, wide[0])] if dim < 2 else []
    return None


def _some(program: ExportedProgram, node: Node, name: str, generator: torch.Generator) -> Tensor:
    """A value to try: as it is where it may be a scale or a number of bits, else arbitrary, as it may be all zeros."""
    value: Tensor = {**program.constants, **program.state_dict}[name].detach()
    if node.name not in program.graph_signature.inputs_to_parameters or value.numel() == 1:
        return value
    return torch.randn(value.shape, generator=generator).to(value)  # on its device, in its type


Made = Callable[[Mapping[Node, Tensor]], Tensor]


def _silences(made: Made, node: Node, value: Tensor, place: int, dim: int) -> bool:
    """Whether a zeroed index of this tensor makes the weight's zero there, whatever else is left."""
    zeroed = value.clone()
    zeroed.select(place, 0).zero_()
    return not made({node: zeroed}).select(dim, 0).abs().nan_to_num(1).any()


def _mixes(made: Made, plain: Tensor, base: Node, value: Tensor, dim: int, generator: torch.Generator) -> bool:
    """Whether one index of the parameter changes what becomes of the others, as it does where a weight is divided by
    the length of all of them."""
    if value.shape[dim] < 2:
        return False
    other = value.clone()
    other.select(dim, 0).copy_(10 * torch.randn(other.select(dim, 0).shape, generator=generator))
    changed, before = (x.narrow(dim, 1, value.shape[dim] - 1) for x in (made({base: other}), plain))
    return not torch.allclose(changed, before, rtol=1e-5, atol=1e-6)
