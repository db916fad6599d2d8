"""A pruned network, solved: in the order of the forward pass, each layer's surviving weights are moved to where they
best give the dense network's outputs from what the pruned network, solved so far, shows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from dwindle.compress.masks import prunable
from dwindle.compress.recalibrate import norms
from dwindle.errors import DwindleError
from dwindle.models.layerwise.collect import batched, moments_of, require_samples
from dwindle.models.layerwise.least_squares import DAMPING, solve
from dwindle.models.layerwise.lockstep import Lockstep, lockstep
from dwindle.models.layerwise.parts import with_parts
from dwindle.models.layerwise.products import Product, product
from dwindle.models.layerwise.survey import survey
from dwindle.quantities import format_names

if TYPE_CHECKING:
    from dwindle.compress.network import Network


@dataclass(frozen=True)
class Layer:
    """What came of one layer."""

    name: str
    inputs: int
    """Of each of its groups."""
    positions: int
    """That its least squares saw."""
    before: float
    """Squared error of its outputs under the mask, as a share of the dense ones' energy (about their mean, where a bias
    or a batch norm makes up for that)."""
    after: float
    """The same once solved: never more."""
    seconds: float


@dataclass(frozen=True)
class Reconstruction:
    """What came of a network."""

    layers: tuple[Layer, ...]
    """In the order in which they ran."""
    left: Mapping[str, str]
    """The prunable weights that were not solved, by parameter name, and why."""
    samples: int
    """How many the last layers saw; the first ones fewer, where memory has no room for all."""
    notes: tuple[str, ...]
    """What is worth saying that is no error, a sentence each."""


@torch.no_grad()
def reconstruct(
    network: Network,
    dense: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    damping: float = DAMPING,
    solved: tuple[Layer, ...] = (),
    on_layer: Callable[[int, int, Layer], None] = lambda done, total, layer: None,
    save: Callable[[int, tuple[Layer, ...]], None] = lambda samples, layers: None,
) -> Reconstruction:
    """Solves the surviving weights of `network.model` in place, under its masks and cuts, and takes the statistics of
    its batch norms anew, each from the solved layers before it.

    `dense`: the network as it was, whose outputs are wanted. `inputs`: samples, one tensor for each argument of the
    models, (N, …), on the models' device; labels are not needed. `solved`: what came of the first layers, which an
    interrupted call has left solved. `on_layer` hears of each other layer: how many are done, of how many. `save` is
    called after each with the number of samples used, and what came of all layers up to it.
    The two networks run once on all samples. Layers with large maps, of which a few samples are enough, see as many of
    them as memory has room for. Where it has none for all at the last layers, fewer are taken, and it is said.
    Raises UsageError where the samples aren't finite, are all the same or don't fit, DwindleError with the layer's name
    where what it gives isn't finite.
    """
    require_samples(inputs)
    with with_parts(dense), with_parts(network.model):
        return _reconstruct(network, dense, inputs, damping, solved, on_layer, save)


def _reconstruct(
    network: Network,
    dense: nn.Module,
    inputs: tuple[Tensor, ...],
    damping: float,
    solved: tuple[Layer, ...],
    on_layer: Callable[[int, int, Layer], None],
    save: Callable[[int, tuple[Layer, ...]], None],
) -> Reconstruction:
    compressed = network.model
    found = survey(dense, inputs, prunable(dense))
    taken = batched(inputs, found)
    notes, batches = [*found.notes, *([taken.note] if taken.note else [])], taken.tensors
    own = dict(compressed.named_modules())
    left = {**found.left, **_unmatched(own, found.layers, network.kept)}
    stops = {name: own[name] for name in found.layers if found.layers[name] not in left}
    its_norms = set(norms(compressed))
    settled = {name: module for name, module in own.items() if module in its_norms}
    layers: list[Layer] = []
    with (
        lockstep(
            dense, batches, {name: dense.get_submodule(name) for name in stops}, "outputs", taken.present
        ) as wanted,
        lockstep(compressed, batches, {**stops, **settled}, "inputs", taken.present) as given,
    ):
        while (stop := given.advance()) is not None:
            module = own[stop.name]
            if isinstance(module, _BatchNorm):
                take_statistics(module, stop.tensors)
                continue
            began = time.monotonic()
            weight = found.layers[stop.name]
            outputs = _outputs(wanted, stop.name, weight, network.kept, module)
            if len(layers) < len(solved):
                layers.append(solved[len(layers)])
                continue
            matrices = product(module)
            assert matrices is not None
            mask = network.masks.get(weight)
            step = _Step(stop.name, module, matrices, mask, stop.name in found.before_norm, damping, len(layers))
            positions, before, after = step.solve(stop.tensors, outputs)
            layers.append(Layer(stop.name, step.product.inputs, positions, before, after, time.monotonic() - began))
            save(taken.samples, tuple(layers))
            on_layer(len(layers), len(stops), layers[-1])
        wanted.advance()
    if few := [layer for layer in layers if layer.positions < layer.inputs]:
        worst = max(few, key=lambda layer: layer.inputs / layer.positions)
        notes.append(
            f"{len(few)} layers have more inputs than the samples have positions ({worst.name}: {worst.inputs:,} and "
            f"{worst.positions:,}), and stay near the weights they had: more calibration samples would help"
        )
    if left:
        notes.append(f"not solved: {format_names(left, 3)} ({next(iter(left.values()))})")
    return Reconstruction(tuple(layers), left, taken.samples, tuple(notes))


@torch.no_grad()
def take_statistics(norm: _BatchNorm, batches: Sequence[Tensor]) -> None:
    """Sets a batch norm's running statistics to those of its inputs, (N, channels, …), all batches taken as one."""

    def flat() -> Iterator[Tensor]:  # one at a time, as they take twice the memory of their batches
        return (batch.transpose(0, 1).flatten(1).double() for batch in batches)

    count = sum(batch.numel() // batch.shape[1] for batch in batches)
    mean = torch.stack([part.sum(1) for part in flat()]).sum(0) / count
    square = torch.stack([(part - mean[:, None]).square().sum(1) for part in flat()]).sum(0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(square / max(1, count - 1))


@dataclass(frozen=True)
class _Step:
    """One layer's turn."""

    name: str
    module: nn.Module
    product: Product
    mask: Tensor | None
    before_norm: bool
    damping: float
    seed: int
    """Of the positions that are drawn."""

    def solve(self, inputs: list[Tensor], outputs: Iterable[Tensor]) -> tuple[int, float, float]:
        """Solves the layer in place; returns how many positions it saw, and its error before and after."""
        weight, bias = self.module.get_parameter("weight"), self.module._parameters["bias"]
        rows = self.product.rows(weight)
        mask = torch.ones_like(weight, dtype=torch.bool) if self.mask is None else self.mask.to(weight.device)
        moments = moments_of(self.product, rows, inputs, outputs, self.seed)
        if not moments.finite:
            raise DwindleError(
                f"{self.name} is given, or gives, what is not finite for the calibration samples: mend its weights, or "
                "the samples' scale",
                code="not-finite",
                name=self.name,
            )
        centred = bias is not None or self.before_norm
        damping = self.damping + self.product.inputs / moments.count  # what few positions say is partly chance
        solution = solve(moments.centred() if centred else moments, rows, self.product.rows(mask), damping)
        weight.copy_(self.product.weight(solution.rows))
        weight.mul_(mask)
        if bias is not None:
            bias.copy_(moments.bias(self.product.rows(weight)).flatten())
        return moments.count, solution.before, solution.after


def _unmatched(own: Mapping[str, nn.Module], layers: Mapping[str, str], kept: Mapping[str, Tensor]) -> dict[str, str]:
    """Weights whose cuts don't say which of the dense layer's outputs are left, and why."""
    return {
        weight: "cuts of a grouped transposed convolution don't say which outputs are left"
        for name, weight in layers.items()
        if isinstance(layer := own[name], _ConvTransposeNd) and layer.groups > 1
        if any(key.startswith(f"{weight}:") for key in kept)
    }


def _outputs(
    wanted: Lockstep, name: str, weight: str, kept: Mapping[str, Tensor], module: nn.Module
) -> Iterable[Tensor]:
    """The dense layer's outputs, of the channels that cuts left."""
    stop = wanted.advance_to(name)
    dim = 1 if isinstance(module, _ConvTransposeNd) else 0
    channels = kept.get(f"{weight}:{dim}")
    if channels is None:
        return stop.tensors
    along = -1 if isinstance(module, nn.Linear) else 1
    return (tensor.index_select(along, channels.to(tensor.device)) for tensor in stop.tensors)
