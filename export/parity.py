"""Whether an exported file is the network it came from: its weights bit for bit, its outputs within rounding.

At fewer bits than fp32 the file is compared with the network of the rounded weights, and of the rounded activations
where the target rounds those. What the rounding itself costs is what `quality` measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dwindle.difference import difference
from dwindle.errors import DwindleError, ParityFailed, RuntimeUnavailable, UsageError, one_line
from dwindle.export.answers import outputs_of
from dwindle.export.fold import tensors
from dwindle.export.roundoff import carried
from dwindle.export.sizes import resized
from dwindle.export.steps import begin
from dwindle.export.target import Outputs, Target
from dwindle.manifest import Parity
from dwindle.models.inputs import as_fed
from dwindle.models.signature import output_names

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

SAMPLES = 64
"""How many inputs a file is run on, at most."""

TOLERANCE = {"fp32": 1e-4, "winograd": 1e-3, "fp16": 2e-2}
"""Largest difference of any output, over the largest output, by what a runtime computes in.

Rounding errors add up like a random walk. In fp32 (ε = 1.2e-7) each of the products summed on the way to an
output may add one: √(100 layers · 5000 products) · ε ≈ 1e-4. In fp16 (ε = 9.8e-4) sums are kept in fp32, and
a layer rounds its weights once and its activations once: √(2 · 100 layers) · ε ≈ 1.4e-2, taken as 2e-2.
Where a network carries rounding further, as sums cancel in it, `roundoff.carried` says how far; that counts up to what
is the tolerance of fp16, and in fp16 up to CARRIED times it.
Functions that kernels approximate (exp, erf, tanh) need nothing on top: of the operators in studies/operators none that
is right is further off than KERNELS in onnxruntime, XNNPACK or LiteRT, which 100 of them in a row make 1e-5.
Winograd's algorithm for 3×3 convolutions in fp32 adds and subtracts large multiples of its inputs, up to eight at a
time, which costs a decimal digit (arXiv 1803.10986): 1e-3.
A wrong layout, a wrong mask or a lost batch norm is off by a large share of 1.

