"""The particle filter: resampling to the count, and Kalman's filter where both hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.theory.beliefs import particles as p
from steersman.theory.beliefs.filters import kalman

KEY = jax.random.key(0)


def counts(weights, keys):
    """How often each particle is drawn, [keys, N]."""
    w = jnp.asarray(weights, jnp.float32)
    return np.asarray(jax.jit(jax.vmap(lambda key: jnp.zeros(len(w), jnp.int32).at[p.systematic(w, key)].add(1)))(keys))


def test_each_count_is_floor_or_ceil_of_its_share():
    """Exactly, for weights whose sums are exact in float32: multiples of 2^-14, most of them 0, the last among them."""
    n, rng = 1000, np.random.default_rng(0)
    weights = np.bincount(rng.integers(0, n - 100, 2**14) // 7 * 7, minlength=n) / 2**14
    share, got = n * weights, counts(weights, jax.random.split(KEY, 200))
    assert (got.sum(-1) == n).all()
    assert ((got == np.floor(share)) | (got == np.ceil(share))).all()
    coin = abs(share % 1 - 0.5) < 0.4
    assert (got.max(0) == got.min(0) + 1)[coin].all()


def test_on_average_each_gets_its_share():
    weights = np.random.default_rng(1).dirichlet(np.ones(7))
    share, got = 7 * weights, counts(weights, jax.random.split(KEY, 4096))
    deviation = np.sqrt((share % 1) * (1 - share % 1) / 4096)  # floor or ceil, so the rest is a coin
    assert (np.abs(got.mean(0) - share) < 4 * deviation + 1e-6).all()
    assert (np.abs(got - share) < 1 + 1e-5).all()


def test_one_particle_with_all_the_weight():
    for at in (0, 3):
        index = p.systematic(jnp.zeros(4).at[at].set(1e-30), KEY)
        np.testing.assert_array_equal(index, [at] * 4)


def test_effective_sample_size():
    assert float(p.effective_sample_size(jnp.zeros(8) - 300.0)) == pytest.approx(8.0)
    w = np.array([0.5, 0.25, 0.25])
    assert float(p.effective_sample_size(jnp.log(jnp.asarray(w, jnp.float32)))) == pytest.approx(1 / (w**2).sum())


def test_weights_by_hand_and_what_is_impossible():
    even, none = jnp.log(jnp.full(2, 0.5)), jnp.array([-jnp.inf, jnp.nan])
    weights, seen = p.reweighted(even, jnp.log(jnp.array([0.6, 0.2])))
    assert np.exp(weights) == pytest.approx([0.75, 0.25])
    assert float(jnp.exp(seen)) == pytest.approx(0.4)
    weights, seen = p.reweighted(even, none)
    np.testing.assert_array_equal(weights, even)
    assert float(seen) == -np.inf
    weights, _ = p.reweighted(even, jnp.array([jnp.nan, -1e30]))  # one is possible, however far
    assert np.exp(weights) == pytest.approx([0, 1])


A, Q, R, STEPS = np.float32([[1.0, 0.1], [-0.2, 0.9]]), np.float32([0.05, 0.1]), np.float32([0.3]), 30
LINEAR = kalman(A, np.eye(2), np.diag(Q**2), np.eye(2)[:1], np.diag(R**2), np.zeros(2), np.eye(2))


def cloud(number):
    normal = lambda key: jax.random.normal(key, (2,), jnp.float32)
    go = lambda s, a, key: A @ s + a + Q * normal(key)
    return p.particles(normal, go, lambda s, o: -0.5 * jnp.sum(jnp.square((o - s[:1]) / R)), number)


def path(filter, key):
    """Means and covariances [STEPS, ...] along one path that is the same for every filter."""
    rng = np.random.default_rng(0)
    actions = np.asarray(0.3 * rng.normal(size=(STEPS, 2)), np.float32)
    state, seen = rng.normal(size=2), []
    for a in actions:
        state = A @ state + a + Q * rng.normal(size=2)
        seen.append(state[:1] + R * rng.normal(size=1))

    def step(belief, x):
        belief = filter.step(belief, *x)
        return belief, filter.features(belief)[:5]

    keys = jax.random.split(key, STEPS)
    return jax.lax.scan(step, filter.begin(jnp.zeros(1), key), (actions, jnp.asarray(seen, jnp.float32), keys))[1]


def test_the_cloud_is_around_kalmans_mean():
    """RMS error of the mean within 3 sigma / sqrt(N), sigma the belief's own; four times as small for 16 times N."""
    exact = np.asarray(path(LINEAR, KEY))
    sigma, errors = np.sqrt(exact[:, [2, 4]]), []
    for n in (64, 1024):
        got = np.asarray(jax.jit(jax.vmap(lambda key, n=n: path(cloud(n), key)))(jax.random.split(KEY, 16)))
        errors.append(np.sqrt(np.square((got[..., :2] - exact[:, :2]) / sigma).mean()))
        assert errors[-1] < 3 / np.sqrt(n)
        assert (np.abs(got[..., :2].mean(0) - exact[:, :2]) < 3 * sigma / np.sqrt(n)).all()  # over 16 of them: no bias
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)
    assert got[..., [2, 4]].mean((0, 1)) == pytest.approx(exact[:, [2, 4]].mean(0), rel=0.05)


def test_particles_are_drawn_anew_below_half():
    """One with all the weight: all become it; two that share it: all stay, weights and all."""
    still = p.particles(lambda key: jax.random.normal(key, ()), lambda s, a, key: s, lambda s, o: jnp.float32(0), 3)
    for few, log_weights in ((True, [-1e-4, -20.0, -30.0]), (False, [-0.6, -0.8, -9.0])):
        before = p.Particles(jnp.array([1.0, -1.0, 0.0]), jnp.array(log_weights), jnp.zeros(()))
        after = still.step(before, None, None, KEY)
        np.testing.assert_array_equal(after.state, [1, 1, 1] if few else [1, -1, 0])
        assert np.exp(after.log_weights) == pytest.approx(
            [1 / 3] * 3 if few else np.exp(log_weights) / np.exp(log_weights).sum(), abs=1e-5
        )


def test_trees_of_states_and_features():
    start = lambda key: {"x": jax.random.normal(key, (2,)), "v": jnp.float32(3)}
    found = p.particles(start, lambda s, a, key: s, lambda s, o: jnp.float32(0), 8)
    belief = found.begin(None, KEY)
    features = np.asarray(found.features(belief))
    assert features.shape == (found.size,) == (3 + 6 + 1,)
    x = np.asarray(belief.state["x"])
    assert features[:3] == pytest.approx([3, *x.mean(0)], abs=1e-6)  # "v" before "x"
    assert features[3:6] == pytest.approx([0, 0, 0], abs=1e-6)
    assert features[6:9] == pytest.approx(np.cov(x.T, bias=True)[[0, 0, 1], [0, 1, 1]], rel=1e-4)
    assert features[-1] == pytest.approx(1)


@pytest.mark.parametrize("number", [0, -1, 2.5, True])
def test_too_few_particles(number):
    with pytest.raises(UsageError, match="at least 1"):
        cloud(number)


def test_states_and_likelihoods_of_other_kinds():
    with pytest.raises(UsageError, match="tree of float32"):
        p.particles(lambda key: jnp.int32(0), lambda s, a, key: s, lambda s, o: s, 4)
    found = p.particles(lambda key: jnp.zeros(2), lambda s, a, key: s, lambda s, o: s, 4)
    with pytest.raises(UsageError, match=r"to give a scalar; it gives \(2,\)"):
        found.begin(jnp.zeros(2), KEY)
