"""Returns of sequences, against hand arithmetic."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.envs.classic.common import outcome
from steersman.envs.wrappers import PureEnv, time_limit
from steersman.errors import UsageError
from steersman.planning.scores import action_of, action_size, planner_in, score_of
from steersman.planning.shooting import random_shooting
from steersman.types import EnvSpec

SPACE = spaces.Box(-1, 1, (1,))
LINE = EnvSpec("Line", spaces.Box(-9, 9, (1,)), SPACE, SPACE)


class Place(NamedTuple):
    x: jax.Array


def line(noise=0.0):
    """x moves by the action; the reward is the new x, and beyond 1.5 it ends."""

    def step(state, action, key):
        x = state.x + action[0] + noise * jax.random.normal(key, ())
        return Place(x), outcome(x[None], x, x > 1.5)

    return PureEnv(LINE, lambda key: (Place(jnp.float32(0)), jnp.zeros(1)), step)


SEQUENCES = jnp.array([[1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]])[..., None]


def test_rewards_end_where_the_state_is_absorbing():
    score = score_of(line(), Place(jnp.float32(0)), gamma=0.5)
    scores = score(SEQUENCES, jax.random.key(0))
    np.testing.assert_allclose(scores, [1 + 0 + 0.25, 1 + 1 + 0, 0.5 + 0.5 + 0.375])


def test_a_value_stands_for_what_comes_after_unless_it_ended():
    score = score_of(line(), Place(jnp.float32(0)), gamma=0.5, value=lambda obs: 8 * obs[0])
    scores = score(SEQUENCES, jax.random.key(0))
    np.testing.assert_allclose(scores, [1.25 + 1, 2.0, 1.375 + 1.5])


def test_a_clock_ends_nothing():
    env = time_limit(line(), 1)
    state, _ = env.reset(jax.random.key(0))
    np.testing.assert_allclose(score_of(env, state)(SEQUENCES, jax.random.key(0)), [2, 3, 3])


def test_sequences_meet_the_same_luck_and_particles_average_it():
    state, same = Place(jnp.float32(-50)), jnp.zeros((3, 4, 1))
    one = score_of(line(1.0), state)(same, jax.random.key(0))
    assert one[0] == one[1] == one[2] != -200
    many = score_of(line(1.0), state, particles=2000)(same, jax.random.key(0))
    assert abs(float(many[0]) + 200) < 0.5  # of a standard deviation of sqrt(30)


def test_actions_of_each_space():
    assert action_of(spaces.Discrete(3), jnp.array([0.0, -1.0, 2.0])) == 2
    box = spaces.Box(-1, 1, (2, 1))
    np.testing.assert_array_equal(action_of(box, jnp.array([0.5, 7.0])), [[0.5], [1.0]])


def test_what_cannot_be_searched():
    free = spaces.Box(np.array([-1, -1, -np.inf], np.float32), np.array([1, 1, 3], np.float32))
    with pytest.raises(UsageError, match=r"entry 2 of .* has the bounds -inf and 3"):
        action_size(free)
    with pytest.raises(UsageError, match="Box or a Discrete space; got MultiDiscrete"):
        action_size(spaces.MultiDiscrete([2, 3]))


def test_a_planner_in_an_environment_looks_ahead():
    """Beyond 1.5 nothing more is paid: from 1, the best first action is not the largest."""
    planner = planner_in(line(), random_shooting(SPACE, horizon=4, population=256))
    plan = planner.plan(Place(jnp.float32(1.0)), planner.begin(), jax.random.key(0))
    assert 0 < float(plan.action[0]) <= 0.5
    assert 4.5 < float(plan.value) <= 6 + 1  # stays just under 1.5, and may end with a leap
