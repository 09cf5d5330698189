"""Distributions against scipy, numerical integration, and their own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from steersman.errors import UsageError
from steersman.theory import distributions as ds

N = 20_000  # draws where a Monte-Carlo answer is compared

LOGITS = np.array([[0.3, -1.2, 2.0, 0.0], [5.0, 4.0, -3.0, 1.0]], np.float32)
NVEC = (2, 4, 3)


def f32(*xs):
    return jnp.array(xs, jnp.float32)


def pairs():
    """One of each with another of its kind: batch [2], events as they come."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    mask = jnp.array([[True, False, True, True], [True, True, True, False]])
    return {
        "categorical": (ds.Categorical(normal(2, 5)), ds.Categorical(normal(2, 5))),
        "masked": (ds.Categorical(ds.masked(normal(2, 4), mask)), ds.Categorical(ds.masked(normal(2, 4), mask))),
        "multi": (ds.MultiCategorical(normal(2, 9), NVEC), ds.MultiCategorical(normal(2, 9), NVEC)),
        "even": (ds.MultiCategorical(normal(2, 6), (3, 3)), ds.MultiCategorical(normal(2, 6), (3, 3))),
        "bernoulli": (ds.Bernoulli(normal(2, 3)), ds.Bernoulli(normal(2, 3))),
        "gaussian": (ds.DiagGaussian(normal(2, 3), 0.5 * normal(3)), ds.DiagGaussian(normal(2, 3), 0.5 * normal(2, 3))),
        "tanh": (ds.TanhGaussian(normal(2, 2), 0.5 * normal(2)), ds.TanhGaussian(normal(2, 2), 0.5 * normal(2, 2))),
        "deterministic": (ds.Deterministic(normal(2, 3)), ds.Deterministic(normal(2, 3))),
    }


PAIRS = pairs()
NOISY = [name for name in PAIRS if name != "deterministic"]


@jax.jit
def many(p, q, keys):
    """Samples [N, 2, ...] of p and what p and q say of them."""
    x = jax.vmap(p.sample)(keys)
    return x, jax.vmap(p.log_prob)(x), jax.vmap(q.log_prob)(x), p.entropy(), p.kl(q), p.kl(p), p.mode()


@pytest.fixture(scope="module")
def drawn():
    keys = jax.random.split(jax.random.key(7), N)
    return {name: [np.asarray(v) for v in many(p, q, keys)] for name, (p, q) in PAIRS.items()}


@pytest.mark.parametrize("name", NOISY)
def test_entropy_and_kl_are_the_expectations_they_claim(drawn, name):
    _, log_p, log_q, entropy, kl, kl_self, _ = drawn[name]
    error = lambda y: 5 * y.std(axis=0) / np.sqrt(N) + 1e-5  # five standard errors
    assert np.all(np.abs(-log_p.mean(axis=0) - entropy) < error(log_p))
    assert np.all(np.abs((log_p - log_q).mean(axis=0) - kl) < error(log_p - log_q))
    assert np.all(kl > 5e-3)
    np.testing.assert_allclose(kl_self, 0.0, atol=1e-6)


@pytest.mark.parametrize("name", NOISY)
def test_members_of_a_batch_draw_their_own_noise(drawn, name):
    table = np.corrcoef(drawn[name][0].reshape(N, -1).T)  # members, and the entries of an event, are independent
    assert len(table) >= 2
    assert np.abs(table - np.eye(len(table))).max() < 5 / np.sqrt(N)


@pytest.mark.parametrize("name", list(PAIRS))
def test_shapes_dtypes_and_same_key_same_sample(drawn, name):
    p = PAIRS[name][0]
    x, log_p, *_, mode = drawn[name]
    event = {"categorical": (), "masked": (), "even": (2,), "tanh": (2,)}.get(name, (3,))
    integers = name in ("categorical", "masked", "multi", "even", "bernoulli")
    assert x.shape == (N, 2, *event)
    assert mode.shape == (2, *event)
    assert x.dtype == mode.dtype == (np.int32 if integers else np.float32)
    assert log_p.shape == (N, 2)
    assert log_p.dtype == np.float32
    np.testing.assert_array_equal(p.sample(jax.random.key(5)), p.sample(jax.random.key(5)))