In int8 activations are rounded too, to steps of 1/255 of their range. What that does to the outputs depends on the
network, so `_int8_tolerance` computes it.
"""

CARRIED = 2.5
"""How many times its tolerance a file in fp16 may be off, at most, where its network carries rounding so far, as a
YOLO11n with initial weights does (`studies/real`): 5e-2, where what is wrong is off by a large share of 1."""

KERNELS = 1e-6
"""How far the kernel of one operator in fp32 is off, at most, over its largest output: measured, each by itself."""

UNPROVEN = "unproven"
"""The code of an error that names an operator of a file whose results cannot be computed on this machine."""

_STEP = 1 / 127
"""The step between int8 outputs over the largest one; half as much where their range is not symmetric."""


class Allowed(NamedTuple):
    """How far outputs may be off, over the largest one."""

    explained: float
    """By rounding."""
    given: float | None = None
    """In its place, by `tolerance`."""

    @property
    def most(self) -> float:
        return self.explained if self.given is None else self.given

    def carrying(self, share: float) -> Allowed:
        """As it is for a network that carries rounding in fp32 to that share of its outputs."""
        most = max(TOLERANCE["fp16"], CARRIED * self.explained)
        explained = min(share * self.explained / TOLERANCE["fp32"], most)
        return self._replace(explained=max(self.explained, explained))

    def __str__(self) -> str:
        words = f"rounding explains {self.explained:.0e}"
        return words if self.given is None else f"`tolerance` allows {self.given:g} and {words}"


class Compared(NamedTuple):
    """What a comparison found, and the weights and outputs that it compared, which `quality` judges."""

    parity: Parity
    rounded: nn.Module
    """The network with the weights that the file stores."""
    exact: Outputs
    """The outputs of the network in fp32."""
    outputs: Outputs
    """The outputs of the file; where it cannot be run here, those of `rounded`."""
    names: tuple[str, ...]
    """The names of the outputs."""
    samples: int


def check(
    target: Target,
    path: Path,
    module: nn.Module,
    shipped: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    unproven: bool = False,
    tolerance: float | None = None,
) -> Parity:
    """The `parity` that `compare` finds. Raises as `compare` does."""
    return compare(target, path, module, shipped, inputs, unproven=unproven, tolerance=tolerance).parity


def compare(
    target: Target,
    path: Path,
    module: nn.Module,
    shipped: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    unproven: bool = False,
    tolerance: float | None = None,
) -> Compared:
    """Compares a file with the network it came from.

    module: the checkpoint's network, in eval mode, on the CPU. shipped: what was written of it, batch norm
    folded. inputs: real samples, of which the first SAMPLES are run one at a time. unproven: where nothing here can run
    the file, comparing its weights is enough. tolerance: the most that outputs may differ by, over the largest one;
    None: what rounding explains.

    Raises ParityFailed, saying which tensor, operator or what difference, where the file is not that network, or where
    it has an operator whose results cannot be computed here; RuntimeUnavailable where its runtime is not on this
    machine, or no weights can be read back either; and UsageError for a precision without a tolerance.
    """
    if target.arithmetic not in TOLERANCE and not target.rounds_activations:
        raise UsageError(
            f"target {target.name} computes in {target.arithmetic}, for which parity has no tolerance: it has one "
            f"for {' and '.join(TOLERANCE)}, and for int8 of a target that `rounds_activations`",
            code="no-tolerance",
            name=target.name,
        )
    rounded = target.as_stored(shipped, activations=False)
    begin(f"reading the weights back from {path.name}")
    equal = _compare_weights(target, path, rounded, shipped)
    begin(f"choosing the samples that {path.name} is compared on")
    samples, reference = _telling(module, inputs)
    exact, names = reference, output_names(shipped)
    begin(f"running {path.name} in {target.stand_in or f'the runtime of {target.name}'}")
    try:
        outputs = target.run(path, samples)
    except RuntimeUnavailable as error:
        if not unproven:
            kind = ParityFailed if error.code == UNPROVEN else RuntimeUnavailable
            raise kind(
                f"{error}, so the outputs of {path.name} were not compared: give `unproven` to keep such a file",
                code=error.code,
                name=error.name,
                path=path,
            ) from error
        if not equal:
            raise RuntimeUnavailable(
                f"{error}, and no weights can be read back from {path.name}", code="nothing-to-compare", path=path
            ) from error
        floats = [name for name, tensor in tensors(shipped).items() if tensor.is_floating_point()]
        instead = f"{len(equal)} of {len(floats)} tensors were compared bit for bit instead"
        unknown = Parity(None, None, None, None, 0, len(equal), f"{error}; {instead}")
        exact, outputs = outputs_of(shipped, samples), outputs_of(rounded, samples)
        return Compared(unknown, rounded, exact, outputs, names, len(samples[0]))
    except DwindleError:
        raise
    except Exception as error:  # whatever a runtime makes of a file it can't run
        raise ParityFailed(
            f"{path.name} does not run: {one_line(error, root_cause=True)}", code="not-runnable", path=path
        ) from error
    begin(f"comparing {path.name} with its network")
    explained = dict.fromkeys(names, TOLERANCE.get(target.arithmetic, 0.0))
    if target.precision != "fp32":
        # Two comparisons, so that the rounding of weights cannot hide a wrongly folded batch norm.
        exact = outputs_of(shipped, samples)
        folded = dict.fromkeys(names, Allowed(TOLERANCE["fp32"]))
        _compare_outputs("the network with batch norm folded", folded, exact, reference, samples, module)
        reference = outputs_of(rounded, samples)
    if target.rounds_activations:
        unrounded, reference = reference, outputs_of(target.as_stored(shipped, activations=True), samples)
        pairs = zip(names, reference, unrounded, strict=True)
        explained = {name: _int8_tolerance(path.name, name, here, there) for name, here, there in pairs}
    allowed = {name: Allowed(most, tolerance) for name, most in explained.items()}
    computing = None if target.rounds_activations else rounded
    parity = _compare_outputs(path.name, allowed, outputs, reference, samples, computing)
    sizes = _compare_sizes(target, path, shipped, samples, allowed)
    varied = _variation(reference, len(samples[0]))
    constant = tuple(name for name, most in allowed.items() if varied[names.index(name)] <= most.most)
    parity = replace(parity, weights_equal=len(equal) or None, run_by=target.stand_in, sizes=sizes, constant=constant)
    return Compared(parity, rounded, exact, outputs, names, len(samples[0]))


def _telling(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Outputs]:
    """Samples by which a file can be told from another network, as they are fed, and the network's outputs for them.

    They are the first, or where an output is the same for all of those and there are more, as many from all along.
    """
    import torch

    first = tuple(as_fed(tensor[:SAMPLES]) for tensor in inputs)
    outputs = outputs_of(module, first)
    if len(inputs[0]) > SAMPLES and min(_variation(outputs, SAMPLES)) <= TOLERANCE["fp32"]:
        places = torch.linspace(0, len(inputs[0]) - 1, SAMPLES).long()
        spread = tuple(as_fed(tensor[places]) for tensor in inputs)
        return spread, outputs_of(module, spread)
    return first, outputs


def _variation(outputs: Outputs, samples: int) -> list[float]:
    """How far the samples' values of each output are apart, at most, over its largest value; infinite of one sample."""
    import numpy as np

    if samples < 2:
        return [math.inf for _ in outputs]
    by_sample = [one.reshape(samples, -1).astype(np.float64) for one in outputs]
    return [difference(one.max(0), one.min(0)).absolute / (float(np.abs(one).max()) or 1.0) for one in by_sample]


