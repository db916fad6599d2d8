"""Making the network that ships: batch norm folded into the layer before it, on the CPU, in fp32."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from dwindle.errors import UsageError, one_line
from dwindle.export.architecture import once
from dwindle.export.blame import where
from dwindle.export.dynamic import example, shapes, traceable
from dwindle.export.quiet import quiet
from dwindle.models.inputs import row_major

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

    inputs: what it takes, one sample as a batch of one. A zero weight stays zero, as folding only scales output
    channels. Raises UsageError where torch.export cannot trace the module.
    """
    return fold(module, foldable(module, inputs))


@once
def foldable(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Pair, ...]:
    """The pairs that can be folded, found in the traced graph, so that only calls that happen count.

    Raises UsageError where torch.export cannot trace the module, and for inputs in float64, say.
    """
    import torch

    if wide := [tensor.dtype for tensor in inputs if tensor.is_floating_point() and tensor.dtype != torch.float32]:
        raise UsageError(
            f"the task's example input is {wide[0]}, but exported files compute in float32: return float32 from "
            "`example_inputs`",
            code="wrong-dtype",
            name="example_inputs",
        )
    network = _detached(module)
    program = trace(network, inputs)
    return tuple(pair for node in program.graph.nodes if (pair := _pair_ending_at(node, program, network)) is not None)


def fold(module: nn.Module, pairs: tuple[Pair, ...]) -> nn.Module:
    """What `deployable` returns, for a module whose `foldable` pairs are already known."""
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


def distinct(network: nn.Module, seed: int = 0) -> nn.Module:
    """A copy whose floating-point values all differ and are positive, as variances have to be.

    In a file that a converter makes of it, each tensor can be recognised by its values. Another seed gives others.
    """
    import torch

    copied = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors(copied).values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1, generator=generator)
    return copied


def short_names(network: nn.Module) -> dict[str, str]:
    """A name of a few bytes for each tensor, as long names would outweigh the graph in a small network's file.

    It is the tensor's position among `tensors`, so that with the network the names can be translated back.
    """
    return {name: f"_{index}" for index, name in enumerate(tensors(network))}


def trace(network: nn.Module, inputs: tuple[Tensor, ...], sizes: nn.Module | None = None) -> ExportedProgram:
    """torch.export's program of a network in eval mode, its sizes symbolic where they vary.

    sizes: the network whose sizes vary likewise; None: this one. Raises UsageError where torch.export cannot trace it,
    or where the model fixes a size that is said to vary.
    """
    import torch
    from torch import fx

    try:
        with quiet(), torch.no_grad(), traceable(sizes or network):
            varies = shapes(sizes or network)
            if varies is None:
                return torch.export.export(network, inputs)
            given = example(sizes or network, inputs)
            # `Flat.forward` takes all of its inputs as one parameter, and a GraphModule made of it each as one.
            each = varies if isinstance(network, fx.GraphModule) else (varies,)
            return torch.export.export(network, given, dynamic_shapes=each)
    except UsageError:
        raise
    except Exception as error:  # torch.export raises whatever the model's own code raised
        name = type(network).__name__
        raise UsageError(
            f"torch.export cannot trace {name}{where(error)}: {one_line(error, root_cause=True)}",
            code="not-traceable",
            name=name,
        ) from error


def _detached(module: nn.Module) -> nn.Module:
    copied = copy.deepcopy(module).cpu().float().eval()
    for tensor in tensors(copied).values():
        tensor.data = row_major(tensor.data)  # a channels_last weight would make its outputs so too
    return copied


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
    operands = (*call.all_input_nodes, *node.all_input_nodes)
    read = {names[operand.name]: operand for operand in operands if operand.name in names}
    if not {f"{path}.weight", f"{norm_path}.running_mean"} <= read.keys():
        return None  # computed from something else, or no running statistics
    alone = len(call.users) == 1 and all(len(operand.users) == 1 for operand in read.values())
    return Pair(path, norm_path) if alone else None


def _caller(node: Node, network: nn.Module) -> tuple[str, nn.Module]:
    """Path and module whose own `forward` made this call."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    path = list(stack.values())[-1][0]
    return path, network.get_submodule(path)
