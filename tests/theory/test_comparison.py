"""Comparisons over a few seeds: golden values by hand, exact enumeration of every resample, and what they reduce to."""

import itertools

import numpy as np
import pytest
from scipy import stats

from steersman.errors import UsageError
from steersman.theory import comparison
from steersman.theory.statistics import bootstrap_interval, iqm, probability_of_improvement


def resamples(n):
    """Every one of the n^n resamples of n runs: [n^n, n] indices."""
    return np.array(list(itertools.product(range(n), repeat=n)))


def exact_ends(values, confidence, slack=0.01):
    """The ends of the interval over equally likely values, where chance cannot move them to another value."""
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    near = [np.quantile(values, np.clip(tails + d, 0, 1), method="inverted_cdf") for d in (-slack, 0, slack)]
    np.testing.assert_allclose(near[0], near[2])  # or the test would hang on a coin's edge
    return near[1]


def test_the_stratified_bootstrap_against_every_resample():
    scores = np.array([[0.0, 10.0], [1.0, 40.0], [5.0, 20.0]])  # 3 runs of 2 tasks
    every = resamples(3)
    means = [np.mean([*scores[i, 0], *scores[j, 1]]) for i in every for j in every]
    got = comparison.stratified_bootstrap(scores, np.mean, 0.9, resamples=60_000)
    assert got.value == pytest.approx(76 / 6)
    np.testing.assert_allclose([got.low, got.high], np.quantile(means, [0.05, 0.95]), atol=0.35)
    # Rows kept together (no strata) would give another interval: the first task's best with the second's middle.
    together = [scores[i].mean() for i in every]
    assert np.quantile(together, 0.95) != pytest.approx(np.quantile(means, 0.95), abs=0.5)


@pytest.mark.parametrize("statistic", [np.mean, np.median, iqm])
def test_with_one_task_it_is_the_plain_bootstrap(statistic):
    x = np.random.default_rng(0).exponential(size=40)
    value, low, high = comparison.stratified_bootstrap(x, statistic)
    assert value == pytest.approx(statistic(x, axis=-1))
    np.testing.assert_allclose((low, high), bootstrap_interval(x, statistic), atol=0.04 * (high - low))
    assert comparison.stratified_bootstrap(x[:, None], statistic) == (value, low, high)


def test_one_run_shows_no_spread():
    for got in (
        comparison.stratified_bootstrap([3.0]),
        comparison.improvement([3.0], [1.0, 2.0]),
        comparison.censored_median([3.0]),
        comparison.performance_profile([3.0], [1.0]),
    ):
        assert np.isnan(got.low).all()
        assert np.isnan(got.high).all()
    assert comparison.stratified_bootstrap([500.0] * 5) == (500.0, 500.0, 500.0)


def test_improvement_against_every_resample():
    x, y = np.array([1.0, 4.0, 6.0, 7.0]), np.array([2.0, 4.0, 5.0])
    wins = [probability_of_improvement(x[i], y[j]) for i in resamples(4) for j in resamples(3)]
    for confidence in (0.5, 0.8):
        got = comparison.improvement(x, y, confidence, resamples=40_000)
        assert got.value == pytest.approx((0 + 1.5 + 3 + 3) / 12)
        np.testing.assert_allclose([got.low, got.high], exact_ends(wins, confidence, slack=0.005))
    back = comparison.improvement(y, x, confidence, resamples=40_000)
    np.testing.assert_allclose(np.array(back), 1 - np.array([got.value, got.high, got.low]))


def test_improvement_is_the_mann_whitney_statistic_and_the_mean_over_tasks():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (9, 2)).astype(float), rng.integers(0, 5, (7, 2)).astype(float)
    of_task = [comparison.improvement(x[:, m], y[:, m]).value for m in range(2)]
    u = [stats.mannwhitneyu(x[:, m], y[:, m]).statistic / 63 for m in range(2)]
    np.testing.assert_allclose(of_task, u)
    both = comparison.improvement(x, y)
    assert both.value == pytest.approx(np.mean(u))
    assert both.low < both.value < both.high
    assert comparison.improvement(x + 9, y) == (1, 1, 1)
    assert comparison.improvement([2.0, 2.0], [2.0, 2.0]) == (0.5, 0.5, 0.5)


