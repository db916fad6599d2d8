"""The proof of a cut: the smaller network computes what the whole one computes with the same channels silenced."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dwindle.compress.surgery.cut import Keep, masked, packed
from dwindle.errors import ParityFailed, UsageError, one_line

TOLERANCE = 1e-10
"""In float64 a right cut differs by 1e-14 of what a layer gives, a wrong one by more than 1e-2."""

_ROUNDING = {torch.float64: TOLERANCE, torch.float32: 1e-4}
"""The same for a network that rounds to a lower precision on the way; the rest is 16 bits wide."""

_COARSE = 5e-2

_CLEAN = ("torch.nn.modules.conv", "torch.nn.modules.linear", "torch.nn.modules.batchnorm")

Sample = tuple[Tensor, ...]


@dataclass(frozen=True)
class Difference:
    """The greatest relative difference, and the first layer where it is beyond the tolerance ("" if nowhere)."""

    error: float
    layer: str
    dtype: torch.dtype = torch.float64
    """The lowest precision that the networks computed in."""
    outputs: float = float("inf")
    """The greatest relative difference of the network's outputs."""


def prove(model: nn.Module, keep: Keep, example_inputs: Sample, *, seed: int = 0) -> float:
    """Compares the cut network with the silenced one on the example inputs, in float64: whole numbers as they are,
    floats with noise added. Returns the greatest relative difference.

    A network that does not run in float64, or rounds to float32 on the way, is compared as closely as float32 allows.
    Raises ParityFailed, naming the layer where the two part, if the difference is above 1e-10 (1e-4 in float32), and
    UsageError where the network does not run on the example inputs or answers with NaN.
    """
    found = difference(model, keep, example_inputs, (torch.float64, None), seed)
    if found.layer:
        raise ParityFailed(
            f"removing channels would change what the network computes, first at {found.layer} (relative difference "
            f"{found.error:.1e} in {str(found.dtype).removeprefix('torch.')}): keep that layer whole, or replace an "
            "activation before it that does not give zero for zero",
            code="inexact-cut",
            name=found.layer,
        )
    return found.error


def agrees(model: nn.Module, keep: Keep, example_inputs: Sample) -> bool:
    """Whether the cut network computes the right thing: a quick look in the model's own precision, and a second one in
    float64 where that is too coarse to tell."""
    found = difference(model, keep, example_inputs, (None,))
    if (found.layer and found.error < float("inf")) or found.dtype not in _ROUNDING:
        found = difference(model, keep, example_inputs, (torch.float64, None))
    return not found.layer


def runs(model: nn.Module, keep: Keep, example_inputs: Sample) -> bool:
    """Whether the cut network runs and gives numbers in the shapes of the whole one: all that there is to be asked of
    an inexact cut."""
    return math.isfinite(difference(model, keep, example_inputs, (None,)).outputs)


def difference(
    model: nn.Module, keep: Keep, example_inputs: Sample, dtypes: tuple[torch.dtype | None, ...], seed: int = 0
) -> Difference:
    """Runs both networks in eval mode, in the first of `dtypes` in which the silenced one runs (None: the model's
    own), and compares the outputs and what every layer gives: a last layer of zeros (a usual start for training) would
    hide the rest. A cut network that does not run differs infinitely."""
    silenced = _silenced(model, keep, example_inputs, dtypes, seed)
    if silenced is None:  # what is silenced is divided by, say
        return Difference(float("inf"), "the output")
    whole, sample, dtype = silenced
    small = _Run()
    try:
        small.run(packed(model, keep, dtype), sample)
    except Exception:  # whatever its code raises that asks for sizes which are gone
        place = f"layer {next(reversed(small.energy), '')!r} or right after it"
        return Difference(float("inf"), place, whole.dtype)
    noise = 1e-20 * max(filter(math.isfinite, whole.energy.values()), default=0.0)
    apart = {f"layer {n!r}": _apart(e, small.energy.get(n, 0.0), noise) for n, e in whole.energy.items()}
    pairs = zip(whole.outputs, small.outputs, strict=True)
    apart["the output"] = max((_relative(a, b) for a, b in pairs), default=0.0)
    tolerance = _ROUNDING.get(whole.dtype, _COARSE)
    first = next((name for name, error in apart.items() if not error <= tolerance), "")
    return Difference(max(apart.values()), first, whole.dtype, apart["the output"])


