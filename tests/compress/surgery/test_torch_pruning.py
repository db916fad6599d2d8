"""Agreement with torch-pruning, on networks that it handles: the same slices go together."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision
from torch import nn

from dwindle.compress.surgery.choice import find_groups

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_pruning as tp

Slices = set[tuple[str, str, int]]


def ours(model: nn.Module, group: object, unit: int) -> Slices:
    """(layer, "out" or "in", channel) of the weights that a unit takes along."""
    modules = dict(model.named_modules())
    found: Slices = set()
    for place in group.places:  # type: ignore[attr-defined]
        layer, _, kind = place.tensor.rpartition(".")
        if kind == "weight":
            depthwise = getattr(modules[layer], "groups", 1) > 1
            sides = ("out", "in") if depthwise else ("out",) if place.dim == 0 else ("in",)
            found |= {(layer, side, int(i)) for side in sides for i in place.indices[unit]}
    return found


def theirs(graph: object, model: nn.Module, layer: str, channel: int) -> Slices:
    names = {module: name for name, module in model.named_modules()}
    pruned = graph.get_pruning_group(  # type: ignore[attr-defined]
        model.get_submodule(layer), tp.prune_conv_out_channels, idxs=[channel]
    )
    found: Slices = set()
    for dependency, channels in pruned:
        module = dependency.target.module
        if module in names and isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            out = graph.is_out_channel_pruning_fn(dependency.handler)  # type: ignore[attr-defined]
            found |= {(names[module], "out" if out else "in", i) for i in channels}
    return found


NETWORKS = {
    "resnet": torchvision.models.resnet18,
    "mobilenet": torchvision.models.mobilenet_v2,
    "squeezenet": torchvision.models.squeezenet1_1,
    "densenet": lambda: torchvision.models.DenseNet(8, (3, 3), 16),
    "vgg": torchvision.models.vgg11_bn,
}


LARGE = ("vgg", "mobilenet")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in NETWORKS]
)
def test_the_same_slices_go_together(name: str) -> None:
    model = NETWORKS[name]().eval()
    example = torch.randn(1, 3, 64, 64)
    found = find_groups(model, (example,))
    graph = tp.DependencyGraph().build_dependency(model, example)
    depthwise = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    for group in found.groups[:: max(1, len(found.groups) // 12)]:
        if not isinstance(model.get_submodule(group.name), nn.Conv2d):
            continue
        maker = next(place for place in group.places if place.tensor == f"{group.name}.weight")
        for unit in (0, group.units // 3, group.units - 1):
            expected = theirs(graph, model, group.name, int(maker.indices[unit, 0]))
            mentioned = {entry for entry in expected if entry[0] not in depthwise}
            assert {entry for entry in ours(model, group, unit) if entry[0] not in depthwise} == mentioned
            assert {e[0] for e in ours(model, group, unit)} == {e[0] for e in expected}
