"""Is an exported file the network it came from? Its packed weights bit for bit, its outputs within rounding.

At fewer bits than fp32 the file is compared with the network of the weights it was given to store, and of the
activations that it rounds: what those cost is another question, `quality`'s.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dwindle.errors import DwindleError, ParityFailed, RuntimeUnavailable, UsageError
from dwindle.export.fold import reason, tensors
from dwindle.export.quantize import quantized, stored
from dwindle.export.target import Calibrated, Target, one_by_one
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

In int8 activations are rounded too, to steps of 1/255 of their range, and what that does to the outputs is the
network's own: some forget it, some amplify it. So `_of_int8` computes it.
"""

_STEP = 1 / 127
"""Of an int8 output, over the largest one: half as much where its range is not symmetric."""


class Compared(NamedTuple):
    """What a comparison found, and what it took: the weights and outputs that `quality` judges."""

    parity: Parity
    held: nn.Module
    """The network of the weights in the file."""
    exact: np.ndarray
    """Outputs of the network in fp32."""
    outputs: np.ndarray
    """Those of the file, or where it can't be run here, of `held`."""


def check(target: Target, path: Path, module: nn.Module, shipped: nn.Module, inputs: tuple[Tensor, ...]) -> Parity:
    """The verdict of `compare`, which raises what it does."""
    return compare(target, path, module, shipped, inputs).parity


def compare(target: Target, path: Path, module: nn.Module, shipped: nn.Module, inputs: tuple[Tensor, ...]) -> Compared:
    """Compares a file with the network it came from.

    module: the checkpoint's network, in eval mode, on the CPU. shipped: what was written of it, batch norm
    folded. inputs: real samples, of which the first SAMPLES are run one at a time.

    Raises ParityFailed, saying which tensor or what difference, where the file is not that network,
    RuntimeUnavailable where nothing here can tell, and UsageError for a precision without a tolerance.
    """
    calibrated = target if isinstance(target, Calibrated) and target.calibrates else None
    if target.arithmetic not in TOLERANCE and not calibrated:
        known = " and ".join(TOLERANCE)
        raise UsageError(f"target {target.name!r} computes in {target.arithmetic}: parity is defined for {known}")
    if calibrated:
        held = calibrated.held(shipped, activations=False)
    else:
        held = quantized(shipped, stored(shipped, target.precision))
    equal = _compare_weights(target, path, held, shipped)
    samples = tuple(tensor[:SAMPLES].cpu().float() for tensor in inputs)
    try:
        outputs = target.run(path, samples)
    except RuntimeUnavailable as error:
        if not equal:
            raise RuntimeUnavailable(f"{error}, and no weights can be read back from {path.name}") from error
        floats = [name for name, tensor in tensors(shipped).items() if tensor.is_floating_point()]
        instead = f"{len(equal)} of {len(floats)} tensors were compared bit for bit instead"
        unknown = Parity(None, None, None, None, 0, len(equal), f"{error}; {instead}")
        return Compared(unknown, held, outputs_of(shipped, samples), outputs_of(held, samples))
    except DwindleError:
        raise
    except Exception as error:  # whatever a runtime makes of a file it can't run
        raise ParityFailed(f"{path.name} does not run: {reason(error)}") from error
    reference = exact = outputs_of(module, samples)
    tolerance = TOLERANCE.get(target.arithmetic, 0.0)
    if target.precision != "fp32":
        # In two steps, then: the rounding of weights must not hide a batch norm wrongly folded.
        exact = outputs_of(shipped, samples)
        _compare_outputs("the network that ships", TOLERANCE["fp32"], exact, reference, 0)
        reference = outputs_of(held, samples)
    if calibrated:
        unrounded, reference = reference, outputs_of(calibrated.held(shipped, activations=True), samples)
        tolerance = _of_int8(path.name, reference, unrounded)
    parity = _compare_outputs(path.name, tolerance, outputs, reference, len(equal))
    return Compared(replace(parity, run_by=getattr(target, "stand_in", None)), held, exact, outputs)


def _of_int8(name: str, reference: np.ndarray, unrounded: np.ndarray) -> float:
    """The tolerance for a file that rounds activations as `reference` does and `unrounded` doesn't, all else equal.

    A file adds int8 products exactly, in integers, where the reference adds them in fp32; both round the sum to the
    same steps at the same places. Only a sum in the middle between two steps may go one way here, the other there.
    At worst, after some layers, such differences make the two roundings independent. Each is then as far from the
    unrounded network as the other, as far as the reference is seen to be: twice that is between them. A step of the
    outputs comes on top, as the farthest of a few may by chance be near. Raises ParityFailed for a network of which
    rounding leaves nothing to compare.
    """
    import numpy as np

    largest = float(np.abs(reference).max()) or 1.0
    tolerance = 2 * float(np.abs(reference - unrounded).max()) / largest + _STEP
    if not tolerance < 1:
        raise ParityFailed(
            f"{name} cannot be told from another network: rounding activations to int8 changes outputs by half of "
            "the largest or more; keep fp32"
        )
    return tolerance


def _compare_weights(target: Target, path: Path, network: nn.Module, shipped: nn.Module) -> list[str]:
    """The names of the tensors that were read back from the file and found equal to those of `network`.

    None of them has a weight where `shipped`, which rounds nothing, has zero.
    """
    import torch

    dtype = torch.float16 if target.arithmetic == "fp16" else torch.float32
    try:
        decoded = target.decode(path, network)
    except Exception as error:  # whatever a parser makes of a damaged file
        raise ParityFailed(f"the weights in {path.name} cannot be read back: {reason(error)}") from error
    held, pruned = tensors(network), tensors(shipped)
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
        if weights.ndim > 1 and (alive := int(((weights != 0) & (pruned[name].numpy() == 0)).sum())):
            raise ParityFailed(f"{path.name} has values for {alive} weights of {name} that were pruned")
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