def _silenced(
    model: nn.Module, keep: Keep, example_inputs: Sample, dtypes: tuple[torch.dtype | None, ...], seed: int
) -> tuple[_Run, Sample, torch.dtype | None] | None:
    """The run of the silenced network, on what, and in which precision; None where only the dense network answers with
    numbers."""
    problem = ""
    for dtype in dtypes:
        silenced = masked(model, keep, dtype)
        for sample in _samples(example_inputs, seed):
            cast = tuple(x.to(dtype) if dtype is not None and x.is_floating_point() else x for x in sample)
            run = _Run()
            try:
                run.run(silenced, cast)
            except Exception as error:  # whatever the model's code raises
                problem = one_line(error)
                continue
            if run.finite:
                return run, cast, dtype
            problem = "it answers with numbers that are not finite"
    if keep.tensors and _silenced(model, Keep({}), example_inputs, dtypes, seed):
        return None
    raise UsageError(
        f"the network can't be compared with a smaller one, as it does not run on the example inputs ({problem}): give "
        "example inputs that it takes",
        code="bad-sample",
        name="example_inputs",
    )


def _samples(example_inputs: Sample, seed: int) -> Iterator[Sample]:
    """The example inputs with as much noise in the floats as they vary, so that no channel is idle; then as they are,
    for a mask, or a number that stands for something else."""
    generator = torch.Generator().manual_seed(seed)
    yield tuple(_noisy(x, generator) if x.is_floating_point() else x for x in example_inputs)
    yield example_inputs


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    """Values that no noise would reach, such as the lowest there is in a mask, stay."""
    spread = x.double().std(correction=0)
    scale = float(spread) if 0 < float(spread) < 1e6 else 1.0
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    return torch.where(x.abs() < 1e6, (x + scale * noise).to(x.dtype), x)


@dataclass
class _Run:
    """One forward pass. `energy` gets the sum of squares of what each layer gives, in the order in which they are
    called: silenced channels add nothing to it, so it is the same in both networks."""

    energy: dict[str, float] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)
    dtype: torch.dtype = torch.float64
    """The lowest precision on the way."""

    def run(self, model: nn.Module, inputs: Sample) -> None:
        for name, module in model.named_modules():
            if type(module).__module__ in _CLEAN and next(module.parameters(recurse=False), None) is not None:
                module.register_forward_pre_hook(lambda module, args, name=name: self._called(name))
                module.register_forward_hook(lambda module, args, output, name=name: self._called(name, output))
        floats = [x.dtype for x in (*model.parameters(), *inputs) if x.is_floating_point()]
        precision = _Precision(max(floats, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64))
        with torch.no_grad(), torch.random.fork_rng(devices=[]), precision:
            torch.manual_seed(0)
            outputs = tree_leaves(model.eval()(*inputs))
        self.outputs = [x for x in outputs if isinstance(x, Tensor) and x.is_floating_point()]
        self.dtype = precision.lowest

    @property
    def finite(self) -> bool:
        return not any(bool(x.isnan().any()) for x in self.outputs)

    def _called(self, name: str, output: Tensor | None = None) -> None:
        self.energy[name] = float(output.double().square().sum()) if isinstance(output, Tensor) else 0.0


class _Precision(TorchDispatchMode):
    """Notes the lowest precision that numbers are rounded to on the way."""

    def __init__(self, start: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lowest = start

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        coarse = max(map(_eps, tree_leaves(result)), default=0.0)
        if coarse > torch.finfo(self.lowest).eps and any(0 < _eps(x) < coarse for x in tree_leaves(args)):
            self.lowest = next(x.dtype for x in tree_leaves(result) if _eps(x) == coarse)
        return result


def _eps(value: Any) -> float:
    """The relative precision of a float tensor; 0 for anything else."""
    return torch.finfo(value.dtype).eps if isinstance(value, Tensor) and value.is_floating_point() else 0.0


def _apart(a: float, b: float, noise: float) -> float:
    """The relative difference of two sums of squares, which may be infinite."""
    return 0.0 if a == b else abs(a - b) / (a + noise or 1.0) if math.isfinite(a) and math.isfinite(b) else float("inf")


def _relative(a: Tensor, b: Tensor) -> float:
    """The greatest difference, relative to the greatest finite value; what is infinite has to be the same."""
    if a.shape != b.shape:
        return float("inf")
    difference = torch.where(a == b, 0.0, (a - b).abs())
    return (
        float(difference.max()) / (float(a[a.isfinite()].abs().max()) or 1.0)
        if a.isfinite().any()
        else float(difference.any())
    )
