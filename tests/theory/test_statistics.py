"""Running moments against numpy, reports against scipy, bounds against the distributions they must hold for."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from steersman.errors import UsageError
from steersman.theory import statistics
from steersman.theory.statistics import RunningMoments, batch_moments

update = jax.jit(RunningMoments.update)
merge = jax.jit(RunningMoments.merge)


def of(x):
    return RunningMoments.init(jnp.zeros(x.shape[1:])).update(jnp.asarray(x, jnp.float32))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), offset=st.sampled_from([0.0, -3.0, 1e4]), scale=st.sampled_from([1e-2, 1.0, 50.0]))
def test_moments_of_batches_are_the_moments_of_all(seed, offset, scale):
    x = (np.random.default_rng(seed).normal(size=(3, 10, 2)) * scale + offset).astype(np.float32)
    seen = RunningMoments.init(jnp.zeros(2))
    for batch in x:
        seen = update(seen, jnp.asarray(batch))
    exact = x.reshape(-1, 2).astype(np.float64)
    assert seen.weight == 30
    np.testing.assert_allclose(seen.mean, exact.mean(0), rtol=1e-6, atol=1e-5 * scale)
    rounding = 1e-6 * abs(offset) * scale + 1e-12 * offset**2  # of the data itself, in float32
    np.testing.assert_allclose(seen.variance, exact.var(0), rtol=1e-5, atol=rounding)
    np.testing.assert_allclose(seen.m2, np.asarray(seen.variance) * 30)
    np.testing.assert_allclose(seen.std(), np.sqrt(seen.variance))


def test_merging_commutes_and_nothing_is_neutral():
    x = np.random.default_rng(0).normal(size=(12, 2)) + 5.0
    nothing, a, b, both = RunningMoments.init(jnp.zeros(2)), of(x[:4]), of(x[4:]), of(x)
    close = lambda p, q: jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-5), p, q)
    close(merge(a, b), both)
    close(merge(b, a), both)
    close(merge(a, nothing), a)
    close(merge(nothing, a), a)
    close(merge(nothing, nothing), nothing)
    small = of(1e-4 * x)
    np.testing.assert_array_equal(merge(nothing, small).variance, small.variance)  # to the bit, whatever nothing holds
    one, rest = of(1e3 * x[:2]), RunningMoments(jnp.float32(1e6), jnp.zeros(2), jnp.full(2, 1e-6))
    np.testing.assert_array_equal(merge(one, rest).variance, merge(rest, one).variance)


def test_leading_axes_and_trees():
    """[T, B, ...] is absorbed as [T * B, ...]; leaves that are not floating pass through untouched."""
    example = {"a": jnp.zeros(3), "deep": (jnp.zeros(()),), "image": jnp.zeros((2, 2), jnp.uint8), "n": jnp.int32(0)}
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32) + 2.0
    tree = lambda x: {
        "a": x,
        "deep": (x[..., 0],),
        "image": jnp.full((*x.shape[:-1], 2, 2), 200, jnp.uint8),
        "n": jnp.full(x.shape[:-1], 7, jnp.int32),
    }
    seen = RunningMoments.init(example).update(tree(jnp.asarray(x)))
    np.testing.assert_allclose(seen.mean["a"], x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(seen.variance["deep"][0], x[..., 0].var(), rtol=1e-5)
    assert seen.mean["image"].size == seen.variance["n"].size == 0
    for shape in [(4, 5), (4,), ()]:  # normalising takes any leading axes, none included
        y = seen.normalize(tree(jnp.ones((*shape, 3))))
        assert y["a"].shape == (*shape, 3)
        np.testing.assert_allclose(y["a"][..., 1], (1 - x[..., 1].mean()) / x[..., 1].std(), rtol=1e-4)
        assert y["image"].dtype == jnp.uint8
        assert np.all(y["image"] == 200)
        assert np.all(y["n"] == 7)
    described = RunningMoments.init(jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), example))
    assert jax.tree.structure(described) == jax.tree.structure(seen)


def test_normalize_and_scale():
    seen = of(np.array([[0.0, 3.0], [4.0, 3.0]]))  # mean 2 and std 2; a constant
    np.testing.assert_allclose(seen.normalize(jnp.array([[4.0, 3.0]])), [[1.0, 0.0]])
    np.testing.assert_allclose(seen.normalize(jnp.array([1000.0, 3.5])), [10.0, 10.0])  # clipped
    np.testing.assert_allclose(seen.normalize(jnp.array([-10.0, 3.0]), clip=5.0), [-5.0, 0.0])
    np.testing.assert_allclose(of(np.array([0.0, 4.0])).scale(jnp.array([-3.0, 0.0, 100.0])), [-1.5, 0.0, 10.0])
    nothing = RunningMoments.init(jnp.zeros(2))
    np.testing.assert_allclose(nothing.normalize(jnp.array([0.5, -2.0])), [0.5, -2.0])  # before any data: as is


def test_huge_numbers_do_not_overflow():
    """A sensor that says 1e20, or float32's largest number, for nothing seen; entries beside it are not touched."""
    sane = np.random.default_rng(0).normal(size=(256, 1)) + 1800.0
    for huge, seldom in [(1e20, 0.5), (3.4028235e38, 0.5), (-3.4028235e38, 0.01), (1e20, 1.0)]:
        beside = huge * (np.random.default_rng(1).random((256, 1)) < seldom)
        x = jnp.asarray(np.concatenate([sane, beside], 1), jnp.float32)
        seen = update(update(RunningMoments.init(jnp.zeros(2)), x), -x).merge(of(x))
        assert np.isfinite(jax.tree.leaves(seen)[1:]).all()
        once = of(x)
        np.testing.assert_array_equal(once.variance[0], of(sane).variance[0])
        normed = once.normalize(x)
        assert np.isfinite(normed).all()
        assert np.ptp(np.asarray(normed[:, 1])) > 1 or seldom == 1.0  # it still says whether something was seen
        assert np.isfinite(once.scale(x, clip=np.inf)).all()
    half = of(np.array([0.0, 1e15, 0.0, 1e15]))
    np.testing.assert_allclose(half.std(), 5e14)  # what fits is exact
    assert np.isnan(of(np.array([0.0, np.inf])).variance)  # an infinity is still a fault


