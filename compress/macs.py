"""Multiply-accumulates of a network, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torchvision  # noqa: F401  registers its operators
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from dwindle.errors import UsageError, one_line
from dwindle.models.copies import copied


@dataclass(frozen=True)
class Count:
    """What one forward pass costs, and what of it is not known."""

    layers: dict[str, int]
    """Multiply-accumulates by layer, those of layers inside it not included; the sum is the whole network's."""
    uncounted: tuple[str, ...]
    """The operators that take two tensors or more, as a product does, and whose cost nobody knows."""
    kernels: tuple[str, ...] = ()
    """The parameters that activations are multiplied by as they are, by name: matrices, kernels, tables of rows."""


def macs(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Returns the multiply-accumulates of one forward pass in eval mode, by layer: see `count`."""
    return count(model, example_inputs).layers


def count(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Count:
    """Counts the multiply-accumulates of one forward pass in eval mode.

    Convolutions and matrix products are counted, attention and recurrent layers included, as
    `torch.utils.flop_counter` counts them; pointwise work, pooling, norms and Fourier transforms are not. The model is
    left alone: a copy of it runs, on tensors without data, or on the sample itself where its forward looks at values.
    Raises UsageError for a model that can't take the sample.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with suppress(Exception):  # a forward that looks at values finds none
        light = copied(model, lambda name, tensor: fake.from_tensor(tensor.detach()) if name else tensor.detach())
        return _count(light, tuple(fake.from_tensor(x) for x in example_inputs), fake)
    try:
        return _count(copied(model), example_inputs, nullcontext())
    except Exception as error:  # whatever the model's code raises
        shape = ", ".join(str(tuple(x.shape)) for x in example_inputs)
        raise UsageError(
            f"the multiply-accumulates of the model {type(model).__name__} can't be counted, as it doesn't take a "
            f"sample of shape {shape} ({one_line(error)}): give example inputs that it takes",
            code="bad-model",
            option="model",
        ) from error


def count_operator(operator: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> int:
    """Returns the multiply-accumulates of one call of an operator of torch.ops, on fake tensors. It is run."""
    with _counting({}) as (counter, _):
        operator(*arguments, **keywords)
    return counter.get_total_flops() // 2


def _count(model: nn.Module, inputs: tuple[Tensor, ...], mode: AbstractContextManager[Any]) -> Count:
    parameters = {p.untyped_storage()._cdata: name for name, p in model.named_parameters()}
    fused_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), mode, _counting(parameters) as (counter, seen):
            model.eval()(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_attention)
    root = type(model).__name__
    # The counter takes a multiply and an add for two, and adds up a module with all that is inside it.
    counts = {
        path.removeprefix(root).removeprefix("."): sum(ops.values()) // 2
        for path, ops in counter.get_flop_counts().items()
        if path.split(".")[0] == root
    }
    own: dict[str, int] = {}
    for name in sorted(counts, key=len, reverse=True):
        own[name] = counts[name] - sum(spent for path, spent in own.items() if not name or path.startswith(f"{name}."))
    layers = {name: own[name] for name, _ in model.named_modules() if own.get(name)}
    return Count(layers, tuple(seen.uncounted), tuple(seen.kernels))


@contextmanager
def _counting(parameters: Mapping[int, str]) -> Iterator[tuple[FlopCounterMode, _Seen]]:
    """Counts what runs inside, and notes what there is no formula for. `parameters`: their names, by their storage."""
    seen = _Seen(parameters)
    counter: FlopCounterMode = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with sdpa_kernel(SDPBackend.MATH), seen, counter:  # the counter has no formula for every fused attention
        yield counter, seen


class _Seen(TorchDispatchMode):
    """Notes the operators that multiply tensors, for all that is known, and have no formula; and the parameters that
    those with one multiply activations by."""

    def __init__(self, parameters: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters = parameters
        self.uncounted: dict[str, None] = {}
        self.kernels: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = getattr(func, "overloadpacket", func)
        floats = sum(isinstance(x, Tensor) and x.is_floating_point() for x in (*args, *(kwargs or {}).values()))
        if (
            floats > 1
            and torch.Tag.pointwise not in getattr(func, "tags", ())
            and packet not in flop_registry
            and packet not in _FORMULAS
            and packet not in _NO_PRODUCTS
        ):
            self.uncounted[str(packet).removeprefix("aten.")] = None
        for place in reversed(_FACTORS.get(packet, ())):  # a row of tokens on the left of a layer's matrix is none
            if place < len(args) and (name := self.parameters.get(args[place].untyped_storage()._cdata)):
                self.kernels[name] = None
                break
        return result


def _matrix_by_vector(matrix: Sequence[int], *others: Any, **_: Any) -> int:
    return 2 * math.prod(matrix)


def _added(start: Any, *operands: Any, **_: Any) -> int:
    """addmv, addr, addbmm: the sizes of the first operand times those that the second adds."""
    first, second = operands[:2]
    return 2 * int(math.prod(first)) * (1 if len(first) > 1 and len(second) == 1 else int(second[-1]))


def _pairs(first: Sequence[int], second: Sequence[int], *_: Any, **__: Any) -> int:
    """Distances of all pairs of rows."""
    return 2 * math.prod(first) * second[-2]


def _trilinear(a: Sequence[int], b: Sequence[int], c: Sequence[int], *expanded: Any, **_: Any) -> int:
    """sum(a * b * c) over some dimensions, each operand expanded by those it lacks."""
    sizes = []
    for shape, added in zip((a, b, c), expanded, strict=False):
        full = list(shape)
        for dim in sorted(added):
            full.insert(dim, 1)
        sizes.append(full)
    return 2 * math.prod(int(max(extents)) for extents in zip(*sizes, strict=True))


def _recurrent(x: Sequence[int], to_gates: Sequence[int], back: Sequence[int], *_: Any, **__: Any) -> int:
    """One layer and direction: [steps, batch, features] through both of its matrices."""
    return 2 * math.prod(x[:2]) * (math.prod(to_gates) + math.prod(back))


def _deformable(x: Any, weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """As a convolution of the same shape; where it samples is interpolation."""
    return 2 * out_shape[0] * math.prod(out_shape[2:]) * math.prod(weight)


_FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mv: _matrix_by_vector,
    torch.ops.aten.dot: _matrix_by_vector,
    torch.ops.aten.vdot: _matrix_by_vector,
    torch.ops.aten.addmv: _added,
    torch.ops.aten.addr: _added,
    torch.ops.aten.addbmm: _added,
    torch.ops.aten._cdist_forward: _pairs,
    torch.ops.aten._euclidean_dist: _pairs,
    torch.ops.aten._trilinear: _trilinear,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent,
    torch.ops.torchvision.deform_conv2d: _deformable,
}
"""What torch's counter lacks: twice the multiply-accumulates, from shapes."""


_FACTORS: dict[Any, tuple[int, ...]] = {
    torch.ops.aten.convolution: (1,),
    torch.ops.aten.embedding: (0,),
    torch.ops.torchvision.deform_conv2d: (1,),
    **dict.fromkeys((torch.ops.aten.mm, torch.ops.aten.bmm), (0, 1)),
    **dict.fromkeys((torch.ops.aten.addmm, torch.ops.aten.baddbmm), (1, 2)),
}
"""The arguments of products that may be a network's own kernel."""


def _overloads(library: Any, names: str) -> set[Any]:
    return {getattr(library, name) for name in names.split() if hasattr(library, name)}


_NO_PRODUCTS = _overloads(
    torch.ops.aten,
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "_batch_norm_with_update _batch_norm_no_update native_layer_norm native_group_norm _fused_rms_norm "
    "copy_ copy fill_ where masked_fill masked_fill_ masked_scatter masked_scatter_ index_put index_put_ "
    "_index_put_impl_ _unsafe_index_put index_add index_add_ index_copy index_copy_ index_fill scatter scatter_ "
    "scatter_add scatter_add_ scatter_reduce slice_scatter select_scatter diagonal_scatter grid_sampler_2d "
    "grid_sampler_3d _embedding_bag _embedding_bag_forward_only searchsorted bucketize equal isin normal "
    "_prelu_kernel _weight_norm_interface complex polar set_ clamp clamp_ clip clip_ mse_loss smooth_l1_loss "
    "huber_loss",
) | _overloads(torch.ops.torchvision, "nms roi_align roi_pool ps_roi_align ps_roi_pool")
"""Operators of several tensors that move, normalise or interpolate, as pooling does."""
