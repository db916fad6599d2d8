"""Rewriting what Core ML or its converter lacks of PyTorch's operators, or has under another definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dwindle.export.coreml.views import without_what_core_ml_lacks

if TYPE_CHECKING:
    from torch.export import ExportedProgram

aten = torch.ops.aten
_TORCHS_OWN = (
    aten.avg_pool1d,
    aten._fused_rms_norm,
    aten.affine_grid_generator,
    aten.channel_shuffle,
    aten.cosine_similarity,
    aten.gru,
    aten.lstm,
    aten.max_pool1d,
    aten.max_pool2d,
    aten.max_pool3d,
    aten.native_channel_shuffle,
    aten.rms_norm,
    aten.rnn_relu,
    aten.rnn_tanh,
    aten.tril,
    aten.triu,
)
"""What coremltools has, and not for all of PyTorch's arguments or values (it multiplies a triangle of infinities by 0):
PyTorch expresses it in other operators."""


def lowered(program: ExportedProgram) -> ExportedProgram:
    """A program that computes the same, in operators that coremltools translates to what they compute in Core ML."""
    return without_what_core_ml_lacks(program.run_decompositions({**_torchs(), **_OWN}))


@cache
def _torchs() -> dict[Any, Callable[..., Any]]:
    """PyTorch's own decompositions of what coremltools doesn't know."""
    from coremltools.converters.mil.frontend.torch import is_torch_fx_node_supported
    from torch._decomp import decomposition_table, get_decompositions

    def known(operator: Any) -> bool:
        if not isinstance(operator, torch._ops.OpOverload) or operator._schema.name.endswith("_"):  # in place
            return True
        return bool(is_torch_fx_node_supported(SimpleNamespace(op="call_function", target=operator)))

    every = {**decomposition_table, **torch.export.default_decompositions()}
    own = {**torch.export.default_decompositions(), **get_decompositions(_TORCHS_OWN)}
    wanted = {overload for packet in _TORCHS_OWN for overload in (getattr(packet, name) for name in packet.overloads())}
    return {
        **{operator: of for operator, of in every.items() if not known(operator)},
        **{operator: of for operator, of in own.items() if operator in wanted},
    }


def _log_softmax(x: Tensor, dim: int, _: Any = None) -> Tensor:
    """In fp16 the logarithm of a softmax is infinite where the softmax is too small: this is never."""
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _var_mean(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    axes = list(range(x.dim())) if dim is None else dim
    return aten.var.correction(x, axes, correction=correction, keepdim=keepdim), x.mean(axes, keepdim)


def _trilinear(*given: Any) -> Tensor:
    """What `nn.Bilinear` computes: three tensors, each with dimensions of size 1 put in, multiplied and added up."""
    spread = []
    for x, dims in zip(given[:3], given[3:6], strict=True):
        for dim in sorted(dims):
            x = x.unsqueeze(dim)
        spread.append(x)
    product: Tensor = (spread[0] * spread[1] * spread[2]).sum(given[6])
    return product


def _max_pool(of: Callable[..., Tensor]) -> Callable[..., Any]:
    def pool(
        x: Tensor,
        kernel_size: list[int],
        stride: list[int] = [],  # noqa: B006 - as ATen's schema has it
        padding: list[int] = [0],  # noqa: B006
        dilation: list[int] = [1],  # noqa: B006
        ceil_mode: bool = False,
    ) -> Any:
        """coremltools asks for a stride, and PyTorch's default is the kernel's size."""
        n = len(kernel_size)
        if stride:
            return NotImplemented
        return of(x, kernel_size, stride or kernel_size, _each(padding, n), _each(dilation, n), ceil_mode)

    return pool


def _avg_pool(of: Callable[..., Tensor]) -> Callable[..., Any]:
    def pool(
        x: Tensor,
        kernel_size: list[int],
        stride: list[int] = [],  # noqa: B006
        padding: list[int] = [0],  # noqa: B006
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        """Core ML counts what `ceil_mode` adds to the last window, as it does padding, and has no other divisor."""
        n = len(kernel_size)
        stride, padding = _each(stride or kernel_size, n), _each(padding, n)
        if divisor_override is not None:
            scale = math.prod(kernel_size) / divisor_override
            return of(x, kernel_size, stride, padding, ceil_mode, True) * scale if not ceil_mode else NotImplemented
        if not ceil_mode or not count_include_pad:
            return NotImplemented
        if any(padding):
            x = F.pad(x, [side for size in reversed(padding) for side in (size, size)])
        return of(x, kernel_size, stride, [0] * n, True, False)

    return pool


def _pad(x: Tensor, pad: list[int], mode: str = "constant", value: float | None = None) -> Any:
    """Core ML pads by nothing less than 0, and with other values than a constant in the last two dimensions only."""
    if min(pad, default=0) >= 0 and (mode == "constant" or (mode in ("reflect", "replicate") and not any(pad[4:]))):
        return NotImplemented
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        size = x.shape[-axis]
        lost = max(0, -before) + max(0, -after)
        x = x.narrow(-axis, max(0, -before), size - lost) if lost else x
        if mode != "constant" and max(before, after) > 0:
            x = _padded(x, -axis, max(0, before), max(0, after), mode)
    if mode == "constant" and max(pad) > 0:
        return F.pad(x, [max(0, size) for size in pad], value=value)
    return x.clone()


def _padded(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    size = x.shape[axis]
    if mode == "replicate":
        first, last = (x.narrow(axis, place, 1) for place in (0, size - 1))
        return torch.cat([*[first] * before, x, *[last] * after], axis)
    edge = 1 if mode == "reflect" else 0
    left = x.narrow(axis, 1, before).flip(axis) if edge else x.narrow(axis, size - before, before)
    right = x.narrow(axis, size - 1 - after, after).flip(axis) if edge else x.narrow(axis, 0, after)
    return torch.cat([part for part in (left, x, right) if part.shape[axis]], axis)


def _nearest(x: Tensor, output_size: list[int] | None, scale_factors: list[float] | None) -> Any:
    """By a fraction, Core ML's documentation does not say which pixel is nearest: the ones that PyTorch takes."""
    sizes = output_size or [math.floor(n * by) for n, by in zip(x.shape[2:], scale_factors or (), strict=True)]
    if all(made % had == 0 for made, had in zip(sizes, x.shape[2:], strict=True)):
        return NotImplemented
    for axis, (made, had) in enumerate(zip(sizes, x.shape[2:], strict=True), start=2):
        step = 1 / scale_factors[axis - 2] if scale_factors else had / made
        repeats = [0] * had
        for place in range(made):
            # in fp32, as PyTorch computes it
            repeats[min(int(np.float32(place) * np.float32(step)), had - 1)] += 1
        rows = [x.narrow(axis, row, 1) for row, times in enumerate(repeats) for _ in range(times)]
        x = torch.cat(rows, axis)
    return x