def test_the_variance_does_not_drift_once_float32_no_longer_counts():
    """1.4e8 samples on, 9 more count as 8; a sum of squares, in the same steps, would take 5.49 more as 8 too."""
    start = RunningMoments(jnp.float32(1.4e8), jnp.float32(5.0), jnp.float32(0.61))
    batch = RunningMoments(jnp.float32(9.0), jnp.float32(5.0), jnp.float32(0.61))
    end, _ = jax.lax.scan(lambda m, _: (m.merge(batch), None), start, None, length=20_000)
    assert end.variance == pytest.approx(0.61, rel=1e-5)
    fresh, _ = jax.lax.scan(
        lambda m, _: (m.merge(batch), None), RunningMoments.init(jnp.zeros(())), None, length=20_000
    )
    assert fresh.weight == 180_000
    assert (fresh.mean, fresh.variance) == (5.0, pytest.approx(0.61, rel=1e-5))


def test_one_batch_alone():
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32) + 1e4
    weight, mean, variance = batch_moments(jnp.asarray(x))
    assert weight == 50
    np.testing.assert_allclose(mean, x.astype(float).mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, x.astype(float).var(0), rtol=1e-4)
    single = batch_moments(jnp.array([3.0]))
    assert tuple(map(float, single)) == (1.0, 3.0, 0.0)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"shape \(3,\); it needs a batch axis and then \(3,\)"):
        RunningMoments.init(jnp.zeros(3)).update(jnp.zeros(3))
    with pytest.raises(UsageError, match="batch axis"):
        batch_moments(jnp.float32(1.0))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11, 100])
