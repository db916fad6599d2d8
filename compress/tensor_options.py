"""What each tensor of a network may become, a density and a precision, with the bytes that takes and what it loses.

Bytes are counted by the target. The loss is measured: how far the network's outputs move for real samples when that
tensor alone is changed, its survivors solved by least squares first, as retraining or calibration will move them too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dwindle.compress.knapsack import Option
from dwindle.export.fold import deployable
from dwindle.export.quantize import PALETTES, Stored, store, stored
from dwindle.models.copies import copied
from dwindle.models.inputs import as_fed
from dwindle.models.layerwise.collect import batched, moments_of, require_samples
from dwindle.models.layerwise.least_squares import DAMPING, solve
from dwindle.models.layerwise.lockstep import lockstep
from dwindle.models.layerwise.moments import Moments
from dwindle.models.layerwise.products import Product, product
from dwindle.models.layerwise.samples import spread
from dwindle.models.layerwise.survey import survey
from dwindle.models.signature import outputs_of
from dwindle.record import Choice

if TYPE_CHECKING:
    from torch import nn

    from dwindle.compress.blocks import Blocks
    from dwindle.compress.network import Network
    from dwindle.export.target import Target

WIDTHS = ("fp16", "int8", *PALETTES)
"""The precisions that are chosen from. int4 loses more than a palette of four bits in more bytes (studies/packing)."""
DENSITIES = (1.0, 0.6, 0.35, 0.2, 0.12, 0.07, 0.04)
"""The shares of a tensor that may survive."""
SAMPLES = 256
"""How many samples layers are solved on, at most."""
JUDGED = 64
"""How many of them the outputs are compared on."""


@dataclass(frozen=True)
class Candidate:
    """A tensor at one density and precision."""

    choice: Choice
    held: Stored
    bias: Tensor | None
    """The bias of its layer, which makes up for what it changes on the mean; None where there is none."""
    option: Option
    """Its bytes in the file; its loss, the squared change of the outputs as a share of their variance."""


class Trial:
    """A network as it ships, for measuring what its outputs lose when some of its tensors are changed."""

    def __init__(self, folded: nn.Module, samples: tuple[Tensor, ...]) -> None:
        """folded: what `fold.deployable` returns. samples: real inputs, (N, …)."""
        self._model, self._samples = copied(folded), samples
        self._wanted = self._outputs()

    @torch.no_grad()
    def loss(self, changed: Mapping[str, tuple[Stored, Tensor | None]]) -> float:
        """The squared change of the outputs, as a share of their variance, added up over outputs.

        changed: by the names of tensors what is stored in their place, and the biases of their layers.
        """
        own = dict(self._model.named_parameters())
        new = {name: torch.from_numpy(np.array(held.decoded())) for name, (held, _) in changed.items()}
        new |= {bias_of(name): bias for name, (_, bias) in changed.items() if bias is not None}
        before = {name: own[name].clone() for name in new}
        for name, tensor in new.items():
            own[name].copy_(tensor)
        outputs = self._outputs()
        for name, tensor in before.items():
            own[name].copy_(tensor)
        pairs = zip(outputs, self._wanted, strict=True)
        found = sum(float((one - wanted).square().sum() / _variance(wanted)) for one, wanted in pairs)
        return found if np.isfinite(found) else np.inf

    @torch.no_grad()
    def _outputs(self) -> tuple[Tensor, ...]:
        given = outputs_of(self._model(*self._samples))
        return tuple(one.double() for one in given if one.is_floating_point())


def bias_of(name: str) -> str:
    """The name of the bias beside a weight."""
    return "bias".join(name.rsplit("weight", 1))


def _variance(outputs: Tensor) -> Tensor:
    return (outputs - outputs.mean(0)).square().sum().clamp(min=torch.finfo(torch.float32).tiny)


@torch.no_grad()
def measured(
    network: Network, pruning: Blocks, target: Target, samples: tuple[Tensor, ...]
) -> tuple[dict[str, list[Candidate]], Trial]:
    """The candidates for every tensor that the target can store as codes, by name, and what measured their losses.

    Those of a tensor go from the smallest up, each nearer to what its layer gave than all that are smaller.

    network: trained and dense. pruning: which weights may be pruned. samples: real inputs, of (N, …). Raises UsageError
    where the samples aren't finite, are all the same or don't fit the network, DwindleError with the layer's name where
    what it gives isn't finite.
    """
    samples = spread(tuple(as_fed(tensor) for tensor in samples), SAMPLES)
    require_samples(samples)
    folded = deployable(network.model, network.inputs)
    coded = [name for name, tensor in stored(folded, "int8").items() if tensor.scale is not None]
    pruned = {
        name: weight
        for name, weight in pruning.layers.of(network.model, network.kernels).items()
        if name in coded and weight.shape == folded.get_parameter(name).shape
    }
    trial = Trial(folded, spread(samples, JUDGED))
    found: dict[str, list[Candidate]] = {}
    for name, seen in _layers(folded, coded, samples):
        masks = {share: pruning.alone(pruned[name], share) for share in DENSITIES[1:] if name in pruned}
        found[name] = _front(trial, target, name, seen, {1.0: torch.ones_like(seen.weight, dtype=torch.bool), **masks})
    return {name: found[name] for name in coded}, trial


@dataclass(frozen=True)
class _Seen:
    """A tensor, and what its layer was shown."""

    weight: Tensor
    matrix: Product | None = None
    """None where it is no layer's that can be solved: then the tensor itself is compared."""
    moments: Moments | None = None
    has_bias: bool = False

    def solved(self, mask: Tensor) -> Tensor:
        """The weight under a mask, its survivors where they best give what the dense layer gave."""
        if self.matrix is None or self.moments is None or bool(mask.all()):
            return self.weight * mask
        damping = DAMPING + self.matrix.inputs / self.moments.count
        rows = solve(self._fitted, self.matrix.rows(self.weight), self.matrix.rows(mask), damping).rows
        return self.matrix.weight(rows).float() * mask

    def error(self, tensor: Tensor) -> float:
        """What the layer loses by a tensor in place of its weight."""
        if self.matrix is None or self.moments is None:
            return float((tensor - self.weight).square().sum())
        return float(self._fitted.error(self.matrix.rows(tensor)).sum())

    def bias(self, tensor: Tensor) -> Tensor | None:
        """The bias that makes up for that on the mean."""
        if self.matrix is None or self.moments is None or not self.has_bias:
            return None
        return self.moments.bias(self.matrix.rows(tensor)).flatten().float()

    @property
    def _fitted(self) -> Moments:
        assert self.moments is not None
        return self.moments.centred() if self.has_bias else self.moments


