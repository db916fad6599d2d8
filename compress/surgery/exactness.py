"""The proof of a cut: the smaller network computes what the whole one computes with the same channels silenced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dwindle.compress.surgery.cut import Keep, masked, packed
from dwindle.errors import ParityFailed

TOLERANCE = 1e-10
"""In float64 a right cut differs by 1e-14 of what a layer gives, a wrong one by more than 1e-2."""

_CLEAN = ("torch.nn.modules.conv", "torch.nn.modules.linear", "torch.nn.modules.batchnorm")


@dataclass(frozen=True)
class Difference:
    """The greatest relative difference, and the first layer where it is beyond the tolerance ("" if nowhere)."""

    error: float
    layer: str


def prove(model: nn.Module, keep: Keep, example_inputs: tuple[Tensor, ...], *, seed: int = 0) -> float:
    """Compares the cut network with the silenced one in float64, on random input of the example's shape. Returns the
    greatest relative difference.

    Raises ParityFailed, naming the layer where the two part, if that is above 1e-10.
    """
    found = difference(model, keep, example_inputs, torch.float64, TOLERANCE, seed)
    if found.layer:
        raise ParityFailed(
            f"removing channels would change what the network computes, first at {found.layer} (relative difference "
            f"{found.error:.1e} in float64): keep that layer whole, or replace an activation before it that does not "
            "give zero for zero"
        )
    return found.error


def difference(
    model: nn.Module,
    keep: Keep,
    example_inputs: tuple[Tensor, ...],
    dtype: torch.dtype | None,
    tolerance: float,
    seed: int = 0,
) -> Difference:
    """Runs both networks in eval mode, in `dtype` or their own, and compares the outputs and what every layer gives:
    a last layer of zeros (a usual start for training) would hide the rest. One that cannot run differs infinitely."""
    generator = torch.Generator().manual_seed(seed)
    inputs = tuple(
        torch.randn(x.shape, generator=generator).to(x.device, dtype or x.dtype) if x.is_floating_point() else x
        for x in example_inputs
    )
    small_energy: dict[str, float] = {}
    try:
        small = _run(packed(model, keep, dtype), inputs, small_energy)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError):  # its code asks for sizes that are gone
        return Difference(float("inf"), f"layer {next(reversed(small_energy), '')!r} or right after it")
    energy: dict[str, float] = {}
    whole = _run(masked(model, keep, dtype), inputs, energy)
    noise = 1e-20 * max(energy.values(), default=0.0)
    apart = {f"layer {n!r}": abs(e - small_energy[n]) / (e + noise or 1.0) for n, e in energy.items()}
    apart["the output"] = max((_relative(a, b) for a, b in zip(whole, small, strict=True)), default=0.0)
    return Difference(max(apart.values()), next((name for name, error in apart.items() if not error <= tolerance), ""))


def _run(model: nn.Module, inputs: tuple[Tensor, ...], energy: dict[str, float]) -> list[Tensor]:
    """The outputs. `energy` gets the sum of squares of what each layer gives, in the order in which they are called:
    silenced channels add nothing to it, so it is the same in both networks."""

    def called(name: str, output: Tensor | None = None) -> None:
        energy[name] = float(output.square().sum()) if output is not None else 0.0

    for name, module in model.named_modules():
        if type(module).__module__ in _CLEAN and next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(lambda module, args, name=name: called(name))
            module.register_forward_hook(lambda module, args, output, name=name: called(name, output))
    with torch.no_grad():
        outputs = tree_leaves(model.eval()(*inputs))
    return [x for x in outputs if isinstance(x, Tensor) and x.is_floating_point()]


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) / (float(a.abs().max()) or 1.0) if a.shape == b.shape else float("inf")
