"""A model as an environment, by one that counts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.models.env import model_env
from steersman.models.model import Model, Prediction
from steersman.types import EnvSpec
from steersman.unroll import Acting, unroll
from steersman.vector import vectorize

SPEC = EnvSpec("counting", spaces.Box(-99, 99, (1,)), spaces.Box(-1, 1, (1,)), spaces.Box(-2, 2, (1,)), 200, ("a", "b"))
STARTS = np.array([[0.0], [20.0]], np.float32)


def count(state, x, action, key):
    """next = obs + state * action, reward 2 obs; at 24 and beyond an episode is over."""
    after = x + state * action
    said = jnp.concatenate([after, 2 * x])
    return after, Prediction(after, 2 * x[0], after[0] - 23.5, said, jnp.zeros(2))


MODEL = Model(lambda key, rollout: jnp.float32(1), lambda *_: None, lambda state, obs, key: obs, count)


def play(horizon, state=1.0, action=1.0, length=12):
    """-> the rollout of 4 members with one action"""
    envs = vectorize(model_env(MODEL, state, SPEC, STARTS, horizon), 4)
    acting = Acting(*envs.reset(jax.random.key(0)), jnp.ones((4,), bool), ())
    act = lambda carry, obs, first, key: (jnp.full((4, 1), action), (), {})
    return unroll(act, envs, acting, jax.random.key(1), length)[1]


played = jax.jit(play)


def test_episodes_begin_at_starts_and_are_truncated_at_the_horizon():
    rollout = played(jnp.int32(3))
    assert set(np.unique(rollout.obs[rollout.first])) == {0.0, 20.0}
    low = np.asarray(rollout.obs[..., 0] < 10)
    third = np.asarray(rollout.obs[..., 0] == 2)
    np.testing.assert_array_equal(rollout.truncated[low], third[low])
    assert not rollout.terminated.any()
    # What learns from it bootstraps from the true successor, as at any time limit.
    np.testing.assert_array_equal(rollout.next_obs, rollout.obs + 1)
    np.testing.assert_array_equal(rollout.reward, 2 * rollout.obs[..., 0])
    assert rollout.costs.shape == (12, 4, 2)
    assert not rollout.costs.any()


def test_the_model_ends_episodes_where_it_thinks_that_likely():
    rollout = played(jnp.int32(6))
    np.testing.assert_array_equal(rollout.terminated, rollout.next_obs[..., 0] >= 24)
    assert rollout.terminated.any()
    assert rollout.truncated.any()


def test_a_horizon_that_moves_does_not_compile_again():
    moving = jax.jit(play)
    rollouts = [moving(jnp.int32(horizon)) for horizon in (1, 12, 13)]
    low = int((rollouts[1].obs[0] == 0).sum())  # the others end before
    assert [int(rollout.truncated.sum()) for rollout in rollouts] == [48, low, 0]
    assert moving._cache_size() == 1
    np.testing.assert_array_equal(jax.jit(lambda: play(3))().truncated, moving(jnp.int32(3)).truncated)


def test_actions_are_clipped_at_the_door():
    beyond, within = (played(jnp.int32(3), 1.0, action) for action in (7.0, 1.0))
    np.testing.assert_array_equal(beyond.next_obs, within.next_obs)


def test_the_spec_is_the_environments_but_for_the_clock():
    made = partial(model_env, MODEL, 1.0, SPEC, STARTS)
    assert made(5).spec.max_episode_steps == 5
    assert made(jnp.int32(5)).spec.max_episode_steps is None
    assert made(5).spec.cost_names == ("a", "b")


def test_all_members_by_vmap():
    """A default model is of one member; two of them, side by side."""
    members = jax.tree.map(lambda x: jnp.repeat(x, 2), MODEL.members(jnp.float32(1))) * jnp.array([1.0, 2.0])
    rollout = jax.jit(jax.vmap(lambda state: play(3, state)))(members)
    np.testing.assert_array_equal(rollout.next_obs[1] - rollout.obs[1], 2 * (rollout.next_obs[0] - rollout.obs[0]))


@pytest.mark.parametrize("horizon", [0, -1])
def test_a_horizon_without_steps_is_refused(horizon):
    with pytest.raises(UsageError, match=rf"horizon = {horizon}.*at least 1 step"):
        model_env(MODEL, 1.0, SPEC, STARTS, horizon)
