"""palette4: each weight one of sixteen values that the whole tensor shares, the first of them zero.

The other fifteen are the centres of k-means over the weights that survive: Lloyd's algorithm, started at their
quantiles, so that equal weights always give equal palettes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENTRIES = 16
_ITERATIONS = 100


def palettize(weights: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """The place of each weight in the palette, and the palette: fp16, shape (16,), zero first.

    Each weight takes the nearest value. A zero stays zero, and a survivor nearest to zero becomes one.
    weights: of any shape, within fp16.
    """
    levels = np.unique(_centres(weights).astype(np.float16))
    levels = levels[levels != 0]
    ordered = np.sort(np.append(levels, np.float16(0))).astype(np.float32)
    places = np.searchsorted((ordered[1:] + ordered[:-1]) / 2, weights)
    zero = int(np.searchsorted(ordered, 0))
    codes = np.append(np.arange(1, zero + 1), [0, *range(zero + 1, ordered.size)]).astype(np.int8)
    return codes[places], np.pad(np.append(np.float16(0), levels), (0, ENTRIES - ordered.size))


def _centres(weights: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Of the survivors, which fp16 makes so few values that clustering millions of weights is no work."""
    counts = np.bincount(weights.reshape(-1).astype(np.float16).view(np.uint16), minlength=1 << 16)
    bits = np.flatnonzero(counts)
    values, counts = bits.astype(np.uint16).view(np.float16).astype(np.float64), counts[bits]
    order = np.argsort(values)
    values, counts = values[order][values[order] != 0], counts[order][values[order] != 0]
    if values.size < ENTRIES:
        return np.asarray(values)
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    quantiles = (np.arange(ENTRIES - 1) + 0.5) / (ENTRIES - 1)
    start = np.unique(values[np.searchsorted(np.cumsum(counts) / counts.sum(), quantiles)])
    means = KMeans(start.size, init=start[:, None], n_init=1, max_iter=_ITERATIONS, tol=1e-6)
    # one thread: several add up in an order of their own each time
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        means.fit(values[:, None], sample_weight=counts)
    return np.asarray(means.cluster_centers_[:, 0])
