"""The operations of MIL, Core ML's language, that move values and compute none, in PyTorch.

Parameters have the names that MIL gives them. Semantics: the documentation and `value_inference` in
`coremltools.converters.mil.mil.ops.defs`, in `tensor_transformation`, `tensor_operation` and `scatter_gather`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dwindle.export.coreml.mil_layers import Maybe, ints
from dwindle.export.coreml.mil_unproven import unproven


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
    places, squeezed = _slice(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, along in enumerate(places):
        x = x.index_select(axis, along)
    return x.squeeze(squeezed)


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Maybe = None,
    begin_mask: Maybe = None,
    end_mask: Maybe = None,
    squeeze_mask: Maybe = None,
) -> Tensor:
    places, _ = _slice(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    made = x.clone()
    made[torch.meshgrid(*places, indexing="ij")] = update.reshape([len(along) for along in places])
    return made


def _slice(
    x: Tensor, begin: Tensor, end: Tensor, stride: Maybe, begin_mask: Maybe, end_mask: Maybe, squeeze_mask: Maybe
) -> tuple[list[Tensor], list[int]]:
    """Which indices are taken along each dimension, and the dimensions that go afterwards."""
    steps, no = ints(stride, [1] * x.dim()), [0] * x.dim()
    open_begin, open_end, squeezed = ints(begin_mask, no), ints(end_mask, no), ints(squeeze_mask, no)
    places = []
    for axis, (first, last) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        size = x.shape[axis]
        taken = slice(None if open_begin[axis] else first, None if open_end[axis] else last, steps[axis])
        chosen = [first % size] if squeezed[axis] else list(range(size)[taken])
        places.append(torch.tensor(chosen, dtype=torch.long))
    return places, [axis for axis, gone in enumerate(squeezed) if gone]


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    for axis, (first, taken) in enumerate(zip(begin.tolist(), size.tolist(), strict=True)):
        x = x.narrow(axis, first, x.shape[axis] - first if taken == -1 else taken)
    return x


def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Maybe = None) -> Tensor:
    sizes = [0, 0] * x.dim()
    sizes[len(sizes) - pad.numel() :] = pad.tolist()
    if min(sizes, default=0) < 0:
        raise unproven("pad", "its documentation has no padding by less than nothing")
    last_first = [size for start in range(len(sizes) - 2, -2, -2) for size in sizes[start : start + 2]]
    if mode == "constant":
        return F.pad(x, last_first, value=0.0 if constant_val is None else float(constant_val))
    if any(sizes[:-4]):
        # Measured, https://github.com/apple/coremltools/pull/2701: Core ML does not load such a file.
        raise ValueError(f"Core ML's pad takes the mode {mode} in the last two dimensions only")
    reach = 0 if mode == "replicate" else 1
    for axis in range(max(0, x.dim() - 2), x.dim()):
        if max(sizes[2 * axis : 2 * axis + 2]) > x.shape[axis] - reach:
            raise ValueError(
                f"Core ML's pad takes the mode {mode} by {x.shape[axis] - reach} at most in dimension {axis}"
            )
    # PyTorch reflects the last two dimensions of a tensor of four.
    planes = F.pad(x.reshape(1, -1, *([1] * (2 - x.dim())), *x.shape[-2:]), last_first[:4], mode)
    return planes.reshape(*x.shape[:-2], *planes.shape[-min(2, x.dim()) :])


def crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    (top, bottom), (left, right) = crop_height.tolist(), crop_width.tolist()
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def band_part(x: Tensor, lower: Maybe = None, upper: Maybe = None) -> Tensor:
    (below,), (above,) = ints(lower, [-1]), ints(upper, [-1])
    down = torch.arange(x.shape[-2])[:, None] - torch.arange(x.shape[-1])
    kept = ((below < 0) | (down <= below)) & ((above < 0) | (-down <= above))
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


def one_hot(
    indices: Tensor, one_hot_vector_size: Tensor, axis: Maybe = None, on_value: Maybe = None, off_value: Maybe = None
) -> Tensor:
    size, along = int(one_hot_vector_size), ints(axis, [-1])[0] % (indices.dim() + 1)
    on, off = (torch.tensor(default) if given is None else given for given, default in ((on_value, 1), (off_value, 0)))
    hot = torch.arange(size).reshape(-1, *[1] * (indices.dim() - along)) == indices.unsqueeze(along)
    return torch.where(hot, on, off)


def gather(
    x: Tensor, indices: Tensor, axis: Maybe = None, batch_dims: Maybe = None, validate_indices: Maybe = None
) -> Tensor:
    (batch,) = ints(batch_dims, [0])
    along = ints(axis, [0])[0] % x.dim()
    if batch:  # as `compute_gather` there: the leading dimensions of both are one
        rows = [
            gather(row, places, torch.tensor(along - batch))
            for row, places in zip(x.flatten(0, batch - 1), indices.flatten(0, batch - 1), strict=True)
        ]
        return torch.stack(rows).reshape(*x.shape[:batch], *rows[0].shape)
    flat = _inside(indices.reshape(-1), x.shape[along])
    made: Tensor = x.index_select(along, flat).reshape(x.shape[:along] + indices.shape + x.shape[along + 1 :])
    return made


def gather_along_axis(x: Tensor, indices: Tensor, axis: Maybe = None, validate_indices: Maybe = None) -> Tensor:
    along = ints(axis, [0])[0] % x.dim()
    places = [_axis_index(indices, each) for each in range(x.dim())]
    places[along] = _inside(indices, x.shape[along])
    return x[tuple(places)]


def gather_nd(x: Tensor, indices: Tensor, batch_dims: Maybe = None, validate_indices: Maybe = None) -> Tensor:
    (batch,) = ints(batch_dims, [0])
    leading = [_axis_index(indices[..., 0], axis) for axis in range(batch)]
    return x[(*leading, *_columns(x, indices, batch))]


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Maybe = None,
    mode: str = "update",
    validate_indices: Maybe = None,
) -> Tensor:
    along = ints(axis, [0])[0] % data.dim()
    places = _inside(indices, data.shape[along])
    made = _written(data.movedim(along, 0), (places,), updates.movedim(along, 0), mode, "scatter")
    return made.movedim(0, along)


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Maybe = None,
    mode: str = "add",
    validate_indices: Maybe = None,
) -> Tensor:
    along = ints(axis, [0])[0] % data.dim()
    places = [_axis_index(indices, each).expand(indices.shape) for each in range(data.dim())]
    places[along] = _inside(indices, data.shape[along])
    return _written(data, tuple(places), updates, mode, "scatter_along_axis")


def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: Maybe = None
) -> Tensor:
    return _written(data, _columns(data, indices, 0), updates, mode, "scatter_nd")


_COMBINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "update": lambda old, new: new,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
}


def _written(data: Tensor, places: tuple[Tensor, ...], updates: Tensor, mode: str, operator: str) -> Tensor:
    """`data` with updates combined into the slices at `places`."""
    flat = torch.stack([place.reshape(-1) for place in places])
    given = updates.to(data.dtype)
    made: Tensor
    if len(flat.unique(dim=1).T) == flat.shape[1]:
        made = data.index_put(places, _COMBINED[mode](data[places], given))
    elif mode == "add":
        made = data.index_put(places, given, accumulate=True)
    else:
        raise unproven(operator, f"several of its updates of mode {mode} go to one place")
    return made


def _columns(x: Tensor, indices: Tensor, batch: int) -> tuple[Tensor, ...]:
    return tuple(_inside(place, x.shape[batch + axis]) for axis, place in enumerate(indices.unbind(-1)))


def _axis_index(like: Tensor, axis: int) -> Tensor:
    """The index along a dimension of a tensor, in a shape that broadcasts with it."""
    return torch.arange(like.shape[axis]).reshape(-1, *[1] * (like.dim() - axis - 1))


INDEXED = ("gather", "gather_along_axis", "gather_nd", "scatter", "scatter_along_axis", "scatter_nd")
"""The operations whose negative indices count from the end, up to iOS 16."""


def counted_from_zero(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One of INDEXED as it is from iOS 17 on, where negative indices are out of bounds (`iOS17.scatter_gather`)."""

    def checked(*, indices: Tensor, **given: Tensor) -> Tensor:
        if indices.numel() and int(indices.min()) < 0:
            raise ValueError("an index is below 0, which Core ML does not take from iOS 17 on")
        return run(indices=indices, **given)

    return checked


def _inside(indices: Tensor, size: int) -> Tensor:
    if indices.numel() and not -size <= int(indices.min()) <= int(indices.max()) < size:
        raise ValueError(f"an index is outside of a dimension of {size}")
    return indices % size
