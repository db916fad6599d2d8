"""Is an exported file the network it came from? Its packed weights bit for bit, its outputs within rounding.

At fewer bits than fp32 the file is compared with the network of the weights it was given to store: what those
cost is another question, `quality`'s.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.errors import DwindleError, ParityFailed, RuntimeUnavailable, UsageError
from dwindle.export.fold import reason, tensors
from dwindle.export.quantize import quantized, stored
from dwindle.export.target import Target, one_by_one
from dwindle.manifest import Parity

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

SAMPLES = 64

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest difference of any output, over the largest output, by what a runtime computes in.

Rounding errors add up like a random walk. In fp32 (ε = 1.2e-7) each of the products summed on the way to an
output may add one: √(100 layers · 5000 products) · ε ≈ 1e-4. In fp16 (ε = 9.8e-4) sums are kept in fp32, and
a layer rounds its weights once and its activations once: √(2 · 100 layers) · ε ≈ 1.4e-2, taken as 2e-2.
A wrong layout, a wrong mask or a lost batch norm is off by a large share of 1.
"""


def check(target: Target, path: Path, module: nn.Module, shipped: nn.Module, inputs: tuple[Tensor, ...]) -> Parity:
    """Compares a file with the network it came from.

    module: the checkpoint's network, in eval mode, on the CPU. shipped: what was written of it, batch norm
    folded. inputs: real samples, of which the first SAMPLES are run one at a time.

    Raises ParityFailed, saying which tensor or what difference, where the file is not that network,
    RuntimeUnavailable where nothing here can tell, and UsageError for a precision without a tolerance.
    """
    if target.arithmetic not in TOLERANCE:
        known = " and ".join(TOLERANCE)
        raise UsageError(f"target {target.name!r} computes in {target.arithmetic}: parity is defined for {known}")
    held = quantized(shipped, stored(shipped, target.precision))
    equal = _compare_weights(target, path, held)
    samples = tuple(tensor[:SAMPLES].cpu().float() for tensor in inputs)
    try:
        outputs = target.run(path, samples)
    except RuntimeUnavailable as error:
        if not equal:
            raise RuntimeUnavailable(f"{error}, and no weights can be read back from {path.name}") from error
        floats = [name for name, tensor in tensors(shipped).items() if tensor.is_floating_point()]
        instead = f"{len(equal)} of {len(floats)} tensors were compared bit for bit instead"
        return Parity(None, None, None, None, 0, len(equal), f"{error}; {instead}")
    except DwindleError:
        raise
    except Exception as error:  # whatever a runtime makes of a file it can't run
        raise ParityFailed(f"{path.name} does not run: {reason(error)}") from error
    reference = outputs_of(module, samples)
    if target.precision != "fp32":
        # In two steps, then: the rounding of weights must not hide a batch norm wrongly folded.
        _compare_outputs("the network that ships", TOLERANCE["fp32"], outputs_of(shipped, samples), reference, 0)
        reference = outputs_of(held, samples)
    compared = _compare_outputs(path.name, TOLERANCE[target.arithmetic], outputs, reference, len(equal))
    return replace(compared, run_by=getattr(target, "stand_in", None))


def _compare_weights(target: Target, path: Path, network: nn.Module) -> list[str]:
    """The names of the tensors that were read back from the file and found equal."""
    import torch

    dtype = {"fp32": torch.float32, "fp16": torch.float16}[target.arithmetic]
    try:
        decoded = target.decode(path, network)
    except Exception as error:  # whatever a parser makes of a damaged file
        raise ParityFailed(f"the weights in {path.name} cannot be read back: {reason(error)}") from error
    held = tensors(network)
    for name, weights in decoded.items():
        tensor = held[name]
        if tensor.is_floating_point():
            tensor = tensor.to(dtype) + 0  # + 0: what rounds to a negative zero ships as a positive one
        expected = tensor.numpy()
        if weights.shape != expected.shape:
            raise ParityFailed(f"{path.name} has {name} in shape {weights.shape}, not {expected.shape}")
        if weights.tobytes() != expected.tobytes():
            wrong = int((weights != expected).sum())
            raise ParityFailed(f"{path.name} has other values in {wrong} of {weights.size} weights of {name}")
    return list(decoded)


def outputs_of(module: nn.Module, samples: tuple[Tensor, ...]) -> np.ndarray:
    """A network's outputs, joined along dimension 0; raises UsageError where they aren't one tensor each."""
    import torch

    def infer(sample: list[np.ndarray]) -> np.ndarray:
        output = module(*map(torch.from_numpy, sample))
        if not isinstance(output, torch.Tensor):
            raise UsageError(f"{type(module).__name__} returns a {type(output).__name__}: export takes one tensor")
        return output.numpy()

    with torch.no_grad():
        return one_by_one(infer, samples)


def _compare_outputs(name: str, tolerance: float, outputs: np.ndarray, reference: np.ndarray, equal: int) -> Parity:
    import numpy as np

    if outputs.shape != reference.shape:
        raise ParityFailed(f"{name} answers in shape {outputs.shape}, the checkpoint in {reference.shape}")
    if not np.isfinite(reference).all():
        raise ParityFailed(f"{name} cannot be compared: the checkpoint's own outputs are not finite")
    outputs = outputs.astype(reference.dtype)
    largest = float(np.abs(reference).max())
    difference = float(np.abs(outputs - reference).max())
    relative = difference / largest if largest else difference
    if not relative <= tolerance:  # a NaN fails too
        raise ParityFailed(
            f"{name} is off by {difference:.2g} on outputs of up to {largest:.2g}: "
            f"{relative:.1e} of them, where rounding explains {tolerance:.0e}"
        )
    samples = len(reference)
    agree = outputs.reshape(samples, -1).argmax(1) == reference.reshape(samples, -1).argmax(1)
    return Parity(difference, relative, tolerance, float(agree.mean()), samples, equal or None)
