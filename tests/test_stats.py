"""Intervals that cover what they promise, on data like ours: scenarios of four alike tasks."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envtune.common import stats

OUTCOMES = st.lists(st.integers(0, 1), min_size=2, max_size=40)


@pytest.mark.parametrize(
    "successes, n, low, high",
    [(0, 10, 0.0, 0.3085), (1, 10, 0.0025, 0.4450), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1)],
)
def test_the_exact_interval_has_its_published_values(successes, n, low, high):
    assert stats.exact(successes, n) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 400), st.data())
def test_the_exact_interval_holds_its_share(n, data):
    successes = data.draw(st.integers(0, n))
    low, high = stats.exact(successes, n)
    assert 0.0 <= low <= successes / n <= high <= 1.0
    mirrored = stats.exact(n - successes, n)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-9)


@pytest.mark.parametrize("successes, n", [(0, 0), (3, 2), (-1, 2)])
def test_an_impossible_count_is_refused(successes, n):
    with pytest.raises(ValueError, match="successes"):
        stats.exact(successes, n)


@given(OUTCOMES)
def test_an_interval_holds_its_mean_and_stays_a_share(valid):
    mean, low, high, error = stats.share(valid, [i // 4 for i in range(len(valid))])
    assert mean == pytest.approx(np.mean(valid)) and error >= 0
    assert 0.0 <= low <= mean + 1e-12 and mean <= high + 1e-12 <= 1.0 + 2e-12


def test_nothing_that_varies_is_no_certainty():
    assert stats.share([0] * 40, [i // 4 for i in range(40)])[:3] == (0.0, *stats.exact(0, 10))
    assert stats.share([1, 0, 1, 1], ["a"] * 4)[:3] == (0.75, 0.0, 1.0)


def test_the_standard_error_is_that_of_the_cluster_formula():
    """Miller 2024, equation 4: sums of residuals by cluster."""
    rng = random.Random(0)
    clusters = [i // 4 for i in range(400)]
    values = [float(rng.random() < (0.2, 0.8)[c % 2]) for c in clusters]
    residuals = np.bincount(clusters, np.array(values) - np.mean(values))
    expected = math.sqrt((residuals**2).sum()) / len(values)
    assert stats.bootstrap(values, clusters).error == pytest.approx(expected, rel=0.06)


def scenarios(rng, count, effect=0.0):
    """Results of `count` scenarios of four tasks each that mostly share their luck."""
    luck = rng.beta(0.4, 0.4, count).repeat(4)
    return (rng.random(4 * count) < np.clip(luck + effect, 0, 1)).astype(float)


def coverage(interval, rounds=300):
    """Share of made-up evaluations of 100 scenarios whose interval holds the truth, 0.5."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(rounds):
        low, high = interval(scenarios(rng, 100))
        held += low <= 0.5 <= high
    return held / rounds


