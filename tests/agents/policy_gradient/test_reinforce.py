"""Which episodes REINFORCE learns from, and what each action is credited with, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents.policy_gradient.reinforce import (
    ReinforceConfig,
    check_environments,
    estimator,
    leave_one_out_mean,
    reinforce,
    whole_episodes,
)
from steersman.errors import UsageError
from steersman.types import EnvSpec, Rollout


def column(values, dtype=np.float32):
    return np.asarray(values, dtype)[:, None]


# Steps of one environment: the end of an old episode, one of three steps, one of two that the clock cuts, one too late.
FIRST = column([0, 1, 0, 0, 1, 0, 1, 0], bool)
TERMINATED = column([1, 0, 0, 1, 0, 0, 0, 0], bool)
TRUNCATED = column([0, 0, 0, 0, 0, 1, 0, 0], bool)
REWARD = column([9, 1, 2, 4, 1, 2, 5, 5])
LONGEST = 4


def estimates(v_t=0.0, v_tm1=0.0, **settings):
    config = ReinforceConfig(gamma=0.5, **settings)
    flags = np.zeros_like(FIRST)
    rollout = Rollout(flags, flags, REWARD, TERMINATED, TRUNCATED, flags, FIRST, np.zeros((8, 1, 0)), {})
    full = lambda x: jnp.full((8, 1), x, jnp.float32)
    return estimator(config, LONGEST)(rollout, full(0.0), full(v_tm1), full(v_t))


def test_an_episode_counts_if_the_longest_one_begun_there_would_be_complete():
    np.testing.assert_array_equal(whole_episodes(FIRST, LONGEST)[:, 0], [0, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(whole_episodes(FIRST, 5)[:, 0], [0, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(estimates().weight[:, 0], [0, 1, 1, 1, 1, 1, 0, 0])


COUNTED = slice(1, 6)


def test_reward_to_go_and_whole_return():
    go = estimates(baseline="none")
    assert go.target is None
    np.testing.assert_allclose(go.advantage[COUNTED, 0], [1 + 1 + 1, 2 + 2, 4, 1 + 1, 2])
    whole = estimates(baseline="none", returns="whole")
    np.testing.assert_allclose(whole.advantage[COUNTED, 0], [3, 3, 3, 2, 2])


def test_discounted_states():
    found = estimates(baseline="none", discount_states=True)
    np.testing.assert_allclose(found.advantage[COUNTED, 0], [3, 0.5 * 4, 0.25 * 4, 2, 0.5 * 2])


def test_with_a_critic_a_truncated_episode_goes_on_with_its_value():
    found = estimates(v_t=8.0, v_tm1=1.0, baseline="value")
    np.testing.assert_allclose(found.target[COUNTED, 0], [3, 4, 4, 1 + 0.5 * 6, 2 + 0.5 * 8])
    np.testing.assert_allclose(found.advantage, found.target - 1.0)


def test_a_constant_baseline_leaves_out_the_environments_own_returns():
    x = jnp.array([[1.0, 10.0, 5.0], [3.0, 20.0, 7.0]])
    weight = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(leave_one_out_mean(x, weight), [[10.0, 2.0, 14.0 / 3]], rtol=1e-6)
    np.testing.assert_allclose(leave_one_out_mean(x[:, :1], weight[:, :1]), [[0.0]])


def spec_of(limit):
    return EnvSpec("Task-v0", spaces.Box(-1, 1, (2,)), spaces.Discrete(2), spaces.Discrete(2), limit)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: reinforce(ReinforceConfig(), spec_of(None)), "Task-v0 has no max_episode_steps.*train a2c"),
        (
            lambda: reinforce(ReinforceConfig(unroll_length=500), spec_of(400)),
            "up to 400 steps. Set .* to 800",
        ),
        (lambda: check_environments(ReinforceConfig(baseline="constant"), 1), "num_envs to 2 or more"),
        (lambda: ReinforceConfig(baseline="median"), "none or constant or value"),
        (lambda: ReinforceConfig(returns="togo"), "whole or reward-to-go"),
        (lambda: ReinforceConfig(gamma=1.5), "between 0 and 1"),
    ],
)
def test_errors(call, says):
    with pytest.raises(UsageError, match=says):
        call()


def test_the_shortest_rollout_that_is_allowed_has_an_episode_that_counts_wherever_it_begins():
    longest = 5
    reinforce(ReinforceConfig(unroll_length=2 * longest - 1, hidden_sizes=(4,)), spec_of(longest))
    for offset in range(longest):
        first = column((np.arange(2 * longest - 1) + offset) % longest == 0, bool)
        assert bool(whole_episodes(jnp.asarray(first), longest).any())
    assert not bool(jax.numpy.any(whole_episodes(jnp.zeros((9, 1), bool), longest)))
