"""The layers of MIL, Core ML's language of operations, in PyTorch: convolution, pooling, norms, resizing.

Parameters have the names that MIL gives them. Semantics: `coremltools.converters.mil.mil.ops.defs`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dwindle.errors import RuntimeUnavailable

Maybe = Tensor | None
_CONV = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVERAGE = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def ints(value: Maybe, default: list[int]) -> list[int]:
    return default if value is None else value.reshape(-1).tolist()


def conv(
    x: Tensor,
    weight: Tensor,
    pad_type: str,
    bias: Maybe = None,
    strides: Maybe = None,
    pad: Maybe = None,
    dilations: Maybe = None,
    groups: Maybe = None,
) -> Tensor:
    n = x.dim() - 2
    steps, spread = ints(strides, [1] * n), ints(dilations, [1] * n)
    reach = [(size - 1) * step for size, step in zip(weight.shape[2:], spread, strict=True)]
    if pad_type == "same" and steps == [1] * n and not any(size % 2 for size in reach):
        before = after = [size // 2 for size in reach]  # of an uneven sum the documentation leaves the sides open
    else:
        before, after = _sides(pad_type, pad, n)
    if before != after:
        x, before = F.pad(x, _last_first(before, after)), [0] * n
    (group,) = ints(groups, [1])
    made: Tensor = _CONV[n - 1](x, weight, bias, steps, before, spread, group)
    return made


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    pad_type: str = "valid",
    bias: Maybe = None,
    strides: Maybe = None,
    pad: Maybe = None,
    dilations: Maybe = None,
    groups: Maybe = None,
    output_shape: Maybe = None,
) -> Tensor:
    n = x.dim() - 2
    before, after = _sides(pad_type, pad, n)
    (group,) = ints(groups, [1])
    whole = _TRANSPOSED[n - 1](x, weight, None, ints(strides, [1] * n), 0, 0, group, ints(dilations, [1] * n))
    fits = [size - a - b for size, a, b in zip(whole.shape[2:], before, after, strict=True)]
    sizes = ints(output_shape, fits)[-n:]
    # A size beyond the last product has nothing but the bias there.
    missing = [max(0, b + size - had) for b, size, had in zip(before, sizes, whole.shape[2:], strict=True)]
    whole = F.pad(whole, _last_first([0] * n, missing))
    for axis, (start, size) in enumerate(zip(before, sizes, strict=True), start=2):
        whole = whole.narrow(axis, start, size)
    return whole if bias is None else whole + bias.reshape(-1, *[1] * n)


def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Maybe = None,
    pad: Maybe = None,
    ceil_mode: Maybe = None,
) -> Tensor:
    n = x.dim() - 2
    before, after = _sides(pad_type, pad, n)
    if before != after:
        x, before = F.pad(x, _last_first(before, after), value=-math.inf), [0] * n
    kernel = ints(kernel_sizes, [])
    made: Tensor = _MAX[n - 1](x, kernel, ints(strides, [1] * n), before, 1, ceil_mode=bool(ceil_mode))
    return made


def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Maybe = None,
    pad: Maybe = None,
    exclude_padding_from_average: Maybe = None,
    ceil_mode: Maybe = None,
) -> Tensor:
    n = x.dim() - 2
    before, after = _sides(pad_type, pad, n)
    if before != after:
        raise RuntimeUnavailable("dwindle's interpreter of Core ML files has no avg_pool with uneven padding")
    kernel, steps = ints(kernel_sizes, []), ints(strides, [1] * n)
    made: Tensor = _AVERAGE[n - 1](x, kernel, steps, before, bool(ceil_mode), not exclude_padding_from_average)
    return made


def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Maybe = None, beta: Maybe = None, epsilon: Maybe = None
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=_epsilon(epsilon))


def instance_norm(x: Tensor, gamma: Maybe = None, beta: Maybe = None, epsilon: Maybe = None) -> Tensor:
    return F.instance_norm(x, None, None, gamma, beta, eps=_epsilon(epsilon))


def layer_norm(x: Tensor, axes: Maybe = None, gamma: Maybe = None, beta: Maybe = None, epsilon: Maybe = None) -> Tensor:
    over = [axis % x.dim() for axis in ints(axes, list(range(x.dim())))]
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
    y = (x - mean) / torch.sqrt(variance + _epsilon(epsilon))
    if gamma is not None:
        y = y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Tensor, scale_factor_width: Tensor) -> Tensor:
    for axis, scale in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size = x.shape[axis]
        made = _scaled(size, scale)
        x = x.index_select(axis, torch.arange(made) * size // made)
    return x


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor,
    scale_factor_width: Tensor,
    align_corners: Maybe = None,
    half_pixel_centers: Maybe = None,
) -> Tensor:
    aligned = align_corners is None or bool(align_corners)
    centers = not aligned if half_pixel_centers is None else bool(half_pixel_centers)
    for axis, scale in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size = x.shape[axis]
        made = _scaled(size, scale)
        i = torch.arange(made)
        if aligned:
            points = i * ((size - 1) / max(made - 1, 1))
        else:
            points = (i + 0.5) * (size / made) - 0.5 if centers else i * (size / made)
        x = _between(x, axis, points.clamp(0, size - 1))
    return x


def _between(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """Values of x at fractional places along an axis, from the two that a place lies between."""
    low = points.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    share = (points - low).reshape(-1, *[1] * (-axis - 1))
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)


def _scaled(size: int, scale: Tensor) -> int:
    # A scale is made/size rounded to fp32: rounding again must not lose the last row.
    return math.floor(size * float(scale) + 1e-3)


def _epsilon(value: Maybe) -> float:
    return 1e-5 if value is None else float(value)


def _sides(pad_type: str, pad: Maybe, n: int) -> tuple[list[int], list[int]]:
    """What is added before and after each spatial dimension."""
    if pad_type == "valid":
        return [0] * n, [0] * n
    if pad_type != "custom":
        raise RuntimeUnavailable(f"dwindle's interpreter of Core ML files has no padding of type {pad_type!r}")
    sizes = ints(pad, [0, 0] * n)
    return sizes[::2], sizes[1::2]


def _last_first(before: list[int], after: list[int]) -> list[int]:
    """The same as `F.pad` takes it."""
    return [size for sides in zip(reversed(before), reversed(after), strict=True) for size in sides]
