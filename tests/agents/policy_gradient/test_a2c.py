"""A2C's advantages: what its settings reduce to, and every action space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents import ALGORITHMS
from steersman.agents.policy_gradient.a2c import A2CConfig, estimator
from steersman.errors import UsageError
from steersman.run.disk.spec_json import transitions_like
from steersman.theory import returns
from steersman.types import EnvSpec, Rollout

T, B = 6, 3


def rollout_and_values():
    rng = np.random.default_rng(0)
    terminated, truncated = rng.random((T, B)) < 0.2, rng.random((T, B)) < 0.2
    reward, v_tm1, v_t = rng.normal(size=(3, T, B)).astype(np.float32)
    flags = np.zeros((T, B), bool)
    return Rollout(flags, flags, reward, terminated, truncated, flags, flags, np.zeros((T, B, 0)), {}), v_tm1, v_t


def estimates(**settings):
    rollout, v_tm1, v_t = rollout_and_values()
    return estimator(A2CConfig(gamma=0.9, **settings))(rollout, jnp.zeros((T, B)), jnp.asarray(v_tm1), jnp.asarray(v_t))


def test_reductions():
    rollout, v_tm1, v_t = rollout_and_values()
    discount_t = returns.discounts(rollout.terminated, 0.9)
    td = rollout.reward + discount_t * v_t - v_tm1
    np.testing.assert_allclose(estimates(gae_lambda=0.0).advantage, td, rtol=1e-5)
    np.testing.assert_allclose(estimates(n_step=1).advantage, td, rtol=1e-5)
    np.testing.assert_allclose(estimates(n_step=T).advantage, estimates(gae_lambda=1.0).advantage, atol=1e-5)
    lambda_t = returns.trace_decays(rollout.truncated, 0.8)
    gae = returns.gae(rollout.reward, discount_t, v_tm1, v_t, lambda_t)
    np.testing.assert_allclose(estimates(gae_lambda=0.8).advantage, gae, atol=1e-5)
    two = returns.n_step_returns(rollout.reward, discount_t, v_t, 2, returns.trace_decays(rollout.truncated, 1.0))
    np.testing.assert_allclose(estimates(n_step=2).target, two, rtol=1e-5)


SPACES = [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-1, 1, (2,))]
BOX = spaces.Box(-1, 1, (3,))


@pytest.mark.parametrize("action", SPACES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", ["a2c", "reinforce", "trpo", "impala", "actor_critic"])
def test_every_rung_serves_every_action_space(name, action):
    """Shapes only: nothing is compiled."""
    spec = EnvSpec("test", BOX, action, action, 4)
    entry = ALGORITHMS[name]
    many = {"unroll_length": 8} | ({"num_minibatches": 2} if name == "trpo" else {})
    if name == "actor_critic":
        many |= {"critic": "q", "trace_lambda": 0.5}
    agent = entry.factory(entry.config(hidden_sizes=(4,), **many), spec)
    log_prob = jax.ShapeDtypeStruct((8, B), np.float32)
    rollout = transitions_like(spec, (8, B))._replace(extras={"log_prob": log_prob})
    state = jax.eval_shape(agent.init, jax.random.key(0), rollout)
    after, metrics = jax.eval_shape(agent.update, state, rollout, jax.random.key(0))
    same = lambda x: (x.shape, x.dtype)
    assert jax.tree.map(same, after) == jax.tree.map(same, state)
    assert all(metric.shape == () for metric in metrics.values())


@pytest.mark.parametrize("name", ["a2c", "reinforce", "trpo", "impala", "actor_critic"])
def test_no_policy_over_a_strange_space(name):
    strange = spaces.Text(3)
    with pytest.raises(UsageError, match="needs a Discrete, MultiDiscrete, MultiBinary or Box"):
        ALGORITHMS[name].factory(ALGORITHMS[name].config(), EnvSpec("Words-v0", BOX, strange, strange, 4))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_step": 0}, "n_step = 0"),
        ({"gae_lambda": 2.0}, "gae_lambda = 2.0"),
        ({"entropy_coefficient": -1.0}, "entropy_coefficient = -1.0"),
        ({"unroll_length": 0}, "unroll_length = 0"),
        ({"activation": "tahn"}, "Did you mean tanh"),
    ],
)
def test_errors(settings, says):
    with pytest.raises(UsageError, match=says):
        A2CConfig(**settings)