@pytest.mark.parametrize("name", ["categorical", "masked", "multi", "even", "bernoulli", "gaussian"])
def test_no_sample_is_likelier_than_the_mode(drawn, name):
    _, log_p, *_, mode = drawn[name]
    assert np.all(log_p.max(axis=0) <= np.asarray(PAIRS[name][0].log_prob(mode)) + 1e-6)


@pytest.mark.parametrize("name", list(PAIRS))
def test_a_distribution_is_a_tree(name):
    p = PAIRS[name][0]
    leaves, treedef = jax.tree.flatten(p)
    again = jax.jit(lambda d: d)(p)
    assert jax.tree.structure(again) == treedef
    assert len(leaves) == (2 if name in ("gaussian", "tanh") else 1)


def test_categorical_agrees_with_scipy():
    p, q = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True), np.array([[0.25] * 4, [0.1, 0.2, 0.3, 0.4]])
    d = ds.Categorical(jnp.asarray(LOGITS) + 100.0)  # any shift is the same distribution
    np.testing.assert_allclose(d.probabilities(), p, rtol=1e-4)
    np.testing.assert_allclose(d.entropy(), stats.entropy(p, axis=-1), rtol=1e-4)
    other = ds.Categorical.of(jnp.asarray(q, jnp.float32) * 7)
    np.testing.assert_allclose(d.kl(other), stats.entropy(p, q, axis=-1), rtol=1e-4)
    np.testing.assert_allclose(d.log_prob(jnp.array([2, 1])), np.log([p[0, 2], p[1, 1]]), rtol=1e-4)
    np.testing.assert_array_equal(d.mode(), [2, 0])


@pytest.mark.parametrize("name", ["categorical", "masked", "multi", "even", "bernoulli"])
def test_frequencies_match_the_probabilities(drawn, name):
    p, (x, *_) = PAIRS[name][0], drawn[name]
    if name == "bernoulli":
        expected = jax.nn.sigmoid(p.logits)
        np.testing.assert_allclose(x.mean(axis=0), expected, atol=0.02)
        return
    factors = p if isinstance(p, ds.Categorical) else p.factors()
    probabilities = np.asarray(factors.probabilities())
    counts = np.stack([(x == i).sum(axis=0) for i in range(probabilities.shape[-1])], axis=-1)
    rows = lambda x: x.reshape(-1, x.shape[-1])
    for observed, expected in zip(rows(counts), rows(probabilities), strict=True):
        assert observed[expected == 0].sum() == 0
        some = expected[expected > 0].astype(float)
        assert stats.chisquare(observed[expected > 0], N * some / some.sum()).pvalue > 1e-4


def test_masking_removes_and_renormalises():
    mask = np.array([[True, False, False, True], [False, True, True, True]])
    d = ds.Categorical(ds.masked(jnp.asarray(LOGITS), jnp.asarray(mask, jnp.int8)))  # 0 and 1 will do
    p = np.where(mask, np.exp(LOGITS), 0)
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(d.probabilities(), p, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(d.probabilities())[~mask], 0.0)
    np.testing.assert_allclose(d.entropy(), stats.entropy(p, axis=-1), rtol=1e-5)
    alone = ds.Categorical(ds.masked(jnp.asarray(LOGITS), jnp.array([[False, True, False, False]] * 2)))
    np.testing.assert_array_equal(alone.entropy(), [0.0, 0.0])
    np.testing.assert_array_equal(alone.sample(jax.random.key(0)), [1, 1])
    assert np.all(alone.kl(d) >= 0)
    assert np.all(np.asarray(d.log_prob(jnp.array([1, 0]))) < -1e10)


@pytest.mark.parametrize("forbid", ["mask", "infinite"])
def test_gradients_are_finite_and_zero_on_forbidden_outcomes(forbid):
    mask = jnp.array([True, False, True, True])

    def loss(logits):
        d = ds.Categorical(ds.masked(logits, mask) if forbid == "mask" else jnp.where(mask, logits, -jnp.inf))
        return d.entropy() + d.log_prob(jnp.int32(2)) + d.kl(ds.Categorical(ds.masked(2.0 * logits, mask)))

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(LOGITS[0]))
    assert np.isfinite(value)
    assert gradient[1] == 0.0
    keep = np.flatnonzero(mask)
    alone = lambda x: (
        ds.Categorical(x).entropy()
        + ds.Categorical(x).log_prob(jnp.int32(1))
        + ds.Categorical(x).kl(ds.Categorical(2.0 * x))
    )
    np.testing.assert_allclose(gradient[keep], jax.grad(alone)(jnp.asarray(LOGITS[0])[keep]), rtol=1e-4, atol=1e-6)


