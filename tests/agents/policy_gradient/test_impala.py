"""IMPALA acts with the parameters of some updates ago, and learns with the newest."""

from functools import partial

import jax
import numpy as np
import pytest

from steersman import envs
from steersman.agents.parts.wrappers import LaggedState
from steersman.agents.policy_gradient.a2c import A2CConfig, a2c
from steersman.agents.policy_gradient.impala import ImpalaConfig, impala
from steersman.errors import UsageError
from steersman.run.disk.spec_json import transitions_like
from steersman.unroll import begin, unroll

T, B = 4, 3
SETTINGS = {"unroll_length": T, "hidden_sizes": (4,), "learning_rate": 0.05}
SETTINGS |= {"normalize_observations": False, "scale_rewards": False}


def play(agent, updates):
    """The states before every update and after the last, on CartPole."""
    made = envs.make("CartPole-v1", B)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), transitions_like(made.spec, (T, B)))
    state = jax.jit(agent.init)(jax.random.key(0), zeros)
    acting = begin(agent, made, jax.random.key(1))

    @jax.jit
    def step(state, acting, key):
        acting, rollout, _ = unroll(partial(agent.act, state, explore=True), made, acting, key, T)
        return agent.update(state, rollout, key)[0], acting, rollout

    states, rollouts = [state], []
    for i in range(updates):
        state, acting, rollout = step(state, acting, jax.random.key(i))
        states.append(state)
        rollouts.append(rollout)
    return states, rollouts


def log_prob(params, rollout):
    return np.asarray(jax.vmap(jax.vmap(params))(rollout.obs)[0].log_prob(rollout.action))


def test_a_rollout_is_of_the_policy_some_updates_ago():
    lag = 2
    spec = envs.make("CartPole-v1", 1).spec
    states, rollouts = play(impala(ImpalaConfig(lag=lag, **SETTINGS), spec), 5)
    assert all(isinstance(s, LaggedState) for s in states)
    params = [s.agent.params for s in states]
    for k, rollout in enumerate(rollouts):
        behaviour = params[max(0, k - lag)]
        np.testing.assert_allclose(rollout.extras["log_prob"], log_prob(behaviour, rollout), atol=1e-5)
    assert np.abs(rollouts[-1].extras["log_prob"] - log_prob(params[4], rollouts[-1])).max() > 1e-3


def test_acting_without_exploration_uses_the_newest():
    spec = envs.make("CartPole-v1", 1).spec
    lagged, plain = (impala(ImpalaConfig(lag=lag, **SETTINGS), spec) for lag in (2, 0))
    states, rollouts = play(lagged, 3)
    obs = rollouts[-1].obs[0]
    args = ((), obs, np.ones(B, bool), jax.random.key(0))
    newest = plain.act(states[-1].agent, *args, explore=False)[0]
    np.testing.assert_array_equal(lagged.act(states[-1], *args, explore=False)[0], newest)


def test_without_lag_it_trains_as_a2c_does():
    spec = envs.make("CartPole-v1", 1).spec
    one, _ = play(impala(ImpalaConfig(lag=0, **SETTINGS), spec), 3)
    other, _ = play(a2c(A2CConfig(**SETTINGS), spec), 3)
    for x, y in zip(jax.tree.leaves(one[-1].params), jax.tree.leaves(other[-1].params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", [{"lag": -1}, {"clip_rho": 0.0}, {"clip_c": -1.0}])
def test_errors(settings):
    with pytest.raises(UsageError, match=f"Impala: {next(iter(settings))} = "):
        ImpalaConfig(**settings)
