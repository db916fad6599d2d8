"""What a network's forward pass is like, from one batch: which layers can be solved, in which order, and why others
can't; and whether the samples are such as the network was trained on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from dwindle.errors import DwindleError, UsageError, one_line
from dwindle.models.layerwise.made import Made
from dwindle.models.layerwise.parts import Part
from dwindle.models.layerwise.products import mismatch, product
from dwindle.models.layerwise.samples import spread
from dwindle.models.modes import in_mode

SURVEYED = 64
"""How many samples are looked at, evenly spread over all."""
WIDEST = 16384
"""Inputs of a layer, at most: their Gram matrix takes 2.1 GB in float64, and its Cholesky factor as much again."""
CLOSE = 1e-2
"""Over the largest output: a layer is the matrix product that it seems to be where it is nearer than that."""
SHIFT, SCALE = 1.0, 4.0
"""Samples are called unlike what the network was trained on where, over half of a batch norm's channels, the mean is
off by more than SHIFT of its standard deviations, or the variance by more than a factor of SCALE. Samples of the
training split, augmented or not, stay within a third of both."""


@dataclass(frozen=True)
class Survey:
    """One forward pass, described."""

    layers: dict[str, str]
    """The layers that can be solved, by name, in the order in which they run, and the name of the weight of each."""
    left: dict[str, str]
    """The weights that can't, by parameter name, and why."""
    before_norm: frozenset[str]
    """The layers whose output goes straight into a batch norm, which takes away its mean and scale."""
    held: dict[str, int]
    """By layer of `layers`: the most bytes per sample that the forward pass holds on to at it or at a later one. Never
    more than at one before it."""
    notes: tuple[str, ...]


def survey(model: nn.Module, inputs: tuple[Tensor, ...], matrices: Mapping[str, Tensor]) -> Survey:
    """Surveys `model`, in eval mode. `inputs`: samples, one tensor for each argument, (N, …). `matrices`: the
    weights that are to be solved, the model's own parameters by name.

    Raises UsageError where the samples aren't finite, are all the same or don't fit the model, DwindleError with the
    layer's name where one makes what isn't finite of them.
    """
    batch = spread(inputs, SURVEYED)
    for tensor in batch:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UsageError("the calibration samples hold numbers that are not finite: mend or remove them")
    if len(batch[0]) > 1 and all(bool((tensor == tensor[:1]).all()) for tensor in batch):
        raise UsageError(
            "the calibration samples are all the same: give samples as different as those that the network will meet"
        )
    seen = _Seen()
    _run(model, batch, seen)
    weights = {id(weight): name for name, weight in matrices.items()}
    owners = Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module._parameters.values()
        if parameter is not None and not isinstance(module, Part)
    )
    layers: dict[str, str] = {}
    uncalled = "the forward pass doesn't call its layer: either nothing computes with it, or a function does"
    left = dict.fromkeys(weights.values(), uncalled)
    modules = {module: name for name, module in model.named_modules()}
    for module, calls in seen.calls.items():
        for own, value in module._parameters.items():
            if own != "weight" and weights.get(id(value)) in left:  # no part of it has been solved
                left[weights[id(value)]] = f"{type(module).__name__} computes with more than one weight"
        if id(module._parameters.get("weight")) not in weights:
            continue
        name, found = modules[module], product(module)
        parameter = weights[id(module.weight)]
        if isinstance(module, nn.Embedding):
            left.pop(parameter, None)  # its rows are looked up: what is left of them is best as it is
        elif found is None:
            left[parameter] = f"{type(module).__name__} is no layer that multiplies its inputs by its weight"
        elif owners[id(module.weight)] > 1:
            left[parameter] = "several layers share it"
        elif calls > 1:
            left[parameter] = f"its layer is called {calls} times in one forward pass"
        elif module in seen.otherwise:
            left[parameter] = f"{type(module).__name__} computes something else than its weight times its inputs"
        elif found.inputs > WIDEST:
            left[parameter] = f"its layer has {found.inputs:,} inputs, and moments of at most {WIDEST:,} fit in memory"
        else:
            layers[name] = parameter
            del left[parameter]
    before_norm = frozenset(modules[module] for module in seen.before_norm)
    held = seen.most_held_from({module: name for module, name in modules.items() if name in layers}, len(batch[0]))
    return Survey(layers, left, before_norm, held, tuple(seen.notes(modules)))


