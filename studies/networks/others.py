"""What others make of the same networks: torch-pruning at half the MACs, and the formats' own converters."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dwindle.compress.macs import macs
from dwindle.difference import furthest
from dwindle.export import targets
from dwindle.export.answers import outputs_of
from dwindle.models.copies import copied
from studies.networks.sample import batch

Row = dict[str, Any]
Inputs = tuple[Tensor, ...]
STEPS = 20
_PRUNED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
_ATTENTION = re.compile(r"(^|\.)((to_)?(qkvs?|q|k|v|kv|query|key|value)|(q|k|v|qkv)_(proj|lin))(\.|$)")
CLOSE = 1e-2
"""A file of a plain converter is right where its outputs are within this of the network's, over the largest."""


def torch_pruning(model: nn.Module, inputs: Inputs) -> Row:
    """Group magnitude, the same share of every layer, in twenty steps until half the MACs are left: its usual loop.

    It is told to keep the layers that make the outputs, and an attention's queries, keys and values, whose heads the
    network's own code counts. Exact is what computes the network with the removed channels silenced.
    """
    import torch_pruning as tp

    small, dense = copied(model).eval(), sum(macs(model, inputs).values())
    layers = {name: module for name, module in small.named_modules() if isinstance(module, _PRUNED)}
    names = {
        module: name for name, module in layers.items() if next(module.parameters(recurse=False), None) is not None
    }
    left = {name: list(range(_outputs(module))) for module, name in names.items()}
    pruner = tp.pruner.BasePruner(
        small,
        inputs,
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.9,
        iterative_steps=STEPS,
        round_to=8,
        ignored_layers=[
            *_last(small, inputs),
            *(module for module, name in names.items() if _ATTENTION.search(name)),
        ],
    )
    for _ in range(STEPS):
        for group in pruner.step(interactive=True):
            for dependency, channels in group:
                layer = names.get(dependency.target.module)
                if layer is not None and pruner.DG.is_out_channel_pruning_fn(dependency.handler):
                    gone = set(channels)
                    left[layer] = [c for i, c in enumerate(left[layer]) if i not in gone]
            group.prune()
        _run(small, inputs)  # raises what it does as torch says it
        share = sum(macs(small, inputs).values()) / dense
        if share <= 0.5:
            break
    row = {"half": share <= 0.5, "macs_left": share}
    before, after = ([tuple(x.shape) for x in _run(network, inputs)] for network in (model, small))
    if before != after:
        return {**row, "half": False, "said": "its outputs have other shapes"}
    return {**row, "error": _error(model, small, left, inputs)}


def _last(model: nn.Module, inputs: Inputs) -> list[nn.Module]:
    """The layers that make the outputs: on each way back from these, the first convolution or linear layer."""
    layers: dict[Any, nn.Module] = {
        module.weight: module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
    }
    given = model(*inputs)
    ahead: list[Any] = [x.grad_fn for x in ((given,) if isinstance(given, Tensor) else given)]
    seen, last = set(), []
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        before = [one for one, _ in node.next_functions if one is not None]
        leaves = [one.next_functions[0][0] if one.name() == "TBackward0" else one for one in before]
        makers = [layers[leaf.variable] for leaf in leaves if getattr(leaf, "variable", None) in layers]
        last += makers
        ahead += [] if makers else before
    return last


def _outputs(module: Any) -> int:
    """How many channels a layer of `_PRUNED` makes."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels
    return len(module.weight)


def _error(model: nn.Module, small: nn.Module, left: dict[str, list[int]], inputs: Inputs) -> float | None:
    """The difference of what it made from the whole network with the removed channels silenced, in float64; None where
    those don't run in float64."""
    silenced = copied(model).double()
    with torch.no_grad():
        for layer, channels in left.items():
            module: Any = silenced.get_submodule(layer)
            kept = set(channels)
            gone = torch.tensor([c for c in range(_outputs(module)) if c not in kept], dtype=torch.long)
            transposed = isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups == 1
            module.weight.index_fill_(1 if transposed else 0, gone, 0)
            if module.bias is not None:
                module.bias.index_fill_(0, gone, 0)
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    try:
        pairs = list(zip(_run(silenced, wide), _run(copied(small).double(), wide), strict=True))
    except RuntimeError:
        return None
    return max(float((a - b).abs().max() / (a.abs().max() or 1.0)) for a, b in pairs)


def _run(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        given = network.eval()(*inputs)
    return [x.double() for x in ((given,) if isinstance(given, Tensor) else given)]


def plain(name: str, model: nn.Module, inputs: Inputs) -> Row:
    """The dense network, by the format's own converter as its documentation says, compared where it can be run."""
    expected = outputs_of(model, real := batch(inputs, 3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"net{targets.load(name).suffix}")
        infer = CONVERTERS[name](copied(model), inputs, path)
        if infer is None:
            return {"outcome": "written"}
        answers = [infer([x.numpy() for x in sample]) for sample in zip(*(x.split(1) for x in real), strict=True)]
        found = tuple(np.concatenate(column) for column in zip(*answers, strict=True))
    far = furthest(found, expected)
    return {"outcome": "right" if far <= CLOSE else "wrong", "relative": far}


Infer = Callable[[list[Any]], list[Any]]


def _onnx(model: nn.Module, inputs: Inputs, path: Path) -> Infer:
    import onnxruntime

    torch.onnx.export(model, inputs, path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda arrays: list(session.run(None, dict(zip(names, arrays, strict=True))))


def _coreml(model: nn.Module, inputs: Inputs, path: Path) -> None:
    import coremltools

    program = torch.export.export(model, inputs).run_decompositions({})
    coremltools.convert(program, minimum_deployment_target=coremltools.target.iOS17).save(str(path))


def _executorch(model: nn.Module, inputs: Inputs, path: Path) -> Infer:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    edge = to_edge_transform_and_lower(torch.export.export(model, inputs), partitioner=[XnnpackPartitioner()])
    path.write_bytes(edge.to_executorch().buffer)
    method = Runtime.get().load_program(path).load_method("forward")
    assert method is not None
    return lambda arrays: [x.clone().numpy() for x in method.execute([torch.from_numpy(a) for a in arrays])]


def _litert(model: nn.Module, inputs: Inputs, path: Path) -> Infer:
    import litert_torch

    edge = litert_torch.convert(model, inputs)
    edge.export(str(path))

    def infer(arrays: list[Any]) -> list[Any]:
        # The file takes int32 where the network takes int64, which the converter's own call doesn't see to.
        given = edge(*(torch.from_numpy(a.astype(np.int32) if a.dtype == np.int64 else a) for a in arrays))
        return list(given) if isinstance(given, tuple | list) else [given]

    return infer


CONVERTERS: dict[str, Callable[[nn.Module, Inputs, Path], Infer | None]] = {
    "onnx": _onnx,
    "coreml": _coreml,
    "executorch": _executorch,
    "litert": _litert,
}