def _compare_sizes(
    target: Target, path: Path, shipped: nn.Module, samples: tuple[Tensor, ...], allowed: Mapping[str, Allowed]
) -> tuple[str, ...]:
    """The sizes of inputs, in words, at which a file whose sizes vary was compared, beside that of the samples.

    Raises ParityFailed where it doesn't run at one of them, or answers otherwise there.
    """
    network = target.as_stored(shipped, activations=target.rounds_activations)
    compared = []
    for words, batch, inputs in resized(shipped, samples):
        try:
            outputs = target.run(path, inputs, batch=batch)
        except DwindleError:
            raise
        except Exception as error:
            raise ParityFailed(
                f"{path.name} does not run at {words}: {one_line(error, root_cause=True)}",
                code="not-runnable",
                path=path,
            ) from error
        found, reference = f"{path.name} at {words}", outputs_of(network, inputs, batch)
        computing = None if target.rounds_activations else network
        _compare_outputs(found, allowed, outputs, reference, inputs, computing, batch)
        compared.append(words)
    return tuple(compared)


def _int8_tolerance(name: str, output: str, reference: np.ndarray, unrounded: np.ndarray) -> float:
    """The tolerance for an output of a file that rounds activations as `reference` does and `unrounded` doesn't.

    A file adds int8 products exactly, in integers, where the reference adds them in fp32; both round the sums, or what
    the next layer reads, to the same steps at the same places. Only a value in the middle between two steps may go one
    way here, the other there. At worst, after some layers, such differences make the two roundings independent. Each is
    then as far from the unrounded network as the other, as far as the reference is seen to be: twice that is between
    them. A step of the outputs comes on top, as the farthest of a few may by chance be near. Raises ParityFailed for a
    network of which rounding leaves nothing to compare.
    """
    tolerance = 2 * difference(unrounded, reference).relative + _STEP
    if not tolerance < 1:
        raise ParityFailed(
            f"{name} cannot be told from another network, because rounding activations to int8 changes {output} by "
            "half of its largest value or more: keep fp32, or at w8a8 the layers that lose most by `keep_float` auto, "
            "or calibrate on more samples where values go beyond those of a few",
            code="drowned-by-rounding",
            path=name,
            name=output,
        )
    return tolerance


