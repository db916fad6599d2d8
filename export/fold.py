"""The network as it ships: batch norm folded into the layer before it, on the CPU, in fp32."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import TYPE_CHECKING, Any, NamedTuple

from dwindle.errors import UsageError
from dwindle.export.architecture import once
from dwindle.export.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import Node


class Pair(NamedTuple):
    """Paths of a convolution or linear layer and of the batch norm that alone reads its output."""

    layer: str
    norm: str


def deployable(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """A copy of `module` in eval mode, fp32, on the CPU, batch norm folded, every zero a positive zero.

    `inputs` are what it takes (one sample as a batch of one). A zero weight stays zero: folding scales an
    output channel. Raises UsageError where torch.export cannot trace the module.
    """
    return fold(module, foldable(module, inputs))


@once
def foldable(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Pair, ...]:
    """The pairs that can be folded, found in the traced graph, so that only calls that happen count.

    Raises UsageError where torch.export cannot trace the module, and for inputs in float64, say.
    """
    import torch

    if wide := [tensor.dtype for tensor in inputs if tensor.is_floating_point() and tensor.dtype != torch.float32]:
        raise UsageError(f"the task's example input is {wide[0]}, and what ships computes in float32: make it that")
    network = _detached(module)
    program = trace(network, inputs)
    return tuple(pair for node in program.graph.nodes if (pair := _pair_ending_at(node, program, network)) is not None)


def fold(module: nn.Module, pairs: tuple[Pair, ...]) -> nn.Module:
    """What `deployable` returns, for a module whose `foldable` pairs are known already."""
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

    network = _detached(module)
    for path, norm_path in pairs:
        layer: Any = network.get_submodule(path)
        norm: Any = network.get_submodule(norm_path)
        if isinstance(layer, nn.Linear):
            folded: nn.Module = fuse_linear_bn_eval(layer, norm)
        else:
            folded = fuse_conv_bn_eval(layer, norm, transpose=layer.transposed)
        network.set_submodule(path, folded)
        network.set_submodule(norm_path, nn.Identity())
    with torch.no_grad():
        for tensor in tensors(network).values():
            # weight × mask leaves zeros of either sign, whose bits cost a quarter of a deflated dense file
            tensor[tensor == 0] = 0
    return network.requires_grad_(False)


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, those that share storage under each of their names."""
    return {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }


def distinct(network: nn.Module) -> nn.Module:
    """A copy with other values, of which no two are equal, nor zero or below, where a variance may not lie.

    In what a converter makes of it, a tensor is known by its values.
    """
    import torch

    copied = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in tensors(copied).values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1, generator=generator)
    return copied


def short_names(network: nn.Module) -> dict[str, str]:
    """A name of a few bytes for each tensor: in a small network's file the names would outweigh the graph.

    It is the tensor's place among `tensors`, so whoever has the network can say it backwards.
    """
    return {name: f"_{index}" for index, name in enumerate(tensors(network))}


def trace(network: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """torch.export's program of a network in eval mode; raises UsageError where there is none."""
    import torch

    try:
        # Where it fails, torch.export prints the graph so far.
        with quiet(), torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            return torch.export.export(network, inputs)
    except Exception as error:  # torch.export raises whatever the model's own code raised
        raise UsageError(f"torch.export cannot trace {type(network).__name__}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Why a library failed, in a line: the first of its first cause, without the pages that some of them add."""
    while error.__cause__:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _detached(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).cpu().float().eval()


def _pair_ending_at(node: Node, program: ExportedProgram, network: nn.Module) -> Pair | None:
    """The pair whose norm is called at `node`, if nothing else reads what folding changes."""
    import torch
    from torch import nn

    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

    if node.target is not torch.ops.aten.batch_norm.default:
        return None
    call = node.all_input_nodes[0]
    path, layer = _caller(call, network)
    norm_path, norm = _caller(node, network)
    # Of the types themselves: a subclass may do more in its forward than the one call.
    if type(norm) not in norms or type(layer) not in (*convolutions, *transposed, nn.Linear):
        return None
    if isinstance(layer, transposed) and layer.groups != 1:
        return None
    if isinstance(layer, nn.Linear) and call.meta["val"].dim() != 2:
        return None  # the norm's channels are dimension 1, a linear layer's the last
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    read = {names[held.name]: held for held in (*call.all_input_nodes, *node.all_input_nodes) if held.name in names}
    if not {f"{path}.weight", f"{norm_path}.running_mean"} <= read.keys():
        return None  # computed from something else, or no running statistics
    alone = len(call.users) == 1 and all(len(held.users) == 1 for held in read.values())
    return Pair(path, norm_path) if alone else None


def _caller(node: Node, network: nn.Module) -> tuple[str, nn.Module]:
    """Path and module whose own `forward` made this call."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    path = list(stack.values())[-1][0]
    return path, network.get_submodule(path)
