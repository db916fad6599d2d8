"""palette4: each weight one of sixteen values that the whole tensor shares, the first of them zero.

The other fifteen are the centres of k-means over the weights that survive: Lloyd's algorithm, started at their
quantiles, so that equal weights always give equal palettes. With three bits and fewer zero is outside the palette:
every code stands for a survivor's value, and zeros are known by the mask.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENTRIES = 16
_ITERATIONS = 100


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
    found = np.unique(_centres(weights, most).astype(np.float16))
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


def _centres(weights: NDArray[np.floating[Any]], most: int) -> NDArray[np.float64]:
    """Of the survivors, which fp16 makes so few values that clustering millions of weights is no work."""
    counts = np.bincount(weights.reshape(-1).astype(np.float16).view(np.uint16), minlength=1 << 16)
    bits = np.flatnonzero(counts)
    values, counts = bits.astype(np.uint16).view(np.float16).astype(np.float64), counts[bits]
    order = np.argsort(values)
    values, counts = values[order][values[order] != 0], counts[order][values[order] != 0]
    if values.size <= most:
        return np.asarray(values)
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    quantiles = (np.arange(most) + 0.5) / most
    start = np.unique(values[np.searchsorted(np.cumsum(counts) / counts.sum(), quantiles)])
    means = KMeans(start.size, init=start[:, None], n_init=1, max_iter=_ITERATIONS, tol=1e-6)
    # one thread: several add up in an order of their own each time
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        means.fit(values[:, None], sample_weight=counts)
    return np.asarray(means.cluster_centers_[:, 0])
