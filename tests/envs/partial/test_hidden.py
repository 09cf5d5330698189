"""Tasks with a hidden parameter, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.envs.classic.pendulum import Pendulum, State
from steersman.envs.partial.hidden import Swinging, pendulum
from steersman.errors import UsageError


def test_a_pendulum_of_no_spread_is_that_of_gymnasium():
    ours, theirs = pendulum(spread=1.0), Pendulum()
    state, obs = ours.reset(jax.random.key(3))
    np.testing.assert_array_equal(obs["physics"], [0.0, 0.0])
    other = State(state.env.theta, state.env.theta_dot)
    for action in ([0.3], [-1.0], [2.0]):
        state, seen = ours.step(state, jnp.array(action), jax.random.key(0))
        other, wanted = theirs.step(other, jnp.array(action), jax.random.key(0))
        np.testing.assert_allclose(seen.obs["state"], wanted.obs, rtol=1e-6)
        np.testing.assert_allclose(seen.reward, wanted.reward, rtol=1e-6)


def test_one_step_of_a_heavy_pendulum_by_hand():
    env = pendulum()
    state, _ = env.reset(jax.random.key(0))
    state = state._replace(env=Swinging(*map(jnp.float32, (0.5, 1.0, 2.0, 0.5))))
    after, seen = env.step(state, jnp.array([0.5]), jax.random.key(1))  # 1 N m
    speed = 1.0 + 0.05 * (30.0 * np.sin(0.5) + 3 / (2.0 * 0.25))
    np.testing.assert_allclose(after.env.theta_dot, speed, rtol=1e-6)
    np.testing.assert_allclose(after.env.theta, 0.5 + 0.05 * speed, rtol=1e-6)
    np.testing.assert_allclose(seen.reward, -(0.25 + 0.1 + 0.001), rtol=1e-6)
    np.testing.assert_allclose(seen.obs["physics"], np.log([2.0, 0.5]), rtol=1e-6)


def test_mass_and_length_are_drawn_for_each_episode_and_stay():
    env = envs.make("hidden/pendulum,spread=3", 400)
    state, first = env.reset(jax.random.key(0))
    drawn = np.exp(first["physics"])
    assert np.abs(np.log(drawn)).max() <= np.log(3) < np.abs(np.log(drawn)).max() + 0.05
    assert abs(np.corrcoef(first["physics"].T)[0, 1]) < 0.2
    _, seen = env.step(state, jnp.zeros((400, 1)))
    np.testing.assert_array_equal(seen.final_obs["physics"], first["physics"])
    with pytest.raises(UsageError, match="factor of 1 or more"):
        envs.make("hidden/pendulum,spread=0.5", 1)
    with pytest.raises(UsageError, match="hidden/pendulum"):
        envs.make("hidden/pendulun", 1)
