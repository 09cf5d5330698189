"""The point-goal environment by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.envs.goals import DRAG, DT, Mass, point, reached, sparse_reward
from steersman.errors import UsageError


def test_one_step_by_hand():
    env = point(dimensions=2)
    state, obs = env.reset(jax.random.key(0))
    state = state._replace(env=Mass(jnp.array([0.5, 0.99]), jnp.array([0.2, 1.0]), jnp.array([0.5, 0.99])))
    after, seen = env.step(state, jnp.array([1.0, -0.5]), jax.random.key(1))
    velocity = np.array([0.2, 1.0]) + DT * (2 * np.array([1.0, -0.5]) - DRAG * np.array([0.2, 1.0]))
    np.testing.assert_allclose(after.env.velocity, [velocity[0], 0.0], rtol=1e-6)  # the wall stops it
    np.testing.assert_allclose(after.env.position, [0.5 + DT * velocity[0], 1.0], rtol=1e-6)
    np.testing.assert_array_equal(seen.obs["achieved_goal"], after.env.position)
    np.testing.assert_array_equal(seen.obs["desired_goal"], state.env.goal)
    assert seen.reward == 0  # 0.04 away
    assert set(obs) == {"observation", "achieved_goal", "desired_goal"}


def test_the_reward_is_a_function_of_the_two_goals():
    here = jnp.zeros((3, 2))
    there = jnp.array([[0.0, 0.049], [0.04, 0.04], [0.0, 0.0]])
    np.testing.assert_array_equal(reached(here, there), [True, False, True])
    np.testing.assert_array_equal(sparse_reward(here, there), [0, -1, 0])
    assert envs.make("goal/point", 1).spec.goal_reward is sparse_reward


def test_it_can_be_done_and_does_not_happen_by_itself():
    """A proportional-derivative controller gets there within the 50 steps; a random policy hardly ever."""
    made = envs.make("goal/point", 200)

    def play(policy):
        def step(carry, key):
            state, obs = carry
            state, seen = made.step(state, policy(obs, key))
            return (state, seen.obs), reached(seen.final_obs["achieved_goal"], seen.final_obs["desired_goal"])

        return jax.lax.scan(step, made.reset(jax.random.key(0)), jax.random.split(jax.random.key(1), 50))[1][-1]

    steer = lambda obs, key: jnp.clip(
        2.0 * (obs["desired_goal"] - obs["achieved_goal"]) - 1.5 * obs["observation"][:, 3:], -1, 1
    )
    assert jax.jit(lambda: play(steer))().mean() > 0.95
    assert jax.jit(lambda: play(lambda obs, key: jax.random.uniform(key, (200, 3), minval=-1.0)))().mean() < 0.01


def test_unknown_goals():
    with pytest.raises(UsageError, match="Did you mean goal/point"):
        envs.make("goal/pont", 1)
    with pytest.raises(UsageError, match="1 dimension or more; got dimensions=0"):
        envs.make("goal/point,dimensions=0", 1)


def test_any_number_of_dimensions():
    spec = envs.make("goal/point,dimensions=1", 2).spec
    assert spec.action_space.shape == (1,)
    assert spec.observation_space["observation"].shape == (2,)
