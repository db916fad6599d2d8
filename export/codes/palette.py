"""palette4: each weight one of sixteen values that the whole tensor shares, the first of them zero.

The other fifteen are the centres of k-means over the weights that survive: Lloyd's algorithm, started at places that
follow from them, so that equal weights always give equal palettes. With three bits and fewer zero is outside the
palette: every code stands for a survivor's value, and zeros are known by the mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

ENTRIES = 16
_ITERATIONS, _QUANTILES = 12, 1024


def levels(bits: int) -> int:
    """How many values beside zero a palette has.

    >>> [levels(bits) for bits in (4, 3, 2, 1)]
    [15, 8, 4, 2]
    """
    return ENTRIES - 1 if bits == 4 else 1 << bits


def palettize(weights: NDArray[np.floating[Any]], bits: int = 4) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """The place of each weight in the palette, and the palette: fp16, shape (`levels(bits)` + 1,), zero first.

    Each weight takes the nearest value. A zero stays zero; of four bits a survivor nearest to zero becomes one, of
    fewer it takes the nearest of the others. weights: of any shape, within fp16.
    """
    most = levels(bits)
    found = np.unique(_values(weights, most).astype(np.float16))
    found = found[found != 0]
    codes = nearest(weights, found, zero=bits == 4)
    return codes, np.pad(np.append(np.float16(0), found), (0, most - found.size))


def nearest(weights: NDArray[np.floating[Any]], values: NDArray[np.float16], *, zero: bool) -> NDArray[np.int8]:
    """The place of the nearest value for each weight, counted from one; 0 stands for zero, which zeros take, and with
    `zero` whatever is nearest to it.

    values: ascending, none of them zero.
    """
    ordered = np.sort(np.append(values, np.float16(0)) if zero or not values.size else values).astype(np.float32)
    places = np.searchsorted((ordered[1:] + ordered[:-1]) / 2, weights)
    if ordered.size == values.size:
        return np.where(weights == 0, 0, places + 1).astype(np.int8)
    at = int(np.searchsorted(ordered, 0))
    codes = np.append(np.arange(1, at + 1), [0, *range(at + 1, ordered.size)]).astype(np.int8)
    return np.asarray(codes[places])


def _values(weights: NDArray[np.floating[Any]], most: int) -> NDArray[np.floating[Any]]:
    """The values of the survivors, or the centres of so many of them."""
    import torch

    survivors = np.asarray(weights[weights != 0])
    few = np.unique(survivors)
    return few if few.size <= most else np.asarray(centres(torch.from_numpy(survivors), most).numpy())


def centres(values: Tensor, count: int) -> Tensor:
    """The centres of k-means of numbers, ascending, (count,): Lloyd's algorithm, begun where many levels would lie.

    These are as dense as the cube root of the numbers' own density (Panter & Dite 1951), and _ITERATIONS from there
    come within hundredths of a decibel of the end. Sorted numbers of one cluster follow each other, so that a step
    takes sums between `count` - 1 bounds: quick enough for every step of training through a palette, which has to
    round as the file will.
    """
    import torch

    def places(parts: int) -> Tensor:
        return (torch.arange(parts, device=values.device) + 0.5) / parts

    # numpy sorts several times as fast as PyTorch on a CPU
    ascending = torch.from_numpy(np.sort(values.numpy())) if values.device.type == "cpu" else values.sort().values
    ordered = ascending.double()
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    most = min(len(ordered), _QUANTILES)
    quantiles = ordered[(places(most) * len(ordered)).long()]
    levels_below = torch.cat([ordered.new_zeros(1), quantiles.diff().pow(2 / 3).cumsum(0)])
    found = quantiles[torch.searchsorted(levels_below, places(count) * levels_below[-1]).clamp(max=most - 1)]
    ends = torch.tensor([0, len(ordered)], device=values.device)
    if values.device.type == "cpu":  # numpy, whose calls take less time for so few numbers
        found = torch.from_numpy(_settled(np, ordered.numpy(), sums.numpy(), found.numpy(), ends.numpy()))
    else:
        found = _settled(torch, ordered, sums, found, ends)
    return found.float()


def _settled(library: Any, ordered: Any, sums: Any, found: Any, ends: Any) -> Any:
    """The centres after Lloyd's iterations, in arrays of numpy or tensors of PyTorch, by functions that both have."""
    for _ in range(_ITERATIONS):
        bounds = library.searchsorted(ordered, (found[1:] + found[:-1]) / 2)
        edges = library.concatenate([ends[:1], bounds, ends[1:]])
        members, below = edges[1:] - edges[:-1], sums[edges]
        means = (below[1:] - below[:-1]) / (members + (members == 0))
        found = library.where(members > 0, means, found)
    return found
