"""Making the network that ships: batch norm folded into the layer before it, parallel branches merged, on the CPU, in
fp32."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from dwindle.errors import UsageError, one_line
from dwindle.export.architecture import once
from dwindle.export.blame import where
from dwindle.export.branches import Merge, merge, mergeable
from dwindle.export.calls import Calls
from dwindle.export.dynamic import example, shapes, traceable
from dwindle.export.patch import without_autocast
from dwindle.export.sums import Sum, add_up, summed
from dwindle.models.copies import copied
from dwindle.models.inputs import row_major
from dwindle.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import Node


class Pair(NamedTuple):
    """Paths of a convolution or linear layer and of the batch norm that alone reads its output."""

    layer: str
    norm: str
    then: tuple[str, ...] = ()
    """The children that the norm calls on what it has computed, as one with an activation in it does."""


Fold = Pair | Merge | Sum


def deployable(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """A copy of `module` in eval mode, fp32, on the CPU, batch norm folded, parallel branches that are added up merged
    into one convolution, every zero a positive zero.

    inputs: what it takes, one sample as a batch of one. A zero weight stays zero, as folding only scales output
    channels; a merged one is zero where it is in every branch. Raises UsageError where torch.export cannot trace the
    module.
    """
    return fold(module, foldable(module, inputs))


@once
def foldable(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Fold, ...]:
    """What can be folded and merged, found in the traced graph, so that only calls that happen count.

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
    calls = Calls(trace(network, inputs), network)
    found = mergeable(calls)
    merges = _replaceable(found, network, inputs) if found else ()
    merged = {layer for one in merges for layer in one.replaced}
    sums = summed(calls, network, inputs, merged)
    merged |= {layer for one in sums for layer in one.replaced}
    pairs = (_pair_ending_at(node, calls) for node in calls.within[""])
    return (*merges, *sums, *(pair for pair in pairs if pair is not None and pair.norm not in merged))


def fold(module: nn.Module, folds: tuple[Fold, ...]) -> nn.Module:
    """What `deployable` returns, for a module of which it is known what is `foldable`."""
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

    network = _detached(module)
    merge(network, [one for one in folds if isinstance(one, Merge)])
    add_up(network, [one for one in folds if isinstance(one, Sum)])
    for path, norm_path, then in (one for one in folds if isinstance(one, Pair)):
        layer: Any = network.get_submodule(path)
        norm: Any = network.get_submodule(norm_path)
        if isinstance(layer, nn.Linear):
            folded: nn.Module = fuse_linear_bn_eval(layer, norm)
        else:
            folded = fuse_conv_bn_eval(layer, norm, transpose=layer.transposed)
        network.set_submodule(path, folded)
        after = OrderedDict((name, norm.get_submodule(name)) for name in then)
        network.set_submodule(norm_path, nn.Sequential(after).eval() if after else nn.Identity())
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

    told_apart = copied(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors(told_apart).values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1, generator=generator)
    return told_apart


def short_names(network: nn.Module) -> dict[str, str]:
    """A name of a few bytes for each tensor, as long names would outweigh the graph in a small network's file.

    It is the tensor's position among `tensors`, so that with the network the names can be translated back.
    """
    return {name: f"_{index}" for index, name in enumerate(tensors(network))}


def trace(network: nn.Module, inputs: tuple[Tensor, ...], sizes: nn.Module | None = None) -> ExportedProgram:
    """torch.export's program of a network in eval mode, its sizes symbolic where they vary.

    A copy of it is traced: what its forward keeps in a list or a dict would be tensors without data afterwards.

    sizes: the network whose sizes vary likewise; None: this one. Raises UsageError where torch.export cannot trace it,
    or where the model fixes a size that is said to vary.
    """
    import torch
    from torch import fx

    try:
        with quiet(), torch.no_grad(), without_autocast(), traceable(sizes or network):
            varies, own = shapes(sizes or network), copied(network)
            if varies is None:
                return torch.export.export(own, inputs)
            given = example(sizes or network, inputs)
            # `Flat.forward` takes all of its inputs as one parameter, and a GraphModule made of it each as one.
            each = varies if isinstance(network, fx.GraphModule) else (varies,)
            return torch.export.export(own, given, dynamic_shapes=each)
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
    network = copied(module).cpu().float().eval()
    for tensor in tensors(network).values():
        tensor.data = row_major(tensor.data)  # a channels_last weight would make its outputs so too
    return network


def _pair_ending_at(node: Node, calls: Calls) -> Pair | None:
    """The pair whose norm is called at `node`, if nothing else reads what folding changes."""
    import torch
    from torch import nn

    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

    if node.target is not torch.ops.aten.batch_norm.default:
        return None
    call = node.all_input_nodes[0]
    path, layer = calls.caller(call)
    norm_path, norm = calls.caller(node)
    then = calls.then(norm_path, node, [node])
    # A layer of the type itself, as a subclass may do more in its forward than the one call; of a norm `then` tells.
    if not isinstance(norm, norms) or then is None or type(layer) not in (*convolutions, *transposed, nn.Linear):
        return None
    if isinstance(layer, transposed) and layer.groups != 1:
        return None
    if isinstance(layer, nn.Linear) and call.meta["val"].dim() != 2:
        return None  # the norm's channels are dimension 1, a linear layer's the last
    operands = (*call.all_input_nodes, *node.all_input_nodes)
    read = {calls.tensors[operand.name]: operand for operand in operands if operand.name in calls.tensors}
    if not {f"{path}.weight", f"{norm_path}.running_mean"} <= read.keys():
        return None  # computed from something else, or no running statistics
    alone = len(call.users) == 1 and all(len(operand.users) == 1 for operand in read.values())
    return Pair(path, norm_path, then) if alone else None


def _replaceable(merges: tuple[Merge, ...], network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Merge, ...]:
    """Those whose block is called with one tensor and gives one, as what takes its place; none at all where the network
    does not run with them, as its own code looks at the layers of a block."""
    import torch

    plain: set[str] = set()
    hooks = [
        network.get_submodule(one.path).register_forward_hook(
            lambda _, given, by_name, result, path=one.path: (
                plain.add(path) if len(given) == 1 and not by_name and isinstance(result, torch.Tensor) else None
            ),
            with_kwargs=True,
        )
        for one in merges
    ]
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    found, tried = tuple(one for one in merges if one.path in plain), copied(network)
    try:
        merge(tried, found)
        with torch.no_grad():
            tried(*inputs)
    except Exception:  # whatever the model's own code raises
        return ()
    return found
