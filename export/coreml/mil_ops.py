"""Every operation of MIL, Core ML's language, that dwindle can execute, in PyTorch, by its name there.

Parameters have the names that MIL gives them. Semantics: `coremltools.converters.mil.mil.ops.defs`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dwindle.errors import RuntimeUnavailable
from dwindle.export.coreml import mil_layers
from dwindle.export.coreml.mil_layers import Maybe, ints


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def matmul(x: Tensor, y: Tensor, transpose_x: Maybe = None, transpose_y: Maybe = None) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape.tolist())])


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def concat(values: list[Tensor], axis: Tensor, interleave: Maybe = None) -> Tensor:
    along = int(axis) % values[0].dim()
    return torch.stack(values, along + 1).flatten(along, along + 1) if interleave else torch.cat(values, along)


def split(x: Tensor, axis: Tensor, num_splits: Maybe = None, split_sizes: Maybe = None) -> tuple[Tensor, ...]:
    if split_sizes is not None:
        return torch.split(x, split_sizes.tolist(), int(axis))
    (parts,) = ints(num_splits, [])
    return torch.chunk(x, parts, int(axis))


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Maybe = None,
    begin_mask: Maybe = None,
    end_mask: Maybe = None,
    squeeze_mask: Maybe = None,
) -> Tensor:
    steps, no = ints(stride, [1] * x.dim()), [0] * x.dim()
    open_begin, open_end = ints(begin_mask, no), ints(end_mask, no)
    squeezed = ints(squeeze_mask, no)
    for axis, (first, last) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        size = x.shape[axis]
        if squeezed[axis]:
            x = x.narrow(axis, first % size, 1)
            continue
        taken = slice(None if open_begin[axis] else first, None if open_end[axis] else last, steps[axis])
        x = x.index_select(axis, torch.tensor(range(size)[taken], dtype=torch.long))
    return x.squeeze([axis for axis, gone in enumerate(squeezed) if gone])


def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Maybe = None) -> Tensor:
    sizes = [0, 0] * x.dim()
    sizes[len(sizes) - pad.numel() :] = pad.tolist()
    last_first = [size for start in range(len(sizes) - 2, -2, -2) for size in sizes[start : start + 2]]
    if mode == "constant":
        return F.pad(x, last_first, value=0.0 if constant_val is None else float(constant_val))
    spatial = 2 * max(1, x.dim() - 2)  # the dimensions in which PyTorch reflects and replicates
    return F.pad(x, last_first[:spatial], mode)


def crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    (top, bottom), (left, right) = crop_height.tolist(), crop_width.tolist()
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def cumsum(x: Tensor, axis: Tensor, exclusive: Maybe = None, reverse: Maybe = None) -> Tensor:
    if exclusive or reverse:
        raise RuntimeUnavailable("dwindle's interpreter of Core ML files has no exclusive or reverse cumsum")
    return x.cumsum(int(axis))


def gather(
    x: Tensor, indices: Tensor, axis: Maybe = None, batch_dims: Maybe = None, validate_indices: Maybe = None
) -> Tensor:
    if batch_dims:
        raise RuntimeUnavailable("dwindle's interpreter of Core ML files has no gather with batch dimensions")
    along = ints(axis, [0])[0] % x.dim()
    size = x.shape[along]
    flat = indices.reshape(-1)
    if flat.numel() and not -size <= int(flat.min()) <= int(flat.max()) < size:
        raise ValueError(f"gather reads outside of a dimension of {size}")
    return x.index_select(along, flat % size).reshape(x.shape[:along] + indices.shape + x.shape[along + 1 :])


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Maybe = None,
    mode: str = "update",
    validate_indices: Maybe = None,
) -> Tensor:
    if mode != "update":
        raise RuntimeUnavailable(f"dwindle's interpreter of Core ML files has no scatter of mode {mode!r}")
    along = ints(axis, [0])[0]
    return data.index_copy(along, indices % data.shape[along], updates)


def cast(x: Tensor, dtype: str) -> Tensor:
    # `mil_torch` turns the result into the type that the file declares, as it does for every operation.
    if dtype == "bool":
        return x != 0
    return x.float() if dtype.startswith("fp") else x.long()


def _reduced(reduce: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def over(x: Tensor, axes: Maybe = None, keep_dims: Maybe = None) -> Tensor:
        return reduce(x, ints(axes, list(range(x.dim()))), bool(keep_dims))

    return over


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Maybe = None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


_OF_X: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "abs": torch.abs,
    "exp": torch.exp,
    "erf": torch.erf,
    "sqrt": torch.sqrt,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "sin": torch.sin,
    "cos": torch.cos,
    "logical_not": torch.logical_not,
}

_OF_X_AND_Y: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.div,
    "floor_div": torch.floor_divide,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": torch.pow,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
}

OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: partial(lambda of, x: of(x), of) for name, of in _OF_X.items()},
    **{name: partial(lambda of, x, y: of(x, y), of) for name, of in _OF_X_AND_Y.items()},
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "matmul": matmul,
    "einsum": lambda values, equation: torch.einsum(equation, *values),
    "scaled_dot_product_attention": _attention,
    "conv": mil_layers.conv,
    "conv_transpose": mil_layers.conv_transpose,
    "max_pool": mil_layers.max_pool,
    "avg_pool": mil_layers.avg_pool,
    "batch_norm": mil_layers.batch_norm,
    "instance_norm": mil_layers.instance_norm,
    "layer_norm": mil_layers.layer_norm,
    "upsample_bilinear": mil_layers.upsample_bilinear,
    "upsample_nearest_neighbor": mil_layers.upsample_nearest_neighbor,
    "pixel_shuffle": lambda x, upscale_factor: F.pixel_shuffle(x, int(upscale_factor)),
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "elu": lambda x, alpha: F.elu(x, float(alpha)),
    "leaky_relu": lambda x, alpha: F.leaky_relu(x, float(alpha)),
    "gelu": gelu,
    "sigmoid_hard": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "thresholded_relu": lambda x, alpha: torch.where(x >= alpha, x, 0.0),
    "softmax": lambda x, axis: F.softmax(x, int(axis)),
    "log": lambda x, epsilon=1e-45: torch.log(x + epsilon),
    "rsqrt": lambda x, epsilon=1e-12: torch.rsqrt(x + epsilon),
    "inverse": lambda x, epsilon=1e-4: 1 / (x + epsilon),
    "select": lambda cond, a, b: torch.where(cond, a, b),
    "cast": cast,
    "reduce_mean": _reduced(torch.mean),
    "reduce_sum": _reduced(torch.sum),
    "reduce_max": _reduced(torch.amax),
    "reduce_min": _reduced(torch.amin),
    "reduce_l2_norm": _reduced(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "reduce_argmax": lambda x, axis, keep_dims=False: x.argmax(int(axis), bool(keep_dims)),
    "cumsum": cumsum,
    "reshape": reshape,
    "transpose": lambda x, perm: x.permute(perm.tolist()),
    "expand_dims": expand_dims,
    "squeeze": lambda x, axes=None: x.squeeze(ints(axes, list(range(x.dim())))),
    "concat": concat,
    "stack": lambda values, axis: torch.stack(values, int(axis)),
    "split": split,
    "tile": lambda x, reps: x.tile(reps.tolist()),
    "slice_by_index": slice_by_index,
    "reverse": lambda x, axes: x.flip(axes.tolist()),
    "pad": pad,
    "crop": crop,
    "gather": gather,
    "scatter": scatter,
}
"""What makes an operation's output, or a tuple of them, from its inputs by name."""
