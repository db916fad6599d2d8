"""Whether an exported file is the network it came from: its weights bit for bit, its outputs within rounding.

At fewer bits than fp32 the file is compared with the network of the rounded weights, and of the rounded activations
where the target rounds those. What the rounding itself costs is what `quality` measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dwindle.difference import difference
from dwindle.errors import DwindleError, ParityFailed, RuntimeUnavailable, UsageError, one_line
from dwindle.export.fold import tensors
from dwindle.export.steps import begin
from dwindle.export.target import Target, one_by_one
from dwindle.manifest import Parity
from dwindle.models.inputs import as_fed

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
Winograd's algorithm for 3×3 convolutions in fp32 adds and subtracts large multiples of its inputs, up to eight at a
time, which costs a decimal digit (arXiv 1803.10986): 1e-3.
A wrong layout, a wrong mask or a lost batch norm is off by a large share of 1.

In int8 activations are rounded too, to steps of 1/255 of their range. What that does to the outputs depends on the
network, so `_int8_tolerance` computes it.
"""

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

    def __str__(self) -> str:
        words = f"rounding explains {self.explained:.0e}"
        return words if self.given is None else f"`tolerance` allows {self.given:g} and {words}"


class Compared(NamedTuple):
    """What a comparison found, and the weights and outputs that it compared, which `quality` judges."""

    parity: Parity
    rounded: nn.Module
    """The network with the weights that the file stores."""
    exact: np.ndarray
    """The outputs of the network in fp32, shape (samples, …)."""
    outputs: np.ndarray
    """The outputs of the file; where it cannot be run here, those of `rounded`."""


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
    if target.arithmetic not in TOLERANCE and not target.calibrates:
        raise UsageError(
            f"target {target.name} computes in {target.arithmetic}, for which parity has no tolerance: it has one "
            f"for {' and '.join(TOLERANCE)}, and for int8 of a target that `calibrates`",
            code="no-tolerance",
            name=target.name,
        )
    rounded = target.as_stored(shipped, activations=False)
    begin(f"reading the weights back from {path.name}")
    equal = _compare_weights(target, path, rounded, shipped)
    samples = tuple(as_fed(tensor[:SAMPLES]) for tensor in inputs)
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
        return Compared(unknown, rounded, outputs_of(shipped, samples), outputs_of(rounded, samples))
    except DwindleError:
        raise
    except Exception as error:  # whatever a runtime makes of a file it can't run
        raise ParityFailed(
            f"{path.name} does not run: {one_line(error, root_cause=True)}", code="not-runnable", path=path
        ) from error
    begin(f"comparing {path.name} with its network")
    reference = exact = outputs_of(module, samples)
    explained = TOLERANCE.get(target.arithmetic, 0.0)
    if target.precision != "fp32":
        # Two comparisons, so that the rounding of weights cannot hide a wrongly folded batch norm.
        exact = outputs_of(shipped, samples)
        _compare_outputs("the network with batch norm folded", Allowed(TOLERANCE["fp32"]), exact, reference, 0)
        reference = outputs_of(rounded, samples)
    if target.calibrates:
        unrounded, reference = reference, outputs_of(target.as_stored(shipped, activations=True), samples)
        explained = _int8_tolerance(path.name, reference, unrounded)
    parity = _compare_outputs(path.name, Allowed(explained, tolerance), outputs, reference, len(equal))
    return Compared(replace(parity, run_by=target.stand_in), rounded, exact, outputs)


