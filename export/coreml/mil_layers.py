"""The layers of MIL, Core ML's language of operations, in PyTorch: convolution, pooling, norms, resizing.

Parameters have the names that MIL gives them. Semantics: the documentation and `value_inference` in
`coremltools.converters.mil.mil.ops.defs`, in `conv`, `pool`, `normalization` and `image_resizing`, or what a function
says. Where they leave something open, the operator is `unproven`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dwindle.export.coreml.mil_unproven import unproven

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
    n, kernel = x.dim() - 2, ints(kernel_sizes, [])
    steps = ints(strides, [1] * n)
    before, after = _pool_sides(x, kernel, steps, pad_type, pad, ceil_mode)
    made: Tensor = _MAX[n - 1](F.pad(x, _last_first(before, after), value=-math.inf), kernel, steps)
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
    """What a window has beyond the input counts as padding, as `ceil_mode`'s does too, unlike in PyTorch.

    Measured: the table in https://github.com/apple/coremltools/pull/2844.
    """
    n, kernel = x.dim() - 2, ints(kernel_sizes, [])
    steps = ints(strides, [1] * n)
    sides = _last_first(*_pool_sides(x, kernel, steps, pad_type, pad, ceil_mode))
    means: Tensor = _AVERAGE[n - 1](F.pad(x, sides), kernel, steps)
    if not exclude_padding_from_average:
        return means
    inside: Tensor = _AVERAGE[n - 1](F.pad(torch.ones_like(x), sides), kernel, steps)
    return means / inside


def _pool_sides(
    x: Tensor, kernel: list[int], steps: list[int], pad_type: str, pad: Maybe, ceil_mode: Maybe
) -> tuple[list[int], list[int]]:
    """What a pool reads before and after each spatial dimension, what `ceil_mode` adds included."""
    before, after = _sides(pad_type, pad, len(kernel))
    if ceil_mode:
        for axis, (size, reach, step) in enumerate(zip(x.shape[2:], kernel, steps, strict=True)):
            whole = size + before[axis] + after[axis]
            made = -(-(whole - reach) // step) + 1
            if (made - 1) * step >= size + before[axis] and before[axis] + after[axis] > 0:
                made -= 1
            after[axis] += max(0, (made - 1) * step + reach - whole)
    return before, after


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


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Maybe = None, scale_factor_width: Maybe = None) -> Tensor:
    for axis, scale in ((-2, scale_factor_height), (-1, scale_factor_width)):
        factor = 1.0 if scale is None else float(scale)
        if factor != int(factor):
            raise unproven("upsample_nearest_neighbor", "by a fraction, which pixel is nearest is not documented")
        x = x.repeat_interleave(int(factor), axis)
    return x


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Maybe = None,
    scale_factor_width: Maybe = None,
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


def _scaled(size: int, scale: Maybe) -> int:
    # A scale is made/size rounded to fp32: rounding again must not lose the last row.
    return size if scale is None else math.floor(size * float(scale) + 1e-3)


def resize_bilinear(
    x: Tensor, target_size_height: Tensor, target_size_width: Tensor, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """The documentation gives the points that each mode samples."""
    for axis, target in ((-2, target_size_height), (-1, target_size_width)):
        size, made = x.shape[axis], int(target)
        i, more = torch.arange(made), max(made - 1, 1)
        if sampling_mode == "ALIGN_CORNERS" and made == 1:
            points = torch.tensor([(size - 1) / 2])
        elif sampling_mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
            points = i * ((size - 1) / more)
        elif sampling_mode == "DEFAULT":
            points = i * ((size - size / made) / more)
        elif sampling_mode == "UNALIGN_CORNERS":
            points = (i + 0.5) * (size / made) - 0.5
        else:
            delta = max(1, size - 1) / made
            points = (i + 0.5) * delta
        x = _between(x, axis, points.clamp(0, size - 1))
    return x


def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor,
    coordinates_mode: str,
    align_corners: Tensor,
) -> Tensor:
    if sampling_mode != "bilinear":
        raise unproven("resample", "which pixel is nearest is not documented")
    if coordinates_mode != "normalized_minus_one_to_one" or padding_mode not in ("constant", "border"):
        raise unproven("resample", f"dwindle's interpreter has no {padding_mode} padding of {coordinates_mode}")
    outside = float(padding_value) if padding_mode == "constant" else 0.0
    beyond = "zeros" if padding_mode == "constant" else "border"
    made = F.grid_sample(x - outside, coordinates, "bilinear", beyond, bool(align_corners))
    return made + outside


def local_response_norm(x: Tensor, size: Tensor, alpha: Maybe = None, beta: Maybe = None, k: Maybe = None) -> Tensor:
    if int(size) % 2 == 0:
        raise unproven("local_response_norm", "on which side an even number of channels has one more is not documented")
    share, power, base = (
        default if given is None else float(given) for given, default in ((alpha, 1e-4), (beta, 0.75), (k, 1.0))
    )
    return F.local_response_norm(x, int(size), share, power, base)


def l2_norm(x: Tensor, epsilon: Maybe = None) -> Tensor:
    total = x.square().sum((-3, -2, -1), keepdim=True)
    return x / torch.sqrt(total + (1e-6 if epsilon is None else float(epsilon)))


def _epsilon(value: Maybe) -> float:
    return 1e-5 if value is None else float(value)


def _sides(pad_type: str, pad: Maybe, n: int) -> tuple[list[int], list[int]]:
    """What is added before and after each spatial dimension."""
    if pad_type == "valid":
        return [0] * n, [0] * n
    if pad_type != "custom":
        raise unproven("padding", f"on which side its type {pad_type!r} puts an uneven sum is not documented")
    sizes = ints(pad, [0, 0] * n)
    return sizes[::2], sizes[1::2]


def _last_first(before: list[int], after: list[int]) -> list[int]:
    """The same as `F.pad` takes it."""
    return [size for sides in zip(reversed(before), reversed(after), strict=True) for size in sides]