def test_the_clustered_interval_covers_and_the_one_of_independent_tasks_does_not():
    clusters = [i // 4 for i in range(400)]
    ours = coverage(lambda valid: stats.bootstrap(valid, clusters, draws=400)[1:3])
    naive = coverage(lambda valid: stats.exact(int(valid.sum()), len(valid)))
    assert 0.92 <= ours <= 0.98 and naive < 0.85


def test_crossed_seeds_widen_an_interval_that_pooling_makes_too_narrow():
    """Twelve runs that differ by themselves: pooled over seeds, the interval misses the truth."""
    clusters, seeds = np.tile(np.arange(100).repeat(4), 12), np.arange(12).repeat(400)
    rng, rounds, held = np.random.default_rng(2), 120, {"crossed": 0, "pooled": 0}
    for _ in range(rounds):
        luck = rng.beta(2, 2, 100).repeat(4)
        shift = rng.normal(0, 0.12, 12)
        valid = np.concatenate([(rng.random(400) < np.clip(luck + s, 0, 1)) for s in shift])
        valid = valid.astype(float)
        _, low, high, _ = stats.bootstrap(valid, clusters, seeds, draws=300)
        held["crossed"] += low <= 0.5 <= high
        low, high = stats.exact(int(valid.sum()), len(valid))
        held["pooled"] += low <= 0.5 <= high
    assert held["crossed"] / rounds >= 0.9 and held["pooled"] / rounds < 0.7


def test_a_difference_that_is_none_is_called_one_about_once_in_twenty():
    rng, clusters, rounds = np.random.default_rng(3), [i // 4 for i in range(160)], 300
    found = [
        stats.paired(scenarios(rng, 40) - scenarios(rng, 40), clusters, flips=400)
        for _ in range(rounds)
    ]
    assert 0.02 <= sum(d.p_value <= 0.05 for d in found) / rounds <= 0.09
    assert 0.90 <= sum(d.low <= 0 <= d.high for d in found) / rounds <= 0.98


def test_the_least_difference_that_is_seen_is_seen_four_times_in_five():
    rng, clusters, rounds, true = np.random.default_rng(4), list(range(200)), 120, 0.1

    def differences():
        """Of 200 tasks: won, lost, or as before; on average 0.1 a task."""
        return rng.choice((1.0, -1.0, 0.0), 200, p=(0.15 + true / 2, 0.15 - true / 2, 0.7))

    detectable = np.mean([stats.paired(differences(), clusters).detectable for _ in range(20)])
    seen = sum(
        stats.paired(differences(), clusters, flips=400).p_value <= 0.05 for _ in range(rounds)
    )
    assert detectable == pytest.approx(0.107, abs=0.01)
    assert 0.65 <= seen / rounds <= 0.85  # of a true difference just below it


@given(st.lists(st.sampled_from((-1, 0, 1)), min_size=2, max_size=30))
def test_a_difference_turns_with_its_sign(values):
    clusters = [i // 2 for i in range(len(values))]
    one, other = stats.paired(values, clusters), stats.paired([-v for v in values], clusters)
    assert one.mean == pytest.approx(-other.mean) and one.p_value == pytest.approx(other.p_value)
    assert 0 < one.p_value <= 1 and one.low <= one.mean + 1e-12 <= one.high + 2e-12


def test_a_sign_flip_of_few_clusters_is_exact():
    assert stats.paired([1] * 6, range(6)).p_value == 2 / 64
    assert stats.paired([0] * 8, range(8)).p_value == 1.0
    assert stats.paired([0] * 8, range(8)).detectable > 0.3


def test_a_difference_without_spread_is_no_certainty():
    bound = stats.exact(0, 25)[1]
    found = stats.paired([1] * 25, range(25))
    assert (found.low, found.high) == pytest.approx((1 - 2 * bound, 1.0))
    assert found.error and found.detectable and found.detectable > 0.1
    found = stats.paired([0] * 50, [i // 2 for i in range(50)])
    assert (found.low, found.high) == (-bound, bound)


@given(st.lists(st.sampled_from((-1, 0, 1)), min_size=2, max_size=stats.FEW - 1))
def test_the_interval_of_a_difference_in_few_clusters_is_at_least_the_exact_one(values):
    n, won, lost = len(values), values.count(1), values.count(-1)
    found = stats.paired(values, range(n))
    assert found.low <= stats.exact(won, n)[0] - stats.exact(lost, n)[1] + 1e-9
    assert found.high >= stats.exact(won, n)[1] - stats.exact(lost, n)[0] - 1e-9


@pytest.mark.parametrize("values", [[1, 1], [0, 1], [0, 0]])
def test_a_single_cluster_says_nothing_and_is_json(values):
    found = stats.paired(values, ["a", "a"])
    assert (found.low, found.high, found.error, found.detectable) == (-1.0, 1.0, None, None)
    assert "null" in json.dumps(found._asdict(), allow_nan=False)


def test_unequal_columns_and_no_value_are_refused():
    for values, clusters in (([], []), ([1], []), ([1, 0], ["a"])):
        with pytest.raises(ValueError, match="as many values as clusters"):
            stats.bootstrap(values, clusters)


def test_pass_at_k_and_pass_hat_k_are_the_shares_of_all_choices_of_k_runs():
    from itertools import combinations

    for n in range(1, 7):
        for right in range(n + 1):
            runs = [True] * right + [False] * (n - right)
            for k in range(1, n + 1):
                chosen = list(combinations(runs, k))
                any_right = sum(map(any, chosen)) / len(chosen)
                all_right = sum(map(all, chosen)) / len(chosen)
                assert stats.pass_at_k(n, right, k) == pytest.approx(any_right)
                assert stats.pass_hat_k(n, right, k) == pytest.approx(all_right)
    with pytest.raises(ValueError, match="k = 3 of n = 2"):
        stats.pass_at_k(2, 1, 3)


def made_up_study(rng, seeds, spread, effect=0.0):
    """Differences of two cases: seeds differ by `spread`, scenarios and both together too."""
    shift, luck = rng.normal(effect, spread, seeds), rng.normal(0, 0.1, 100)
    both = rng.normal(0, 0.2, (100, seeds))
    half = ((shift[None] + luck[:, None] + both) / 2)[..., None].repeat(4, 2)
    one, other = (rng.random(half.shape) < np.clip(0.6 + way * half, 0, 1) for way in (1, -1))
    rows, cols, _ = np.indices(half.shape)
    return (one.astype(float) - other).ravel(), rows.ravel(), cols.ravel()


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_an_interval_over_five_seeds_covers_new_seeds(spread):
    rng = np.random.default_rng(4)
    found = [stats.crossed(*made_up_study(rng, 5, spread)) for _ in range(300)]
    assert 0.92 <= sum(d.low <= 0 <= d.high for d in found) / 300 <= 0.985
    assert all((d.low > 0 or d.high < 0) == (d.p_value < 0.05) for d in found)


def test_a_difference_between_seeds_counts_and_what_would_be_seen_is_seen():
    rng = np.random.default_rng(5)
    still, moving = (stats.crossed(*made_up_study(rng, 5, spread)) for spread in (0.0, 0.15))
    assert moving.error > 2 * still.error and moving.detectable > 2 * still.detectable
    effect = np.mean([stats.crossed(*made_up_study(rng, 5, 0.0)).detectable for _ in range(40)])
    seen = [stats.crossed(*made_up_study(rng, 5, 0.0, effect)).p_value < 0.05 for _ in range(150)]
    assert 0.7 <= np.mean(seen) <= 0.95


def test_the_crossed_error_is_that_of_the_analysis_of_variance():
    cells = np.array([[0.2, 0.4], [0.1, 0.5], [0.3, 0.9]])  # clusters x seeds, by hand:
    rows, cols = np.indices(cells.shape)
    found = stats.crossed(cells.ravel(), rows.ravel(), cols.ravel())
    clusters, seeds, rest = 0.06, 0.24, 0.02  # mean squares
    parts = np.array([clusters, seeds, -rest])
    assert found.mean == pytest.approx(0.4)
    assert found.error == pytest.approx(math.sqrt(parts.sum() / 6))
    free = parts.sum() ** 2 / (parts**2 / [2, 1, 2]).sum()
    value, below = stats._student(free)
    assert found.high - found.mean == pytest.approx(np.interp(0.975, below, value) * found.error)


@pytest.mark.parametrize("free, quantile", [(1, 12.706), (4, 2.776), (30, 2.042), (2, 4.303)])
def test_quantiles_of_t_are_the_tabled_ones(free, quantile):
    value, below = stats._student(free)
    assert np.interp(0.975, below, value) == pytest.approx(quantile, rel=2e-3)


def test_seeds_that_did_not_play_every_task_are_refused():
    with pytest.raises(ValueError, match="1 of their pairs missing"):
        stats.crossed([0.1, 0.2, 0.3], ["a", "a", "b"], [0, 1, 0])
    with pytest.raises(ValueError, match="2 clusters and 1 seeds"):
        stats.crossed([0.1, 0.2], ["a", "b"], [0, 0])


def test_no_difference_at_all_is_no_certainty():
    found = stats.crossed([0.0] * 40, [i // 2 for i in range(40)], [0, 1] * 20)
    assert found.mean == 0 and found.p_value == 1.0 and found.low < -0.05 and found.high > 0.05


def test_the_same_difference_everywhere_is_no_certainty_either():
    cells = [(cluster, seed) for cluster in range(100) for seed in range(5)]
    found = stats.crossed([1 / 3] * 500, *zip(*cells, strict=True))  # their mean is rounded
    assert found.low < 0.3 and found.high > 0.35 and found.error == 0.0