def _int8_tolerance(name: str, reference: np.ndarray, unrounded: np.ndarray) -> float:
    """The tolerance for a file that rounds activations as `reference` does and `unrounded` doesn't, all else equal.

    A file adds int8 products exactly, in integers, where the reference adds them in fp32; both round the sum to the
    same steps at the same places. Only a sum in the middle between two steps may go one way here, the other there.
    At worst, after some layers, such differences make the two roundings independent. Each is then as far from the
    unrounded network as the other, as far as the reference is seen to be: twice that is between them. A step of the
    outputs comes on top, as the farthest of a few may by chance be near. Raises ParityFailed for a network of which
    rounding leaves nothing to compare.
    """
    tolerance = 2 * difference(unrounded, reference).relative + _STEP
    if not tolerance < 1:
        raise ParityFailed(
            f"{name} cannot be told from another network, because rounding activations to int8 changes outputs by half "
            "of the largest one or more: keep fp32",
            code="drowned-by-rounding",
            path=name,
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


def require_finite(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raises UsageError where a network's own outputs are not finite, naming the first module that makes them so.

    module: in eval mode, on the CPU. inputs: real samples, of which the first SAMPLES are run one at a time.
    """
    import numpy as np
    import torch

    samples = tuple(as_fed(tensor[:SAMPLES]) for tensor in inputs)
    if np.isfinite(outputs_of(module, samples)).all():
        return
    first: list[str] = []

    def look(path: str, layer: nn.Module) -> Callable[..., None]:
        def looked(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            whole = all(one.isfinite().all() for one in given if isinstance(one, torch.Tensor))
            if whole and isinstance(output, torch.Tensor) and not output.isfinite().all():
                first.append(f"{path} ({type(layer).__name__})")

        return looked

    hooks = [
        layer.register_forward_hook(look(path, layer))
        for path, layer in module.named_modules()
        if path and not list(layer.children())
    ]
    try:
        with torch.no_grad():
            outputs_of(module, samples)
    finally:
        for hook in hooks:
            hook.remove()
    cause = f": {first[0]} is the first to make them so" if first else ""
    raise UsageError(
        f"the outputs of {type(module).__name__} itself are not finite on the task's inputs{cause}",
        code="not-finite",
        name=first[0].partition(" ")[0] if first else type(module).__name__,
    )


def outputs_of(module: nn.Module, samples: tuple[Tensor, ...]) -> np.ndarray:
    """A network's outputs, joined along dimension 0; raises UsageError where they aren't one tensor each."""
    import torch

    def infer(sample: list[np.ndarray]) -> np.ndarray:
        output = module(*map(torch.from_numpy, sample))
        if not isinstance(output, torch.Tensor):
            name = type(module).__name__
            raise UsageError(
                f"{name} returns a {type(output).__name__}, and export takes a network that returns one tensor",
                code="not-one-tensor",
                name=name,
            )
        return output.numpy()

    with torch.no_grad():
        return one_by_one(infer, samples)


def _compare_outputs(name: str, allowed: Allowed, outputs: np.ndarray, reference: np.ndarray, equal: int) -> Parity:
    """Raises ParityFailed where outputs differ from the reference by more than is allowed, over its largest one.

    name: of the file or network that they are of, for the message. equal: how many tensors were found equal before.
    """
    import numpy as np

    if outputs.shape != reference.shape:
        raise ParityFailed(
            f"{name} answers in shape {outputs.shape}, the checkpoint in {reference.shape}",
            code="outputs-differ",
            path=name,
        )
    if not np.isfinite(reference).all():
        raise ParityFailed(
            f"{name} cannot be compared, because the checkpoint's own outputs are not finite",
            code="not-finite",
            path=name,
        )
    outputs = outputs.astype(reference.dtype)
    found = difference(outputs, reference)
    if not found.relative <= allowed.most:
        raise ParityFailed(
            f"{name} is off by {found.absolute:.2g} on outputs of up to {np.abs(reference).max():.2g}, which is "
            f"{found.relative:.1e} of them, where {allowed}",
            code="outputs-differ",
            path=name,
        )
    samples = len(reference)
    agree = outputs.reshape(samples, -1).argmax(1) == reference.reshape(samples, -1).argmax(1)
    explained = None if allowed.given is None else allowed.explained
    return Parity(*found, allowed.most, float(agree.mean()), samples, equal or None, explained=explained)