def _front(trial: Trial, target: Target, name: str, seen: _Seen, masks: Mapping[float, Tensor]) -> list[Candidate]:
    """The candidates for one tensor. masks: by the share that survives."""
    tried: dict[tuple[float, str], tuple[float, float, Choice, Stored]] = {}
    for share, mask in masks.items():
        weight = np.ascontiguousarray(seen.solved(mask).numpy())
        for width in WIDTHS:
            held = store(name, weight, width)
            lost = seen.error(torch.from_numpy(np.array(held.decoded())))
            same = share, held.kind or held.values.dtype.name  # short rows have the same bits at several precisions
            tried.setdefault(same, (target.tensor_bytes(held), lost, Choice(width, share), held))
    front: list[Candidate] = []
    nearest = np.inf
    for size, lost, choice, held in sorted(tried.values(), key=lambda one: one[:2]):
        if lost < nearest:
            nearest = lost
            bias = seen.bias(torch.from_numpy(np.array(held.decoded())))
            front.append(Candidate(choice, held, bias, Option(size, trial.loss({name: (held, bias)}))))
    return front


def _layers(folded: nn.Module, coded: list[str], samples: tuple[Tensor, ...]) -> Iterator[tuple[str, _Seen]]:
    """Each tensor with what its layer sees of the samples; first those that no layer can be solved for."""
    found = survey(folded, samples, {name: folded.get_parameter(name) for name in coded})
    for name in coded:
        if name not in found.layers.values():
            yield name, _Seen(folded.get_parameter(name).detach())
    taken = batched(samples, found)
    layers = {name: folded.get_submodule(name) for name in found.layers}
    with lockstep(folded, taken.tensors, layers, "inputs", taken.present) as given:
        for seed, (layer, module) in enumerate(layers.items()):
            shown = given.advance_to(layer)
            matrix, weight = product(module), module.get_parameter("weight").detach()
            assert matrix is not None
            outputs = (type(module).forward(module, one) for one in shown.tensors)
            moments = moments_of(matrix, matrix.rows(weight), shown.tensors, outputs, seed)
            yield found.layers[layer], _Seen(weight, matrix, moments, module._parameters.get("bias") is not None)
        given.advance()