def _antialiased(
    x: Tensor, output_size: list[int] | None, align_corners: bool, scale_factors: list[float] | None
) -> Any:
    """coremltools takes it for the one that reads two pixels along each axis, as it does where it makes no fewer."""
    sizes = output_size or [math.floor(n * by) for n, by in zip(x.shape[2:], scale_factors or (), strict=True)]
    if all(made >= had for made, had in zip(sizes, x.shape[2:], strict=True)):
        return NotImplemented
    raise NotImplementedError("Core ML has no anti-aliased resizing to fewer pixels: resize by average pooling")


def _prelu(x: Tensor, weight: Tensor) -> Any:
    """coremltools takes one slope for each channel of images alone."""
    if x.dim() == 4:
        return NotImplemented
    slopes = weight.reshape(-1, *[1] * (x.dim() - 2)) if x.dim() > 2 and weight.numel() > 1 else weight
    return F.relu(x) - slopes * F.relu(-x)


def _each(values: list[int], n: int) -> list[int]:
    return list(values) * n if len(values) == 1 else list(values)


_OWN: dict[Any, Callable[..., Any]] = {
    aten._log_softmax.default: _log_softmax,
    aten.log_softmax.int: _log_softmax,
    aten.log_sigmoid.default: lambda x: -F.softplus(-x),
    aten.__and__.Tensor: aten.bitwise_and.Tensor,
    aten.__or__.Tensor: aten.bitwise_or.Tensor,
    aten.__xor__.Tensor: aten.bitwise_xor.Tensor,
    aten.lerp.Scalar: lambda x, end, weight: x + (end - x) * weight,
    aten.lerp.Tensor: lambda x, end, weight: x + (end - x) * weight,
    aten.trunc.default: lambda x: x.sign() * x.abs().floor(),
    aten._trilinear.default: _trilinear,
    aten.var_mean.correction: _var_mean,
    aten.max_pool1d_with_indices.default: _max_pool(aten.max_pool1d_with_indices.default),
    aten.max_pool2d_with_indices.default: _max_pool(aten.max_pool2d_with_indices.default),
    aten.max_pool3d_with_indices.default: _max_pool(aten.max_pool3d_with_indices.default),
    aten.avg_pool2d.default: _avg_pool(aten.avg_pool2d.default),
    aten.avg_pool3d.default: _avg_pool(aten.avg_pool3d.default),
    aten.pad.default: _pad,
    aten.prelu.default: _prelu,
    aten.constant_pad_nd.default: lambda x, pad, value=0: _pad(x, pad, value=value),
    aten.upsample_nearest2d.vec: _nearest,
    aten._upsample_bilinear2d_aa.vec: _antialiased,
}