def test_an_impossible_outcome_is_never_drawn_at_the_seams(monkeypatch):
    """The running sum of a long row falters by an ulp, also over an outcome of probability 0 and at its end: try the
    random numbers on and beside every step of it."""
    rng, rows, size = np.random.default_rng(0), np.arange(100), 361
    mask = rng.random((100, size)) < 0.4
    mask[50:, 341:] = False
    logits = ds.masked(jnp.asarray(rng.normal(size=mask.shape), jnp.float32), jnp.asarray(mask))
    steps = np.asarray(jnp.cumsum(ds.Categorical(logits).probabilities(), axis=-1))
    assert (np.diff(steps)[~mask[:, 1:]] != 0).any()  # it does falter here,
    assert (steps[:, -1] > np.where(mask, steps, 0).max(-1)).any()  # and here beyond the last possible outcome
    below_one = 1 - 2.0**-23  # the largest float32 number drawn
    beside = [np.clip(steps[:, ::3] + k * 2.0**-24, 0, below_one) for k in (-1, 0, 1)]
    u = np.concatenate([*beside, np.zeros((100, 1)), np.full((100, 1), below_one)], axis=-1).astype(np.float32)
    monkeypatch.setattr(jax.random, "uniform", lambda *_: jnp.asarray(u))
    x = ds.Categorical(jnp.broadcast_to(logits[:, None, :], (*u.shape, size))).sample(jax.random.key(0))
    assert mask[rows[:, None], np.asarray(x)].all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([2, 7]))
def test_an_impossible_outcome_is_never_drawn(seed, size):
    rng = np.random.default_rng(seed)
    mask = rng.random((512, size)) < 0.3
    mask[np.arange(512), rng.integers(size, size=512)] = True
    x = draw_masked(jnp.asarray(rng.normal(size=mask.shape) * 5, jnp.float32), jnp.asarray(mask), jax.random.key(seed))
    assert mask[np.arange(512), np.asarray(x)].all()


@jax.jit
def draw_masked(logits, mask, key):
    return ds.Categorical(ds.masked(logits, mask)).sample(key)


def test_half_precision_logits_are_normalised_in_float32():
    d = ds.Categorical(jnp.asarray(LOGITS[0], jnp.bfloat16))
    assert d.log_prob(jnp.int32(0)).dtype == jnp.float32
    assert np.sum(d.probabilities()) == pytest.approx(1.0, abs=1e-6)
    assert ds.Categorical(ds.masked(d.logits, jnp.array([False, True, False, False]))).sample(jax.random.key(1)) == 1


def test_multi_categorical_is_its_factors():
    p, q = PAIRS["multi"]
    cuts = np.cumsum(NVEC)[:-1]
    parts = lambda d: [special.softmax(x, axis=-1) for x in np.split(np.asarray(d.logits, float), cuts, axis=-1)]
    x = np.array([[1, 3, 0], [0, 2, 2]])
    expected = sum(np.log(part[[0, 1], x[:, k]]) for k, part in enumerate(parts(p)))
    np.testing.assert_allclose(p.log_prob(jnp.asarray(x)), expected, rtol=1e-5)
    np.testing.assert_allclose(p.entropy(), sum(stats.entropy(a, axis=-1) for a in parts(p)), rtol=1e-5)
    expected = sum(stats.entropy(a, b, axis=-1) for a, b in zip(parts(p), parts(q), strict=True))
    np.testing.assert_allclose(p.kl(q), expected, rtol=1e-4)
    np.testing.assert_array_equal(p.mode(), np.stack([a.argmax(-1) for a in parts(p)], axis=-1))


def test_multi_categorical_keeps_nvec_static_and_checks_it():
    p = PAIRS["multi"][0]
    assert jax.jit(jax.vmap(lambda d: d))(p).nvec == NVEC
    other = ds.MultiCategorical(p.logits, (4, 2, 3))
    assert jax.tree.structure(p) != jax.tree.structure(other)
    with pytest.raises(UsageError, match=r"logits end in 9; nvec \(2, 2\) needs 4"):
        ds.MultiCategorical(p.logits, (2, 2)).entropy()
    blocked = ds.MultiCategorical(ds.masked(p.logits, jnp.array([[1, 0, 0, 1, 1, 1, 0, 0, 1]] * 2)), NVEC)
    x = np.asarray(jax.vmap(blocked.sample)(jax.random.split(jax.random.key(2), 300)))
    assert (x[..., 0] == 0).all()
    assert (x[..., 2] == 2).all()
    assert set(x[..., 1].ravel()) == {1, 2, 3}