def test_iqm_is_scipys_trimmed_mean(n):
    x = np.random.default_rng(n).normal(size=(3, n)) ** 3
    np.testing.assert_allclose(statistics.iqm(x, axis=-1), stats.trim_mean(x, 0.25, axis=-1))
    np.testing.assert_allclose(statistics.iqm(x.T, axis=0), stats.trim_mean(x, 0.25, axis=-1))
    assert statistics.iqm(x) == pytest.approx(stats.trim_mean(x.ravel(), 0.25))


@pytest.mark.parametrize("statistic", [np.mean, np.median, statistics.iqm])
def test_bootstrap_agrees_with_scipys(statistic):
    x = np.random.default_rng(0).exponential(size=60) * 100
    got = statistics.bootstrap_interval(x, statistic, confidence=0.9)
    reference = stats.bootstrap(
        (x,), statistic, confidence_level=0.9, n_resamples=9999, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    width = reference.high - reference.low
    np.testing.assert_allclose(got, reference, atol=0.06 * width)
    assert got[0] < statistic(x, axis=-1) < got[1]
    assert got == statistics.bootstrap_interval(x, statistic, confidence=0.9)
    assert got != statistics.bootstrap_interval(x, statistic, confidence=0.9, seed=1)


def test_bootstrap_band_is_the_interval_of_every_mean():
    x = np.random.default_rng(3).normal(size=(60, 4)) + np.arange(4)
    low, high = statistics.bootstrap_band(x, 0.9, resamples=4000)
    for i in range(4):
        assert (low[i], high[i]) == pytest.approx(statistics.bootstrap_interval(x[:, i], confidence=0.9), abs=0.02)
    assert (low < x.mean(0)).all()
    assert (x.mean(0) < high).all()
    one = statistics.bootstrap_band(x[:1])
    assert (one[0] == one[1]).all()


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        low, high = statistics.bootstrap_interval(rng.normal(size=50), confidence=0.8, resamples=400)
        hits += low <= 0 <= high
    assert 0.7 < hits / 200 < 0.88


def test_degenerate_samples_are_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for statistic in (np.mean, np.median, statistics.iqm):
            assert statistics.bootstrap_interval([500.0] * 100, statistic) == (500.0, 500.0)
            assert statistics.bootstrap_interval([3.0], statistic) == (3.0, 3.0)
            low, high = statistics.bootstrap_interval([500.0] * 99 + [499.0], statistic)
            assert 499.0 <= low <= high <= 500.0
        assert statistics.chebyshev_interval([500.0] * 10) == (500.0, 500.0)
        assert statistics.chebyshev_interval([3.0]) == (-np.inf, np.inf)
        assert statistics.monte_carlo(np.square, [2.0])[0] == 4.0
        assert np.isnan(statistics.monte_carlo(np.square, [2.0])[1])


def test_a_large_sample_is_resampled_in_parts():
    x = np.arange(300_000) % 7
    low, high = statistics.bootstrap_interval(x, resamples=60)
    assert x.mean() - 0.02 < low < high < x.mean() + 0.02


@settings(max_examples=20, deadline=None)
@given(x=st.lists(st.integers(-3, 3), min_size=1, max_size=9), y=st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_probability_of_improvement_counts_pairs(x, y):
    pairs = [(a > b) + 0.5 * (a == b) for a in x for b in y]
    assert statistics.probability_of_improvement(x, y) == pytest.approx(np.mean(pairs))
    assert statistics.probability_of_improvement(x, y) + statistics.probability_of_improvement(y, x) == pytest.approx(1)


@pytest.mark.parametrize("law", [stats.expon(), stats.gamma(0.3), stats.uniform(0, 4)])
def test_markov_and_chebyshev_hold(law):
    for r in (0.1, 0.7, 2.0, 3.5):
        assert law.sf(r) <= statistics.markov_bound(law.mean(), r)
        two_sided = law.sf(law.mean() + r) + law.cdf(law.mean() - r)
        assert two_sided <= statistics.chebyshev_bound(law.var(), r)


def test_the_bounds_are_tight_where_theory_says_so():
    assert statistics.markov_bound(1.0, 4.0) == 0.25  # X = 4 with probability 1/4, else 0
    assert statistics.chebyshev_bound(1.0, 2.0) == statistics.markov_bound(1.0, 4.0)  # g(X) = (X - mean)^2
    assert statistics.markov_bound(5.0, 1.0) == 1.0
    assert statistics.chebyshev_bound(0.0, 1.0) == 0.0


def test_chebyshev_interval():
    x = [1.0, 2.0, 3.0, 4.0]  # s^2 = 5/3
    half = np.sqrt(5 / 3 / 4 / 0.05)
    assert statistics.chebyshev_interval(x) == pytest.approx((2.5 - half, 2.5 + half))
    rng = np.random.default_rng(0)
    skewed = rng.lognormal(sigma=1.0, size=(500, 40))
    truth = np.exp(0.5)
    covered = [low <= truth <= high for low, high in (statistics.chebyshev_interval(row, 0.8) for row in skewed)]
    assert np.mean(covered) >= 0.8
    low, high = statistics.chebyshev_interval(skewed[0])
    narrow = statistics.bootstrap_interval(skewed[0])
    assert low < narrow[0] < narrow[1] < high


def test_hoeffding_interval():
    x = np.array([0.0, 1.0] * 50)
    half = np.sqrt(np.log(40) / 200)
    assert statistics.hoeffding_interval(x, 0, 1) == pytest.approx((0.5 - half, 0.5 + half))
    low, high = statistics.hoeffding_interval([500.0] * 100, 0, 500)  # all equal, and still an honest width
    assert high == 500
    assert low == pytest.approx(500 * (1 - half))
    with pytest.raises(UsageError, match="low, high"):
        statistics.hoeffding_interval([2.0], 0, 1)


def test_expectation_and_monte_carlo_agree():
    faces, p = np.arange(1, 7), np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.5])
    exact = statistics.expectation(faces, p, np.square)
    assert exact == pytest.approx(0.1 * 55 + 0.5 * 36)
    rolled = np.random.default_rng(0).choice(faces, size=4000, p=p)
    mean, error = statistics.monte_carlo(np.square, rolled)
    assert abs(mean - exact) < 4 * error
    assert error == pytest.approx(stats.sem(rolled.astype(float) ** 2))
    np.testing.assert_allclose(statistics.expectation(np.eye(2), [0.25, 0.75]), [0.25, 0.75])
    vector_mean, vector_error = statistics.monte_carlo(lambda x: x, np.stack([rolled, -rolled], axis=-1))
    assert vector_mean.shape == vector_error.shape == (2,)


def test_jensen_gap():
    x = np.random.default_rng(0).normal(size=100)
    assert statistics.jensen_gap(np.square, x) == pytest.approx(x.var())  # of the square it is the variance
    assert statistics.jensen_gap(np.exp, x) > 0 > statistics.jensen_gap(lambda v: np.log(v + 9), x)
    assert statistics.jensen_gap(lambda v: 3 * v + 1, x) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistics.bootstrap_interval([]),
        lambda: statistics.bootstrap_interval([1.0, np.nan]),
        lambda: statistics.bootstrap_interval([1.0, 2.0], confidence=95),
        lambda: statistics.chebyshev_interval([1.0, 2.0], confidence=0.0),
        lambda: statistics.markov_bound(-1.0, 1.0),
        lambda: statistics.markov_bound(1.0, 0.0),
        lambda: statistics.chebyshev_bound(1.0, -1.0),
        lambda: statistics.expectation([1, 2], [0.5, 0.6]),
        lambda: statistics.expectation([1, 2], [1.5, -0.5]),
        lambda: statistics.expectation([1, 2], [1.0]),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(UsageError):
        call()
