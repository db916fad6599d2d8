"""Every operation of MIL, Core ML's language, that dwindle can execute, in PyTorch, by its name there.

Parameters have the names that MIL gives them. Semantics: the documentation and `value_inference` of each operation in
the module of `coremltools.converters.mil.mil.ops.defs` that the comment above its group names, what was measured of
Core ML where that differs (a link beside it), and never what PyTorch means by the name.
What those leave open is `unproven`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dwindle.export.coreml import mil_layers, mil_order, mil_recurrent, mil_shapes
from dwindle.export.coreml.mil_layers import Maybe, ints


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def matmul(x: Tensor, y: Tensor, transpose_x: Maybe = None, transpose_y: Maybe = None) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def cumsum(x: Tensor, axis: Maybe = None, exclusive: Maybe = None, reverse: Maybe = None) -> Tensor:
    (along,) = ints(axis, [0])
    given = x.flip(along) if reverse else x
    total = given.cumsum(along)
    total = total - given if exclusive else total
    return total.flip(along) if reverse else total


def cast(x: Tensor, dtype: str) -> Tensor:
    # `mil_torch` turns the result into the type that the file declares, as it does for every operation.
    if dtype == "bool":
        return x != 0
    return x.float() if dtype.startswith("fp") else x.long()


def quantize(
    input: Tensor,  # noqa: A002
    scale: Tensor,
    output_dtype: str,
    zero_point: Maybe = None,
    axis: Maybe = None,
) -> Tensor:
    low, high = (0, 255) if output_dtype == "uint8" else (-128, 127)
    zero = torch.zeros(()) if zero_point is None else zero_point
    return (input / _along(scale, input, axis)).round().add(_along(zero, input, axis)).clamp(low, high)


def dequantize(
    input: Tensor,  # noqa: A002
    scale: Tensor,
    zero_point: Maybe = None,
    axis: Maybe = None,
) -> Tensor:
    zero = torch.zeros(()) if zero_point is None else zero_point
    return (input - _along(zero, input, axis)) * _along(scale, input, axis)


def _along(values: Tensor, x: Tensor, axis: Maybe) -> Tensor:
    """One value for each place along a dimension, in a shape that broadcasts with x."""
    return values if values.dim() == 0 else values.reshape(-1, *[1] * (x.dim() - 1 - ints(axis, [0])[0] % x.dim()))


def _of_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.dim() - 2))


def _reduced(reduce: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def over(x: Tensor, axes: Maybe = None, keep_dims: Maybe = None) -> Tensor:
        return reduce(x, ints(axes, list(range(x.dim()))), bool(keep_dims))

    return over


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keep)
    return x


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Maybe = None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {  # elementwise_unary
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,  # value_inference: to the even one of two
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "identity": lambda x: x,  # tensor_operation
}

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {  # activation
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "softsign": F.softsign,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # elementwise_binary
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.div,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,  # value_inference: Python's %, which has the sign of y
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
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}

OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: partial(lambda of, x: of(x), of) for name, of in {**_UNARY, **_ACTIVATIONS}.items()},
    **{name: partial(lambda of, x, y: of(x, y), of) for name, of in _BINARY.items()},
    # elementwise_unary
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "threshold": lambda x, alpha: x.clamp(min=alpha),
    "log": lambda x, epsilon=1e-45: torch.log(x + epsilon),
    "rsqrt": lambda x, epsilon=1e-12: torch.rsqrt(x + epsilon),
    "inverse": lambda x, epsilon=1e-4: 1 / (x + epsilon),
    "cast": cast,
    # activation
    "elu": lambda x, alpha: F.elu(x, float(alpha)),
    "leaky_relu": lambda x, alpha: F.leaky_relu(x, float(alpha)),
    "prelu": lambda x, alpha: torch.where(x > 0, x, x * _of_channels(alpha, x)),
    "gelu": gelu,
    "sigmoid_hard": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "thresholded_relu": lambda x, alpha: torch.where(x >= alpha, x, 0.0),
    "clamped_relu": lambda x, alpha, beta: torch.where(x >= 0, x, alpha * x).clamp(max=beta),
    "linear_activation": lambda x, alpha, beta: alpha * x + beta,
    "scaled_tanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "softplus_parametric": lambda x, alpha, beta: _of_channels(alpha, x) * F.softplus(_of_channels(beta, x) * x),
    "softmax": lambda x, axis=-1: F.softmax(x, int(axis)),
    # linear
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "matmul": matmul,
    "einsum": lambda values, equation: torch.einsum(equation, *values),
    # transformers
    "scaled_dot_product_attention": _attention,
    # conv
    "conv": mil_layers.conv,
    "conv_transpose": mil_layers.conv_transpose,
    # pool; https://github.com/apple/coremltools/pull/2844 for ceil_mode
    "max_pool": mil_layers.max_pool,
    "avg_pool": mil_layers.avg_pool,
    # normalization
    "batch_norm": mil_layers.batch_norm,
    "instance_norm": mil_layers.instance_norm,
    "layer_norm": mil_layers.layer_norm,
    "l2_norm": mil_layers.l2_norm,
    "local_response_norm": mil_layers.local_response_norm,
    # image_resizing
    "upsample_bilinear": mil_layers.upsample_bilinear,
    "upsample_nearest_neighbor": mil_layers.upsample_nearest_neighbor,
    "resize_bilinear": mil_layers.resize_bilinear,
    "resample": mil_layers.resample,
    "crop": mil_shapes.crop,
    # recurrent
    "lstm": mil_recurrent.lstm,
    "gru": mil_recurrent.gru,
    "rnn": mil_recurrent.rnn,
    # control_flow
    "select": lambda cond, a, b: torch.where(cond, a, b),
    # reduction
    "reduce_mean": _reduced(torch.mean),
    "reduce_sum": _reduced(torch.sum),
    "reduce_max": _reduced(torch.amax),
    "reduce_min": _reduced(torch.amin),
    "reduce_prod": _reduced(_product),
    "reduce_l1_norm": _reduced(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "reduce_l2_norm": _reduced(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "reduce_sum_square": _reduced(lambda x, axes, keep: x.square().sum(axes, keep)),
    "reduce_log_sum": _reduced(lambda x, axes, keep: x.sum(axes, keep).log()),
    "reduce_log_sum_exp": _reduced(torch.logsumexp),
    "reduce_argmax": mil_order.place("reduce_argmax", torch.argmax),
    "reduce_argmin": mil_order.place("reduce_argmin", torch.argmin),
    # tensor_operation
    "argsort": mil_order.argsort,
    "band_part": mil_shapes.band_part,
    "concat": mil_shapes.concat,
    "cumsum": cumsum,
    "fill": lambda shape, value=0.0: torch.full(shape.tolist(), float(value)),
    "fill_like": lambda ref_tensor, value=0.0: torch.full(ref_tensor.shape, float(value)),
    "one_hot": mil_shapes.one_hot,
    "pad": mil_shapes.pad,
    "range_1d": lambda start, end, step: torch.arange(start.item(), end.item(), step.item()),
    "shape": lambda x: torch.tensor(x.shape),
    "split": mil_shapes.split,
    "stack": lambda values, axis: torch.stack(values, int(axis)),
    "tile": lambda x, reps: x.tile(reps.tolist()),
    "topk": mil_order.topk,
    # quantization_ops
    "dequantize": dequantize,
    "quantize": quantize,
    # tensor_transformation
    "expand_dims": mil_shapes.expand_dims,
    "pixel_shuffle": lambda x, upscale_factor: F.pixel_shuffle(x, int(upscale_factor)),
    "pixel_unshuffle": lambda x, downscale_factor: F.pixel_unshuffle(x, int(downscale_factor)),
    "reshape": mil_shapes.reshape,
    "reverse": lambda x, axes=None: x.flip(ints(axes, list(range(x.dim())))),
    "slice_by_index": mil_shapes.slice_by_index,
    "slice_by_size": mil_shapes.slice_by_size,
    "slice_update": mil_shapes.slice_update,
    "squeeze": lambda x, axes=None: x.squeeze(ints(axes, list(range(x.dim())))),
    "transpose": lambda x, perm: x.permute(perm.tolist()),
    # scatter_gather
    "gather": mil_shapes.gather,
    "gather_along_axis": mil_shapes.gather_along_axis,
    "gather_nd": mil_shapes.gather_nd,
    "scatter": mil_shapes.scatter,
    "scatter_along_axis": mil_shapes.scatter_along_axis,
    "scatter_nd": mil_shapes.scatter_nd,
}
"""What makes an operation's output, or a tuple of them, from its inputs by name."""