def _compare_weights(target: Target, path: Path, network: nn.Module, shipped: nn.Module) -> list[str]:
    """The names of the tensors that were read back from the file and found equal to those of `network`.

    Raises ParityFailed for one that differs, and for a weight that is zero in `shipped`, which rounds nothing, and not
    in the file.
    """
    import numpy as np
    import torch

    dtype = torch.float16 if target.arithmetic == "fp16" else torch.float32
    try:
        decoded = target.decode(path, network)
    except Exception as error:  # whatever a parser makes of a damaged file
        raise ParityFailed(
            f"the weights in {path.name} cannot be read back: {one_line(error, root_cause=True)}",
            code="unreadable",
            path=path,
        ) from error
    expected_tensors, pruned = tensors(network), tensors(shipped)
    for name, weights in decoded.items():
        tensor = expected_tensors[name]
        if tensor.is_floating_point():
            # What computes in fp32 in a file of fp16 has its weights in fp32.
            wide = weights.dtype == np.float32
            tensor = (
                tensor.to(torch.float32 if wide else dtype) + 0
            )  # + 0: what rounds to a negative zero ships as a positive one
        expected = tensor.numpy()
        if weights.shape != expected.shape:
            raise ParityFailed(
                f"{path.name} has {name} in shape {weights.shape}, not {expected.shape}",
                code="weights-differ",
                name=name,
                path=path,
            )
        if weights.tobytes() != expected.tobytes():
            wrong = int((weights != expected).sum())
            raise ParityFailed(
                f"{path.name} has other values in {wrong} of {weights.size} weights of {name}",
                code="weights-differ",
                name=name,
                path=path,
            )
        if weights.ndim > 1 and (alive := int(((weights != 0) & (pruned[name].numpy() == 0)).sum())):
            raise ParityFailed(
                f"{path.name} has values for {alive} weights of {name} that were pruned",
                code="pruned-weights",
                name=name,
                path=path,
            )
    return list(decoded)


def _compare_outputs(
    name: str,
    allowed: Mapping[str, Allowed],
    outputs: Outputs,
    reference: Outputs,
    samples: tuple[Tensor, ...],
    network: nn.Module | None,
    batch: int = 1,
) -> Parity:
    """The comparison of the output that is nearest to its tolerance, or furthest beyond it.

    name: of the file or network that they are of, for the message. allowed: by the name of each output. network: what
    computes the reference, `batch` of the samples at once, in whose floats rounding is looked at where an output is
    further off than that; None where activations are rounded. Raises ParityFailed where that does not explain it.
    """
    import numpy as np

    shapes, expected = [one.shape for one in outputs], [one.shape for one in reference]
    if shapes != expected:
        raise ParityFailed(
            f"{name} answers in shape {_listed(shapes)}, the checkpoint in {_listed(expected)}",
            code="outputs-differ",
            path=name,
        )
    if odd := [one for one, values in zip(allowed, reference, strict=True) if not np.isfinite(values).all()]:
        raise ParityFailed(
            f"{name} cannot be compared, because the checkpoint's own values of {odd[0]} are not finite",
            code="not-finite",
            path=name,
            name=odd[0],
        )
    pairs = zip(allowed, outputs, reference, strict=True)
    found = {one: difference(ours.astype(theirs.dtype), theirs) for one, ours, theirs in pairs}
    if network is not None and any(found[one].relative > limit.explained for one, limit in allowed.items()):
        shares = carried(network, outputs, reference, samples, batch)
        allowed = {one: limit.carrying(share) for (one, limit), share in zip(allowed.items(), shares, strict=True)}
    worst = max(found, key=lambda one: found[one].relative / (allowed[one].most or 1.0))
    off, limit = found[worst], allowed[worst]
    largest = np.abs(reference[list(found).index(worst)]).max()
    if not off.relative <= limit.most:
        raise ParityFailed(
            f"{name} is off by {off.absolute:.2g} in {worst}, whose values go up to {largest:.2g}: that is "
            f"{off.relative:.1e} of them, where {limit}",
            code="outputs-differ",
            path=name,
            name=worst,
        )
    agreement = top1_agreement(outputs, reference)
    explained = None if limit.given is None else limit.explained
    return Parity(*off, limit.most, agreement, len(samples[0]), None, explained=explained, output=worst)


def top1_agreement(outputs: Outputs, reference: Outputs) -> float | None:
    """The share of samples whose largest output is the same; None unless there is one output, of scores by class."""
    if len(reference) != 1 or reference[0].ndim != 2:
        return None
    return float((outputs[0].argmax(1) == reference[0].argmax(1)).mean())


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes))
