"""The online actor-critic's steps by hand, its traces beside the forward view, and lambda = 0 beside none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents.policy_gradient.actor_critic import (
    ActorCriticConfig,
    ActorCriticState,
    Errors,
    Networks,
    actor_critic,
    eligibility,
    errors,
)
from steersman.errors import UsageError
from steersman.nets.table import Table
from steersman.types import EnvSpec, Rollout

SPEC = EnvSpec("test", spaces.Discrete(3), spaces.Discrete(2), spaces.Discrete(2))
RATE = 0.1


def rollout_of(obs, action, reward, next_obs, terminated, first):
    """One environment, time along the first axis."""
    column = lambda x, dtype: jnp.asarray(x, dtype)[:, None]
    flags = column(terminated, bool)
    arrays = column(obs, jnp.int32), column(action, jnp.int32), column(reward, jnp.float32)
    costs = jnp.zeros((len(obs), 1, 0))
    return Rollout(*arrays, flags, jnp.zeros_like(flags), column(next_obs, jnp.int32), column(first, bool), costs, {})


def table(key, spec):
    return Table(jnp.array([[0.2, -0.1], [0.0, 0.4], [0.1, 0.3]]), jnp.array([1.0, 2.0, -1.0]))


def test_the_advantage_form_by_hand():
    """delta = r + gamma V(s') - V(s); the actor's factor is the same."""
    config = ActorCriticConfig(gamma=0.5)
    steps = jax.tree.map(
        lambda x: x[:, 0],
        rollout_of([0, 1], [1, 0], [3.0, 3.0], [1, 2], [False, True], [True, False]),
    )
    found = errors(config, Networks(table(None, None), None), steps, jax.random.key(0))
    np.testing.assert_allclose(found.critic, [3 + 0.5 * 2 - 1, 3 - 2])
    np.testing.assert_array_equal(found.actor, found.critic)


def test_the_q_form_by_hand():
    """The actor's factor is q(s, a); the error uses q of an action drawn from pi(.|s'), not of the one taken next."""
    config = ActorCriticConfig(gamma=0.5, critic="q")
    q_table = jnp.array([[1.0, 2.0], [4.0, 8.0], [0.0, 0.0]])
    many = 2000
    steps = jax.tree.map(
        lambda x: jnp.repeat(x[:, 0], many, axis=0),
        rollout_of([0], [1], [3.0], [1], [False], [True]),
    )
    networks = Networks(table(None, None), lambda s, a: q_table[s, a])
    found = errors(config, networks, steps, jax.random.key(0))
    np.testing.assert_allclose(found.actor, 2.0)
    np.testing.assert_array_equal(np.unique(found.critic), [3 + 0.5 * 4 - 2, 3 + 0.5 * 8 - 2])
    p = jax.nn.softmax(jnp.array([0.0, 0.4]))
    assert float(found.critic.mean()) == pytest.approx(3 + 0.5 * float(p @ q_table[1]) - 2, abs=0.15)
    ended = errors(config, networks, steps._replace(terminated=jnp.ones(many, bool)), jax.random.key(0))
    np.testing.assert_allclose(ended.critic, 3 - 2)


def agent_and_state(**settings):
    config = ActorCriticConfig(**{"gamma": 0.9, "learning_rate": RATE, "anneal_learning_rate": False} | settings)
    agent = actor_critic(config, SPEC, network=table)
    return config, agent, jax.jit(agent.init)(jax.random.key(0), rollout_of([0], [0], [0.0], [0], [False], [True]))


EPISODES = ([0, 1, 2, 0, 1], [1, 0, 1, 0, 1], [1.0, -2.0, 3.0, 0.5, 2.0], [1, 2, 0, 1, 2])
ENDS = ([False, False, True, False, False], [True, False, False, True, False])


def test_traces_are_the_discounted_sum_of_gradients_since_the_episode_began():
    config, agent, state = agent_and_state(trace_lambda=0.5, learning_rate=1e-30)
    rollout = rollout_of(*EPISODES, *ENDS)
    after, _ = jax.jit(agent.update)(state, rollout, jax.random.key(1))
    one = jnp.ones(())
    gradient = jax.grad(lambda t, s, a: eligibility(config, Networks(t, None), s, a, Errors(one, one)))
    grads = [gradient(table(None, None), rollout.obs[i, 0], rollout.action[i, 0]) for i in range(5)]
    by_hand = jax.tree.map(lambda g3, g4: 0.9 * 0.5 * g3 + g4, grads[3], grads[4])  # the second episode's two steps
    flat = jnp.concatenate([x.ravel() for x in jax.tree.leaves(by_hand)])
    np.testing.assert_allclose(after.traces.value[0], flat, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("critic", ["v", "q"])
def test_lambda_zero_is_the_plain_form(critic):
    ends = []
    for lambda_ in (None, 0.0, 0.9):
        _, agent, state = agent_and_state(critic=critic, trace_lambda=lambda_, entropy_coefficient=0.01)
        assert isinstance(state, ActorCriticState)
        update = jax.jit(agent.update)
        for i in range(3):
            state, _ = update(state, rollout_of(*EPISODES, *ENDS), jax.random.key(i))
        ends.append(jnp.concatenate([x.ravel() for x in jax.tree.leaves(state.params)]))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(ends[0] - ends[2]).max()) > 1e-2


def test_learning_from_a_rollout_is_learning_from_its_steps_one_after_another():
    rollout = rollout_of(*EPISODES, *ENDS)
    _, agent, state = agent_and_state(trace_lambda=0.7)
    together, _ = jax.jit(agent.update)(state, rollout, jax.random.key(0))
    update = jax.jit(agent.update)
    for i in range(5):
        step = jax.tree.map(lambda x, i=i: x[i : i + 1], rollout)
        state, _ = update(state, step, jax.random.key(i))
    for x, y in zip(jax.tree.leaves(together.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"critic": "td"}, "q or v"),
        ({"trace_lambda": 1.5}, "trace_lambda = 1.5"),
        ({"entropy_coefficient": -0.1}, "entropy_coefficient"),
    ],
)
def test_errors(settings, says):
    with pytest.raises(UsageError, match=says):
        ActorCriticConfig(**settings)
