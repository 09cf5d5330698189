"""Exploration: the limits, the ties, the masks and the schedules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from steersman.theory import exploration as ex
from steersman.theory.distributions import Categorical

Q = jnp.array([[1.0, 3.0, 2.0, 3.0], [0.0, -1.0, -5.0, -2.0]])
MASK = jnp.array([[True, False, True, False], [False, True, True, True]])


def p(d: Categorical):
    return np.asarray(d.probabilities())


def test_greedy_shares_ties_and_obeys_the_mask():
    np.testing.assert_allclose(p(ex.greedy(Q)), [[0, 0.5, 0, 0.5], [1, 0, 0, 0]])
    np.testing.assert_allclose(p(ex.greedy(Q, MASK)), [[0, 0, 1, 0], [0, 1, 0, 0]])
    draws = jax.vmap(ex.greedy(Q).sample)(jax.random.split(jax.random.key(0), 200))
    assert set(np.asarray(draws[:, 0]).tolist()) == {1, 3}
    assert set(np.asarray(draws[:, 1]).tolist()) == {0}


def test_epsilon_greedy():
    np.testing.assert_allclose(p(ex.epsilon_greedy(Q, 0.2))[0], [0.05, 0.45, 0.05, 0.45], rtol=1e-6)
    np.testing.assert_allclose(p(ex.epsilon_greedy(Q, 0.3, MASK)), [[0.15, 0, 0.85, 0], [0, 0.8, 0.1, 0.1]], rtol=1e-5)
    np.testing.assert_array_equal(p(ex.epsilon_greedy(Q, 0.0)), p(ex.greedy(Q)))
    np.testing.assert_allclose(p(ex.epsilon_greedy(Q, 1.0)), np.full((2, 4), 0.25), rtol=1e-6)
    each = p(ex.epsilon_greedy(Q, jnp.array([0.0, 1.0])))  # one epsilon per row
    np.testing.assert_allclose(each, [[0, 0.5, 0, 0.5], [0.25] * 4], rtol=1e-6)


def test_boltzmann_is_the_softmax_and_its_limits():
    policy = jax.jit(lambda t: ex.boltzmann(Q, t).probabilities())
    np.testing.assert_allclose(policy(1.7), special.softmax(np.asarray(Q) / 1.7, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(policy(1e9), np.full((2, 4), 0.25), rtol=1e-5)
    for cold in (1e-3, 1e-30, 1e-42, 0.0):
        np.testing.assert_allclose(policy(cold), p(ex.greedy(Q)))
    each = p(ex.boltzmann(Q, jnp.array([0.0, 1.0])))
    np.testing.assert_allclose(each, np.stack([p(ex.greedy(Q))[0], special.softmax(np.asarray(Q[1]))]), rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e25])
def test_boltzmann_obeys_the_mask_at_any_temperature(temperature):
    got = p(ex.boltzmann(Q, temperature, MASK))
    np.testing.assert_array_equal(got[~np.asarray(MASK)], 0.0)
    np.testing.assert_allclose(got.sum(-1), 1.0, rtol=1e-6)
    if temperature == 1.0:
        expected = special.softmax(np.where(MASK, Q, -np.inf), axis=-1)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_ucb_prefers_the_untried():
    bonus = ex.ucb(jnp.array([[4, 1, 0], [2, 2, 4]]), jnp.int32(8), 2.0)
    expected = 2 * np.sqrt(np.log(8) / np.array([[4, 1, np.nan], [2, 2, 4]]))
    np.testing.assert_allclose(bonus, np.where(np.isnan(expected), np.inf, expected), rtol=1e-6)
    np.testing.assert_array_equal(p(ex.greedy(jnp.zeros((2, 3)) + bonus)), [[0, 0, 1], [0.5, 0.5, 0]])
    both = ex.ucb(jnp.array([[1, 1], [1, 1]]), jnp.array([1, 3]), 1.0)
    np.testing.assert_allclose(both[:, 0], np.sqrt(np.log([1, 3])), rtol=1e-6)


def test_schedules_by_hand():
    steps = jnp.array([0, 25, 50, 100, 1000], jnp.int32)
    linear = ex.linear(steps, 1.0, 0.1, 100)
    exponential = ex.exponential(steps, 1.0, 0.01, 100)
    np.testing.assert_allclose(linear, [1.0, 0.775, 0.55, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(exponential, [1.0, 0.1**0.5, 0.1, 0.01, 0.01], rtol=1e-5)
    np.testing.assert_array_equal(ex.constant(steps, 0.5), [0.5] * 5)
    assert linear.dtype == exponential.dtype == ex.constant(steps, 1).dtype == jnp.float32
    assert ex.linear(jnp.int32(0), 1.0, 0.1, 0) == np.float32(0.1)  # nothing to wait for
    assert ex.linear(jnp.int32(2**31 - 1), 1.0, 0.0, 2**31 - 1) == 0.0


def test_schedules_compile_once_for_all_steps_and_take_swept_ends():
    traces = []

    @jax.jit
    def schedule(step, start):
        traces.append(step)
        return functools.partial(ex.linear, start=start, end=0.0, steps=10)(step)

    got = [float(schedule(jnp.int32(i), jnp.float32(2.0))) for i in (0, 5, 10)]
    assert got == [2.0, 1.0, 0.0]
    assert len(traces) == 1
    np.testing.assert_array_equal(
        jax.vmap(schedule, in_axes=(None, 0))(jnp.int32(5), jnp.array([1.0, 4.0])), [0.5, 2.0]
    )


def noise(name, steps, members=64):
    """[T, B] of one action entry, from a first step that opens the episode."""
    decay = jnp.asarray(ex.NOISES[name], jnp.float32)

    def step(state, inputs):
        t, key = inputs
        return ex.noise_step(state, key, jnp.where(t == 0, 0.0, decay))

    keys = jax.random.split(jax.random.key(0), steps)
    start = jnp.full((members, decay.size), 1e3)  # of an episode that is over
    return np.asarray(jax.lax.scan(step, start, (jnp.arange(steps), keys))[1])


@pytest.mark.parametrize("name", ex.NOISES)
def test_action_noise_is_standard_normal_from_the_first_step_on(name):
    z = noise(name, 400, 4000)
    for t in (0, 1, 399):
        assert abs(z[t].mean()) < 5 / np.sqrt(4000)
        assert z[t].std() == pytest.approx(1, abs=5 / np.sqrt(2 * 4000))


def test_the_colours_of_noise():
    """Autocorrelations: none, phi^lag, and the mean of phi_k^lag."""
    for name, decays in ex.NOISES.items():
        z = noise(name, 50, 20_000)
        for lag in (1, 5, 20):
            wanted = np.mean(np.asarray(decays) ** lag)
            assert (z[10] * z[10 + lag]).mean() == pytest.approx(wanted, abs=5 / np.sqrt(20_000)), (name, lag)


def test_pink_noise_has_a_spectrum_of_one_over_f():
    """The exact spectrum of the sum, from its decays: its slope in log-log is -1 between the two corner frequencies."""
    phi = np.asarray(ex.NOISES["pink"])[:, None]
    omega = np.geomspace(1 / 256, 1 / 2, 200)[None]
    density = ((1 - phi**2) / (1 + phi**2 - 2 * phi * np.cos(omega))).mean(0)
    slope = np.polyfit(np.log(omega[0]), np.log(density), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)
    white = np.asarray(ex.NOISES["gaussian"])[:, None]
    assert np.allclose((1 - white**2) / (1 + white**2 - 2 * white * np.cos(omega)), 1)


def test_smoothed_actions_stay_near_and_inside():
    action, z = jnp.array([[0.0, 0.95], [-0.99, 0.3]]), jnp.array([[1.0, 1.0], [-9.0, 9.0]])
    np.testing.assert_allclose(ex.smoothed(action, z, 0.2, 0.5), [[0.2, 1.0], [-1.0, 0.8]], rtol=1e-6)
    np.testing.assert_array_equal(ex.smoothed(action, z, 0.0, 0.5), action)


def test_ucb_has_the_dtype_of_floating_counts():
    with jax.enable_x64(True):
        assert ex.ucb(jnp.ones(2, jnp.float64), 3, 2.0).dtype == jnp.float64
    assert ex.ucb(jnp.ones(2, jnp.int32), 3, 2.0).dtype == jnp.float32
