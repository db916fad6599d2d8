"""What fewer bits per weight cost: a file compared with the same network in fp32, by tensor and as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwindle.export.fold import tensors
from dwindle.export.parity import Compared, top1_agreement
from dwindle.manifest import Quality

if TYPE_CHECKING:
    from torch import nn


def quality(shipped: nn.Module, precision: str, compared: Compared) -> Quality | None:
    """What a precision lost; None for fp32, which loses nothing.

    shipped: what `fold.deployable` returns. compared: what `parity.compare` found of its file.
    """
    if precision == "fp32":
        return None
    rounded = tensors(compared.rounded)
    ratios = {name: sqnr(tensor.numpy(), rounded[name].numpy()) for name, tensor in tensors(shipped).items()}
    exact, outputs = compared.exact, compared.outputs
    each = {name: sqnr(*pair) for name, *pair in zip(compared.names, exact, outputs, strict=True)}
    lost = {name: ratio for name, ratio in each.items() if ratio is not None}
    return Quality(
        sqnr=min(lost.values(), default=None),
        top1_agreement=top1_agreement(outputs, exact),
        samples=compared.samples,
        tensors={name: ratio for name, ratio in ratios.items() if ratio is not None},
        outputs=lost,
    )


def sentence(found: Quality, precision: str) -> str:
    """The same as one line for people."""
    if found.sqnr is None:
        return f"{precision} changes no output"
    if not found.tensors:
        return f"{precision} changes no weight: SQNR of the outputs {found.sqnr:.1f} dB"
    name, ratio = min(found.tensors.items(), key=lambda entry: entry[1])
    outputs = f"{found.sqnr:.1f} dB"
    if len(found.outputs) > 1:
        outputs += f" or more ({min(found.outputs, key=lambda one: found.outputs[one])})"
    agreement = ""
    if found.top1_agreement is not None:
        agreement = f"; {found.top1_agreement:.1%} of {found.samples} samples in the same class"
    weights = f"{ratio:.1f} dB or more ({name})"
    return f"{precision} against fp32: SQNR of the outputs {outputs}, of weights {weights}{agreement}"


def sqnr(exact: NDArray[Any], approximate: NDArray[Any]) -> float | None:
    """The signal to quantisation noise ratio in decibels; None where nothing was lost, or there is no signal."""
    finite = np.isfinite(exact)  # an infinity, as in a causal mask, is kept or lost, and neither is noise
    exact, approximate = exact[finite], approximate[finite]
    signal = np.square(exact, dtype=np.float64).sum()
    noise = np.square(np.subtract(exact, approximate, dtype=np.float64)).sum()
    return float(10 * np.log10(signal / noise)) if noise and signal else None