def test_bernoulli_agrees_with_scipy_and_stays_finite():
    logits, x = f32(0.3, -2.0, 1.5), jnp.array([1, 0, 0])
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    d = ds.Bernoulli(logits)
    assert d.log_prob(x) == pytest.approx(stats.bernoulli.logpmf(np.asarray(x), p).sum(), rel=1e-5)
    assert d.entropy() == pytest.approx(stats.bernoulli(p).entropy().sum(), rel=1e-5)
    np.testing.assert_array_equal(d.mode(), [1, 0, 1])
    sure = ds.Bernoulli(f32(500.0, -500.0))
    assert sure.log_prob(jnp.array([1, 0])) == 0.0
    assert sure.entropy() == 0.0
    assert np.all(np.isfinite(jax.grad(lambda z: ds.Bernoulli(z).entropy())(sure.logits)))


def test_gaussian_agrees_with_scipy():
    loc, log_std = np.array([[0.5, -1.0], [2.0, 0.0]]), np.array([-0.5, 0.7])
    x = np.array([[0.0, 1.0], [3.0, -2.0]])
    exact = [stats.multivariate_normal(m, np.diag(np.exp(2 * log_std))) for m in loc]
    d = ds.DiagGaussian(jnp.asarray(loc, jnp.float32), jnp.asarray(log_std, jnp.float32))
    log_prob = d.log_prob(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(log_prob, [e.logpdf(v) for e, v in zip(exact, x, strict=True)], rtol=1e-5)
    np.testing.assert_allclose(d.entropy(), [e.entropy() for e in exact], rtol=1e-5)
    np.testing.assert_array_equal(d.mode(), d.loc)
    wide = ds.DiagGaussian(d.loc, jnp.broadcast_to(d.log_std, (2, 2)))  # log_std from a network
    np.testing.assert_array_equal(wide.log_prob(jnp.asarray(x, jnp.float32)), log_prob)
    np.testing.assert_array_equal(
        ds.DiagGaussian(d.loc, jnp.float32(0.5)).entropy(), ds.DiagGaussian(d.loc, f32(0.5, 0.5)).entropy()
    )


def test_gaussian_kl_of_nearly_equal_policies_keeps_its_digits():
    p = ds.DiagGaussian(f32(0.0, 0.0), f32(0.0, 0.0))
    step = 1e-3
    q = ds.DiagGaussian(f32(step, 0.0), f32(0.0, step))
    exact = 0.5 * step**2 + 0.5 * (np.exp(-2 * step) - 1) + step
    assert p.kl(q) == pytest.approx(exact, rel=1e-3)


def test_gaussian_samples_pass_a_normality_test(drawn):
    p, (x, *_) = PAIRS["gaussian"][0], drawn["gaussian"]
    z = (x - np.asarray(p.loc)) / np.exp(np.asarray(p.log_std))
    for column in z.reshape(N, -1).T:
        assert stats.kstest(column, "norm").pvalue > 1e-4


@pytest.mark.parametrize(("loc", "log_std"), [(0.0, -1.0), (1.2, 0.0), (-0.5, 1.0)])
def test_tanh_gaussian_integrates_to_one_and_its_entropy_is_the_integral(loc, log_std):
    d = ds.TanhGaussian(jnp.full((6001, 1), loc), f32(log_std))
    u = np.linspace(-7.5, 7.5, 6001)  # a = tanh(u), so that the grid is fine where the density piles up
    a = np.tanh(u)
    log_p = np.asarray(d.log_prob(jnp.asarray(a, jnp.float32)[:, None]), np.float64)
    slope = 1 - a**2
    inside = stats.norm.cdf(7.5, loc, np.exp(log_std)) - stats.norm.cdf(-7.5, loc, np.exp(log_std))
    assert integrate.trapezoid(np.exp(log_p) * slope, u) == pytest.approx(inside, abs=2e-3)
    f = lambda v: (
        stats.norm.pdf(v, loc, np.exp(log_std))
        * (-stats.norm.logpdf(v, loc, np.exp(log_std)) + 2 * (np.log(2) - v - np.logaddexp(0, -2 * v)))
    )
    assert d.entropy()[0] == pytest.approx(integrate.quad(f, loc - 30, loc + 30, limit=200)[0], abs=2e-3)


def test_tanh_gaussian_log_prob_is_the_change_of_variables(key):
    d = ds.TanhGaussian(f32(0.3, -0.4), f32(-0.5, 0.2))
    a, log_p = d.sample_and_log_prob(key)
    np.testing.assert_array_equal(a, d.sample(key))
    assert d.log_prob(a) == pytest.approx(float(log_p), abs=1e-4)
    u, scale = np.arctanh(np.asarray(a, np.float64)), np.exp(np.asarray(d.log_std, np.float64))
    expected = stats.norm.logpdf(u, np.asarray(d.loc), scale).sum() - np.log(1 - np.tanh(u) ** 2).sum()
    assert log_p == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(d.mode(), np.tanh([0.3, -0.4]), rtol=1e-6)


def test_tanh_gaussian_stays_finite_and_inside_at_the_border():
    def loss(loc):
        a, log_p = ds.TanhGaussian(loc, jnp.zeros(3)).sample_and_log_prob(jax.random.key(0))
        return log_p, a

    (log_p, a), gradient = jax.value_and_grad(loss, has_aux=True)(f32(-60.0, 0.0, 60.0))
    assert np.all(np.abs(a) < 1)
    assert np.isfinite(log_p)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(gradient[jnp.array([0, 2])], [-2.0, 2.0], rtol=1e-5)  # -d log(1 - tanh^2) = 2 tanh
    border = lambda x: ds.TanhGaussian(jnp.zeros(3), jnp.zeros(3)).log_prob(x)
    assert np.isfinite(border(f32(-1.0, 0.0, 1.0)))
    assert np.all(np.isfinite(jax.grad(border)(f32(-1.0, 0.0, 1.0))))


def test_pathwise_gradients_of_samples(key):
    """d E[sum x^2] = 2 loc + ..., sample by sample: x = loc + s z has dx/dloc = 1, dx/dlog_std = x - loc."""
    loc, log_std = f32(1.0, -2.0), f32(0.1, 0.3)
    x = ds.DiagGaussian(loc, log_std).sample(key)
    of_loc, of_std = jax.grad(lambda m, s: jnp.sum(ds.DiagGaussian(m, s).sample(key)), argnums=(0, 1))(loc, log_std)
    np.testing.assert_allclose(of_loc, [1.0, 1.0])
    np.testing.assert_allclose(of_std, x - loc, rtol=1e-5)


def test_deterministic():
    d, other = PAIRS["deterministic"]
    np.testing.assert_array_equal(d.sample(jax.random.key(0)), d.loc)
    np.testing.assert_array_equal(d.mode(), d.loc)
    np.testing.assert_array_equal(d.log_prob(d.loc), [0.0, 0.0])
    np.testing.assert_array_equal(d.log_prob(d.loc.at[0, 1].add(1.0)), [-np.inf, 0.0])
    np.testing.assert_array_equal(d.entropy(), [0.0, 0.0])
    np.testing.assert_array_equal(d.kl(d), [0.0, 0.0])
    np.testing.assert_array_equal(d.kl(other), [np.inf, np.inf])


@pytest.mark.parametrize("shape", [(), (2, 3), (1, 3), (3, 1)])
def test_shaped_is_the_flat_one_in_another_shape(shape):
    size, batch = int(np.prod(shape)), 4
    loc, log_std = (jax.random.normal(jax.random.key(i), (batch, size)) for i in (0, 1))
    flat, other = ds.DiagGaussian(loc, log_std), ds.DiagGaussian(loc + 1.0, log_std)
    shaped, key = ds.Shaped(flat, shape), jax.random.key(2)
    x = shaped.sample(key)
    assert x.shape == (batch, *shape)
    np.testing.assert_array_equal(x.reshape(batch, size), flat.sample(key))
    np.testing.assert_array_equal(shaped.log_prob(x), flat.log_prob(x.reshape(batch, size)))
    np.testing.assert_array_equal(shaped.mode(), loc.reshape(batch, *shape))
    np.testing.assert_array_equal(shaped.entropy(), flat.entropy())
    np.testing.assert_array_equal(shaped.kl(ds.Shaped(other, shape)), flat.kl(other))
    one = jax.vmap(lambda policy, x: policy.log_prob(x))(shaped, x)
    np.testing.assert_allclose(one, shaped.log_prob(x), rtol=1e-6)
