"""Behaviour cloning finds the policy that acted, IQL the values that its expectile defines, from recordings alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents.offline.bc import BCConfig, bc
from steersman.agents.offline.iql import IQLConfig, iql
from steersman.errors import UsageError
from steersman.memory import uniform
from steersman.run.loops.data_loop import data_loop
from steersman.types import EnvSpec, Rollout

SMALL = {"hidden_sizes": (32,), "learning_rate": 3e-3, "batch_size": 64}


def spec_of(observation, action):
    return EnvSpec("data", observation, action, action)


def data_of(obs, action, reward=None, next_obs=None, terminated=None):
    """Transitions [N] as a rollout [N, 1, ...] of one-step episodes, or of steps that are cut."""
    count = len(obs)
    none, no = np.zeros(count, np.float32), np.zeros(count, bool)
    ended = ~no if terminated is None else terminated
    rollout = Rollout(
        obs,
        action,
        none if reward is None else reward,
        ended,
        ~ended,
        obs if next_obs is None else next_obs,
        ~no,
        np.zeros((count, 0), np.float32),
        {},
    )
    return jax.tree.map(lambda x: x[:, None], rollout)


def learned(agent, data, updates):
    memory = jax.jit(uniform(2 * len(data.reward), 1).init)(data)
    loop = data_loop(agent, memory, first=data, seeds=[0])
    state, totals = loop.advance(loop.start(), updates)
    assert totals.episodes.count == [0]
    return state.agent


def test_bc_recovers_a_stochastic_policy_over_discrete_actions():
    """Its likelihood is greatest at the shares in which each action was taken in each state."""
    spec, shares = spec_of(spaces.Discrete(2), spaces.Discrete(3)), np.array([[0.6, 0.3, 0.1], [0.0, 0.25, 0.75]])
    obs = np.repeat(np.arange(2, dtype=np.int32), 20)
    action = np.concatenate([np.repeat(np.arange(3), (20 * p).astype(int)) for p in shares]).astype(np.int32)
    state = learned(bc(BCConfig(**SMALL), spec), data_of(obs, action), 3000)
    found = jax.vmap(state.actor.params)(jnp.arange(2, dtype=jnp.int32)).probabilities()
    np.testing.assert_allclose(found, shares, atol=0.03)


def test_bc_recovers_mean_and_spread_of_continuous_actions():
    box = spaces.Box(-1.0, 1.0, (1,))
    spec, rng = spec_of(box, box), np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (2000, 1)).astype(np.float32)
    action = (0.5 * obs + 0.1 * rng.normal(size=obs.shape)).astype(np.float32)
    state = learned(bc(BCConfig(**SMALL), spec), data_of(obs, action), 2000)
    seen = jnp.linspace(-0.9, 0.9, 7)[:, None]
    policy = jax.vmap(state.actor.params)(seen)
    np.testing.assert_allclose(policy.mode(), 0.5 * seen, atol=0.04)
    np.testing.assert_allclose(np.exp(policy.log_std), 0.1, atol=0.02)


def test_deterministic_data_leaves_the_likelihood_finite():
    box = spaces.Box(-1.0, 1.0, (1,))
    spec = spec_of(box, box)
    obs = np.ones((8, 1), np.float32)
    agent = bc(BCConfig(**SMALL | {"learning_rate": 0.05}), spec)
    state = learned(agent, data_of(obs, obs), 1500)
    policy = state.actor.params(jnp.ones(1))
    assert float(policy.log_std[0]) == pytest.approx(-5.0)
    assert float(policy.mode()[0]) == pytest.approx(1.0, abs=0.01)


# A chain of four states: action 1 goes right, action 0 left; the right end pays 1 and ends, the left end pays 0.3.
GAMMA, STATES = 0.8, 4


def chain():
    """All (s, a) once: obs, action, reward, next_obs, terminated; a random policy's data, in equal shares."""
    s, a = (x.ravel().astype(np.int32) for x in np.meshgrid(np.arange(STATES), np.arange(2), indexing="ij"))
    after = s + 2 * a - 1
    ended = (after < 0) | (after == STATES)
    reward = np.where(after == STATES, 1.0, np.where(after < 0, 0.3, 0.0)).astype(np.float32)
    return s, a, reward, np.clip(after, 0, STATES - 1).astype(np.int32), ended


def expectile(values, tau):
    """The root of sum tau (x - m)+ = sum (1 - tau) (m - x)+ by bisection."""
    low, high = min(values), max(values)
    for _ in range(60):
        m = (low + high) / 2
        up, down = np.maximum(values - m, 0).sum(), np.maximum(m - values, 0).sum()
        low, high = (m, high) if tau * up > (1 - tau) * down else (low, m)
    return m


def exact(tau):
    """The fixed point of Q(s, a) = r + gamma V(s'), V(s) = the tau-expectile over the data's actions of Q(s, a)."""
    s, _, reward, after, ended = chain()
    v = np.zeros(STATES)
    for _ in range(200):
        q = reward + GAMMA * ~ended * v[after]
        v = np.array([expectile(q[s == i], tau) for i in range(STATES)])
    return q.reshape(STATES, 2), v


def optimal():
    _, _, reward, after, ended = chain()
    q = np.zeros((STATES, 2))
    for _ in range(200):
        q = (reward + GAMMA * ~ended * q.max(1)[after]).reshape(STATES, 2)
    return q


def test_the_oracle_nears_the_optimal_values():
    np.testing.assert_allclose(exact(0.9999)[0], optimal(), atol=1e-3)
    assert np.abs(exact(0.5)[0] - optimal()).max() > 0.1


@pytest.mark.parametrize("tau", [0.7, 0.99])
def test_iql_finds_the_values_that_its_expectile_defines(tau):
    spec = spec_of(spaces.Discrete(STATES), spaces.Discrete(2))
    config = IQLConfig(**SMALL, gamma=GAMMA, expectile=tau, tau=0.05, inverse_temperature=20.0)
    s, a, reward, after, ended = chain()
    state = learned(iql(config, spec), data_of(s, a, reward, after, ended), 6000)
    q, v = exact(tau)
    every = jnp.arange(STATES, dtype=jnp.int32)
    found = jax.vmap(lambda critic: jax.vmap(critic.critic)(every))(state.targets).min(0)
    np.testing.assert_allclose(found, q, atol=0.03)
    np.testing.assert_allclose(jax.vmap(state.value.params)(every), v, atol=0.03)
    if tau == 0.99:
        np.testing.assert_allclose(found, optimal(), atol=0.05)
        policy = jax.vmap(state.actor.params)(every)
        np.testing.assert_array_equal(policy.mode(), optimal().argmax(1))


def test_settings_out_of_range_are_refused():
    with pytest.raises(UsageError, match=r"IQL: expectile = 1.5 .* between 0 and 1"):
        IQLConfig(expectile=1.5)
    with pytest.raises(UsageError, match="your network: it is an int"):
        bc(BCConfig(), spec_of(spaces.Discrete(2), spaces.Discrete(2)), network=3)