def test_improvement_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / np.sqrt(2))  # P(X > Y) for means one standard deviation apart
    ends = [comparison.improvement(rng.normal(1, size=15), rng.normal(size=15), 0.8, resamples=300) for _ in range(200)]
    assert 0.68 < np.mean([low <= truth <= high for _, low, high in ends]) < 0.9


def test_performance_profile():
    x = np.array([[0.0, 2.0], [1.0, 2.0], [1.0, 4.0], [3.0, 6.0]])
    levels = [-1.0, 0.0, 1.0, 2.0, 5.9, 6.0]
    got = comparison.performance_profile(x, levels, resamples=5000)
    np.testing.assert_allclose(got.value, np.array([8, 7, 5, 3, 1, 0]) / 8)
    assert (got.low <= got.value).all()
    assert (got.value <= got.high).all()
    grid = np.linspace(0, 6, 6001)
    area = comparison.performance_profile(x, grid, resamples=2).value.mean() * 6
    assert area == pytest.approx(x.mean(), abs=0.01)
    one_task = comparison.performance_profile(x[:, 0], [0.5], resamples=5000)
    shares = [np.mean(x[i, 0] > 0.5) for i in resamples(4)]
    np.testing.assert_allclose([one_task.low[0], one_task.high[0]], exact_ends(shares, 0.95))


def test_the_median_of_a_censored_sample():
    inf = np.inf
    x = np.array([10.0, 20.0, 30.0])
    exact = np.median(x[resamples(3)], axis=-1)
    got = comparison.censored_median(x, 0.8)
    assert got.value == 20
    np.testing.assert_allclose([got.low, got.high], exact_ends(exact, 0.8))
    assert comparison.censored_median([5.0, 7.0, inf, inf, 6.0]).value == 7
    half = comparison.censored_median([5.0, inf])
    assert half == (inf, 5, inf)
    assert comparison.censored_median([inf, inf]) == (inf, inf, inf)
    none_lost = comparison.censored_median([5.0, 6.0, 7.0, inf])
    assert none_lost.value == 6.5
    assert none_lost.low < 6.5 < none_lost.high == inf


def test_steps_to_threshold():
    steps, returns, episodes = [10, 20, 30, 40, 50], [np.nan, 1.0, 5.0, 9.0, 9.0], [0, 3, 1, 1, 4]
    solved = lambda threshold, window: comparison.steps_to_threshold(steps, returns, episodes, threshold, window)
    assert solved(1.0, 1) == 20
    assert solved(5.0, 1) == 30
    assert solved(6.9, 2) == 40  # (5 + 9) / 2
    assert solved(7.1, 2) == 50
    assert solved(1.0, 4) == 30  # three episodes are not enough, then (3 + 5) / 4 = 2
    assert solved(2.1, 4) == 40  # (3 + 5 + 9) / 5: whole rows
    assert solved(9.5, 1) == np.inf
    assert solved(0.0, 10) == np.inf  # there never were so many
    assert comparison.steps_to_threshold([1, 2], [-200.0, -90.0], [1, 1], -100.0, 1) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda: comparison.stratified_bootstrap([]),
        lambda: comparison.stratified_bootstrap([1.0, np.inf]),
        lambda: comparison.stratified_bootstrap(np.zeros((2, 2, 2))),
        lambda: comparison.stratified_bootstrap([1.0, 2.0], confidence=95),
        lambda: comparison.improvement(np.zeros((3, 2)), np.zeros(3)),
        lambda: comparison.censored_median([]),
        lambda: comparison.censored_median([np.nan]),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(UsageError):
        call()
