"""Statistics that tables and figures share.

>>> wilson(5, 10)
(0.236593..., 0.763406...)
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

Z_95 = 1.959964


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson score, valid near 0 and 1 too). ValueError for n = 0."""
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n with n > 0, got {successes} of {n}")
    share, z2 = successes / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # at 0 and n rounding could leave the share itself outside its interval
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def clustered(
    values: Sequence[float], clusters: Sequence, draws: int = 2_000, seed: int = 0
) -> tuple[float, float, float]:
    """(mean, low, high): a mean with its 95% interval where values of a cluster are correlated.

    The four variants of a scenario are such a cluster. A bootstrap over whole clusters:
    percentiles of the mean over `draws` samples of clusters. ValueError without a value.
    """
    if not len(values) or len(values) != len(clusters):
        raise ValueError(
            f"expected as many values as clusters, at least one, got {len(values)} and "
            f"{len(clusters)}"
        )
    names, place = np.unique(np.asarray(clusters).astype(str), return_inverse=True)
    sums, counts = np.bincount(place, np.asarray(values, float)), np.bincount(place)
    chosen = np.random.default_rng(seed).integers(0, len(names), (draws, len(names)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.mean(values)), float(low), float(high)


def sign_test(differences: Iterable[float]) -> tuple[int, int, float]:
    """(above 0, below 0, two-sided p) of paired differences; ties are left out. p is 1 for none."""
    differences = list(differences)
    above, below = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    n = above + below
    tail = sum(math.comb(n, k) for k in range(min(above, below) + 1)) / 2**n
    return above, below, min(1.0, 2 * tail)
