"""Statistics that tables, figures and the claims share. No normal approximation of a proportion.

>>> share([1, 1, 0, 0, 1, 1, 1, 1], list("aaaabbbb"))[:3]       # mean, low, high
(0.75, 0.5, 1.0)
>>> paired([1, -1, 0, 1], ["a", "b", "c", "d"]).p_value
1.0

The variants of a scenario resemble each other, so intervals, tests and standard errors take whole
scenarios as their units (Miller 2024, arXiv 2411.00640). Where every task was run with several
seeds, scenarios and seeds are both resampled, crossed: the seeds share their tasks.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

FEW = 20
"""With fewer clusters than this a bootstrap interval is too narrow."""
Z_95, POWER_80 = 1.959964, 2.801586
"""Two-sided 5%; the same plus the 80% quantile: effect divided by standard error that is seen."""


class Estimate(NamedTuple):
    """A mean with its 95% interval and standard error."""

    mean: float
    low: float
    high: float
    error: float


class Difference(NamedTuple):
    """A mean difference with its 95% interval; see `paired`."""

    mean: float
    low: float
    high: float
    error: float | None  # standard error; None from a single cluster, which has no spread
    p_value: float
    detectable: float | None  # least true difference seen with 80% power at the two-sided 5% level

    def turned(self) -> "Difference":
        """The same two, the other way round."""
        return self._replace(mean=-self.mean, low=-self.high, high=-self.low)


def exact(successes: int, n: int) -> tuple[float, float]:
    """95% interval of a proportion of independent trials (Clopper-Pearson).

    >>> exact(0, 10)
    (0.0, 0.308497...)
    """
    _refuse_counts(successes, n)
    ways = np.array(
        [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    )  # (n + 1,) log of n over k
    k = np.arange(n + 1)

    def at_most(count: int, p: float) -> float:
        return float(np.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))[: count + 1].sum())

    def solve(count: int, target: float) -> float:
        low, high = 0.0, 1.0  # at_most falls with p
        for _ in range(50):
            p = (low + high) / 2
            low, high = (p, high) if at_most(count, p) > target else (low, p)
        return (low + high) / 2

    low = solve(successes - 1, 0.975) if successes else 0.0
    return low, solve(successes, 0.025) if successes < n else 1.0


def _refuse_counts(successes: int, n: int) -> None:
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n with n > 0, got {successes} of {n}")


def bootstrap(
    values: Sequence[float],
    clusters: Sequence,
    seeds: Sequence | None = None,
    draws: int = 2_000,
    seed: int = 0,
) -> Estimate:
    """A mean, with a bootstrap over whole clusters, and over seeds where there are several.

    A draw takes as many clusters and as many seeds as there are, with replacement, and weighs a
    value by how often both its cluster and its seed came (Owen 2007, "the pigeonhole bootstrap").
    Percentiles; with fewer than FEW clusters, or with 2 or 3 seeds, too narrow.
    ValueError without a value.
    """
    columns = [clusters] if seeds is None else [clusters, seeds]
    if not len(values) or any(len(values) != len(column) for column in columns):
        raise ValueError(
            f"expected as many values as clusters, at least one, got {len(values)} and "
            f"{', '.join(str(len(column)) for column in columns)}"
        )
    sums, counts = _cells(values, clusters, [0] * len(values) if seeds is None else seeds)
    rng = np.random.default_rng(seed)
    by_cluster = _weights(rng, sums.shape[0], draws)
    by_seed = _weights(rng, sums.shape[1], draws) if sums.shape[1] > 1 else np.ones((draws, 1))
    total = ((by_cluster @ sums) * by_seed).sum(1)
    number = ((by_cluster @ counts) * by_seed).sum(1)
    means = total[number > 0] / number[number > 0]  # a draw can miss every run that was made
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(np.mean(values)), float(low), float(high), float(means.std()))


def _cells(
    values: Sequence[float], clusters: Sequence, seeds: Sequence
) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of the values of each cluster with each seed, both (clusters, seeds)."""
    rows, cols = (
        np.unique(np.asarray(c).astype(str), return_inverse=True)[1] for c in (clusters, seeds)
    )
    sums, counts = np.zeros((2, rows.max() + 1, cols.max() + 1))
    np.add.at(sums, (rows, cols), np.asarray(values, float))
    np.add.at(counts, (rows, cols), 1)
    return sums, counts