@dataclass
class _Seen:
    """What hooks saw of one forward pass."""

    calls: Counter[nn.Module] = field(default_factory=Counter)
    before_norm: set[nn.Module] = field(default_factory=set)
    far: list[nn.Module] = field(default_factory=list)
    otherwise: set[nn.Module] = field(default_factory=set)
    """Layers that compute something else than the matrix product that their class suggests."""
    last: tuple[nn.Module, ReferenceType[Tensor]] | None = None
    """The last layer with a weight that ran, and its output."""
    made: Made = field(default_factory=Made)
    held: list[tuple[nn.Module, int]] = field(default_factory=list)
    """What the forward pass held on to at each batch norm's start and each other layer's end, in bytes."""

    def most_held_from(self, layers: Mapping[nn.Module, str], samples: int) -> dict[str, int]:
        """As `Survey.held` says. `samples`: in the batch that was seen."""
        most, found = 0, dict[str, int]()
        for module, held in reversed(self.held):
            most = max(most, math.ceil(held / samples))
            if module in layers:
                found[layers[module]] = most
        return dict(reversed(found.items()))

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and args:
            self.held.append((module, self.made.alive()))
            if self.last is not None and self.last[1]() is args[0]:
                self.before_norm.add(self.last[0])
            if module.running_mean is not None and _far(module, args[0]):
                self.far.append(module)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.calls[module] += 1
        matrix = product(module)
        whole = bool(args) and _is_batch(args[0]) and _is_batch(output)
        if matrix is not None:
            self.held.append((module, self.made.alive()))
        if matrix is not None and whole and not mismatch(matrix, module, args[0], output) < CLOSE:
            self.otherwise.add(module)
        if isinstance(module._parameters.get("weight"), nn.Parameter) and _is_batch(output):
            self.last = (module, ref(output))

    def notes(self, modules: dict[nn.Module, str]) -> list[str]:
        if not self.far:
            return []
        return [
            f"the samples are unlike what the network was trained on: their statistics at {modules[self.far[0]]} are "
            "far from those that it holds, so give inputs normalised as in training"
        ]


def _run(model: nn.Module, batch: tuple[Tensor, ...], seen: _Seen) -> None:
    names = {module: name or type(module).__name__ for name, module in model.named_modules()}

    def enter(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.enter(module, (*args, *named.values()))

    def leave(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if isinstance(output, Tensor) and next(module.children(), None) is None and not output.isfinite().all():
            raise DwindleError(
                f"{names[module]} gives what is not finite for the calibration samples: mend its weights, or the "
                "samples' scale",
                code="not-finite",
                name=names[module],
            )
        seen.leave(module, (*args, *named.values()), output)

    handles = [
        hook
        for module in names
        for hook in (
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True),
        )
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), in_mode(model, training=False), seen.made:
            model(*batch)
    except DwindleError:
        raise
    except Exception as error:  # whatever a model makes of inputs that it can't take
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in batch)
        raise UsageError(f"the model can't take the calibration samples, {shapes} ({one_line(error)})") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


def _is_batch(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.dim() > 0


def _far(norm: nn.modules.batchnorm._BatchNorm, inputs: Tensor) -> bool:
    """Whether the inputs' statistics are far from the norm's own; never for one that was not trained."""
    if inputs.dim() < 2 or inputs.numel() // inputs.shape[1] < 32:
        return False
    over = tuple(dim for dim in range(inputs.dim()) if dim != 1)
    variance, mean = torch.var_mean(inputs.float(), over)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    own = norm.running_var.float() + norm.eps
    shift = (mean - norm.running_mean).abs() / own.sqrt()
    scale = ((variance + norm.eps) / own).log().abs().exp()
    return float(shift.median()) > SHIFT or float(scale.median()) > SCALE
