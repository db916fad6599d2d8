"""The layers that a network calls, in the order in which a .pte of it has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dwindle.export.architecture import once
from dwindle.export.executorch.int8_graph import kind_of
from dwindle.export.fold import trace

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import Node

_CALLS = {
    "conv1d": "conv",
    "conv2d": "conv",
    "conv_transpose1d": "transposed",
    "conv_transpose2d": "transposed",
    "linear": "linear",
    "addmm": "linear",
    "embedding": "embedding",
}
"""ATen's names of layers, each with the kind that it is of in a file."""


class Call(NamedTuple):
    """A call of a layer in a network."""

    kind: str
    shape: tuple[int, ...]
    """The weight's, outputs first."""
    weight: str | None
    """Its name; None where it is not a tensor of the network, or batch norm will be folded into it."""
    bias: str | None
    turned: bool
    """Whether the network has the weight with its inputs first."""


@once
def called(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Call]:
    """The layers that are called, in the order of calls."""
    found = []
    program = trace(network, inputs)
    names = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
    for node in program.graph.nodes:
        if (call := kind_of(node)) not in _CALLS:
            continue
        # XNNPACK folds a batch norm that dwindle didn't, and then holds other values.
        folded = any("batch_norm" in str(user.target) for user in node.users)
        places = {"embedding": (0,), "addmm": (2, 0)}.get(call, (1, 2))
        read: list[Node] = [node.args[place] for place in places if place < len(node.args)]
        weight, bias = ([None if folded else names.get(getattr(one, "name", "")) for one in read] + [None])[:2]
        shape, turned = tuple(read[0].meta["val"].shape), call == "addmm"
        found.append(Call(_CALLS[call], shape[::-1] if turned else shape, weight, bias, turned))
    return found