def _weights(rng: np.random.Generator, n: int, draws: int) -> np.ndarray:
    """How often each of n units comes in each draw (draws, n)."""
    chosen = rng.integers(0, n, (draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=n * draws).reshape(draws, n).astype(float)


def share(valid: Sequence[float], clusters: Sequence, seeds: Sequence | None = None) -> Estimate:
    """`bootstrap` of values in [0, 1], with an interval also where little varies.

    If all values are 0, or all are 1, or with fewer than FEW clusters, the interval is at least the
    exact one of as many independent trials as there are clusters; one cluster alone says nothing.
    """
    made, units = bootstrap(valid, clusters, seeds), len({str(cluster) for cluster in clusters})
    if units >= FEW and made.mean not in (0.0, 1.0):
        return made
    low, high = 0.0, 1.0
    if units > 1:
        low = min(made.low, exact(math.floor(units * made.mean + 1e-9), units)[0])
        high = max(made.high, exact(math.ceil(units * made.mean - 1e-9), units)[1])
    return Estimate(made.mean, low, high, max(made.error, (high - low) / 2 / Z_95))


def paired(
    differences: Sequence[float],
    clusters: Sequence,
    seeds: Sequence | None = None,
    flips: int = 10_000,
) -> Difference:
    """The mean of differences of two policies on the same tasks, each in [-1, 1].

    Interval and standard error: `bootstrap`. p_value: two-sided, by flipping the signs of whole
    clusters (exact for 12 or fewer that differ); it asks about these runs, so another training
    seed may still turn it. With fewer than FEW clusters trust it before the interval. detectable:
    2.8 standard errors.
    If all clusters differ alike, or with fewer than FEW of them, the interval is at least that of
    the exact bounds on the shares that gain and that lose: of n clusters without any difference,
    the exact one of 0 of n in either direction. One cluster alone says nothing: [-1, 1].
    """
    made = bootstrap(differences, clusters, seeds)
    names, place = np.unique(np.asarray(clusters).astype(str), return_inverse=True)
    sums = np.bincount(place, np.asarray(differences, float))
    moved = sums[np.abs(sums) > 1e-12]
    means, units = sums / np.bincount(place), len(names)
    if 1 < units < FEW or np.ptp(means) < 1e-12:
        low, high = _exact_change(sums / len(differences), units)
        low, high = min(made.low, low), max(made.high, high)
        made = Estimate(made.mean, low, high, max(made.error, (high - low) / 2 / Z_95))
    if len(moved) <= 12:
        signs = np.array(list(product((-1, 1), repeat=len(moved))))
        extra = 0
    else:
        signs = np.random.default_rng(0).choice((-1, 1), (flips, len(moved)))
        extra = 1  # the observed signs are one of the arrangements
    as_far = np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9 if len(moved) else np.ones(1, bool)
    p_value = (int(as_far.sum()) + extra) / (len(as_far) + extra)
    if units == 1:
        return Difference(made.mean, -1.0, 1.0, None, p_value, None)
    return Difference(*made, p_value, POWER_80 * made.error)


def crossed(differences: Sequence[float], clusters: Sequence, seeds: Sequence) -> Difference:
    """`paired` where a few training seeds were each judged on the same tasks.

    A bootstrap of five seeds misjudges the spread between seeds. Here clusters and seeds are
    crossed random effects: an analysis of variance without replication, t quantiles with
    Satterthwaite's degrees of freedom (Westfall, Kenny and Judd 2014). So p_value and detectable
    ask about new tasks and new seeds. The same for values that are no differences.
    ValueError unless every seed has every cluster, and both are several.

    >>> crossed([0.2, 0.4, 0.1, 0.3], list("aabb"), [0, 1, 0, 1]).mean
    0.25
    """
    sums, counts = _cells(differences, clusters, seeds)
    n_rows, n_cols = counts.shape
    if min(counts.shape) < 2 or not counts.all():
        raise ValueError(
            f"expected every one of several seeds with every one of several clusters, got {n_rows} "
            f"clusters and {n_cols} seeds with {int((counts == 0).sum())} of their pairs missing"
        )
    cells = sums / counts  # (clusters, seeds)
    mean, of_cluster, of_seed = cells.mean(), cells.mean(1), cells.mean(0)
    left = cells - of_cluster[:, None] - of_seed[None] + mean
    free = np.array([n_rows - 1, n_cols - 1, (n_rows - 1) * (n_cols - 1)])
    squares = (
        np.array([n_cols, n_rows, 1])
        * [((of_cluster - mean) ** 2).sum(), ((of_seed - mean) ** 2).sum(), (left**2).sum()]
        / free
    )
    # a variance component that comes out below 0 counts as 0
    parts = max(
        (squares * [1, 1, -1], squares * [1, 0, 0], squares * [0, 1, 0]),
        key=lambda part: part.sum(),
    )
    error = math.sqrt(parts.sum() / cells.size)
    if error < 1e-12:  # nothing but rounding
        low, high = _exact_change(of_cluster / n_rows, n_rows)
        return Difference(float(mean), low, high, 0.0, float(abs(mean) < 1e-12), None)
    value, below = _student(parts.sum() ** 2 / (parts**2 / free).sum())
    reach, power = np.interp([0.975, 0.8], below, value)
    p_value = 2 * np.interp(-abs(mean) / error, value, below)
    low, high = mean - reach * error, mean + reach * error
    return Difference(*map(float, (mean, low, high, error, p_value, (reach + power) * error)))


def of_few(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of a few independent values, such as seeds, with Student's 95% interval.

    ValueError with fewer than two.

    >>> [round(float(x), 2) for x in of_few([1.0, 2.0, 3.0])]
    [2.0, -0.48, 4.48]
    """
    if len(values) < 2:
        raise ValueError(f"expected two values or more, got {len(values)}")
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    value, below = _student(len(values) - 1)
    reach = np.interp(0.975, below, value) * error
    return float(mean), float(mean - reach), float(mean + reach)


def _student(free: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of Student's t and the shares below them, on a fine grid."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 100_001)[1:-1]  # t = sqrt(free) tan(angle)
    share = np.cumsum(np.cos(angle) ** (free - 1))
    return math.sqrt(free) * np.tan(angle), share / share[-1]


def _exact_change(parts: np.ndarray, units: int) -> tuple[float, float]:
    """Least and largest mean change by exact bounds on gains and on losses.

    parts: what each of so many clusters adds to the mean (units,).
    """
    bounds = []
    for part in (np.maximum(parts, 0).sum(), np.maximum(-parts, 0).sum()):
        few, many = math.floor(units * part + 1e-9), math.ceil(units * part - 1e-9)
        bounds.append((exact(few, units)[0], exact(many, units)[1]))
    gain, loss = bounds
    return gain[0] - loss[1], gain[1] - loss[0]


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that at least one of k runs is right, unbiased, from `right` of n runs.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    _refuse_k(n, right, k)
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def pass_hat_k(n: int, right: int, k: int) -> float:
    """pass^k: the chance that all of k runs are right, unbiased, from `right` of n runs."""
    _refuse_k(n, right, k)
    return math.comb(right, k) / math.comb(n, k)


def _refuse_k(n: int, right: int, k: int) -> None:
    _refuse_counts(right, n)
    if not 1 <= k <= n:
        raise ValueError(f"expected 1 <= k <= n, got k = {k} of n = {n} runs")
