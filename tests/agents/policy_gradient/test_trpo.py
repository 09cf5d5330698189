"""TRPO keeps its KL limit exactly, its critic leaves the policy alone, and each option does what it says."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from jax.flatten_util import ravel_pytree

from steersman.agents.parts.minibatches import standardise
from steersman.agents.policy_gradient import common
from steersman.agents.policy_gradient.trpo import TRPOConfig, surrogate, trpo
from steersman.errors import UsageError
from steersman.run.disk.spec_json import transitions_like
from steersman.theory import natural
from steersman.types import EnvSpec, Rollout

T, B = 16, 4
BOX = spaces.Box(-1, 1, (3,))
CONFIG = TRPOConfig(
    unroll_length=T,
    num_minibatches=2,
    value_epochs=2,
    hidden_sizes=(8,),
    gamma=0.9,
    damping=0.01,
    normalize_observations=False,
    scale_rewards=False,
)


@cache
def program(action, line_search):
    """A policy that has been moved away from uniform, a made-up rollout of its own actions, and its update: compiled
    once, the limit and the critic's learning rate its arguments."""
    space = spaces.Box(-1, 1, (2,)) if action == "box" else spaces.Discrete(3)
    spec = EnvSpec("test", BOX, space, space, 100)
    config = dataclasses.replace(CONFIG, line_search=line_search)
    agent = trpo(config, spec)
    rng = np.random.default_rng(0)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), transitions_like(spec, (T, B)))
    state = jax.jit(agent.init)(jax.random.key(0), zeros)
    noise = lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32)
    state = state._replace(params=jax.tree.map(noise, state.params))
    obs, next_obs = rng.normal(size=(2, T, B, 3)).astype(np.float32)
    policy, _ = jax.vmap(jax.vmap(state.params))(obs)
    taken = policy.sample(jax.random.key(1))
    rollout = Rollout(
        obs,
        taken,
        rng.normal(size=(T, B)).astype(np.float32),
        rng.random((T, B)) < 0.1,
        rng.random((T, B)) < 0.1,
        next_obs,
        np.zeros((T, B), bool),
        np.zeros((T, B, 0), np.float32),
        {"log_prob": policy.log_prob(taken)},
    )

    @jax.jit
    def update(max_kl, learning_rate):
        swept = dataclasses.replace(config, max_kl=max_kl, learning_rate=learning_rate)
        return trpo(swept, spec).update(state, rollout, jax.random.key(2))

    return state, rollout, update


def one_update(action="discrete", *, line_search=True, max_kl=0.01, learning_rate=1e-3):
    state, rollout, update = program(action, line_search)
    after, metrics = update(jnp.float32(max_kl), jnp.float32(learning_rate))
    return state, after, metrics, rollout


def kl_of(before, after, rollout):
    policies = [jax.vmap(jax.vmap(s.params))(rollout.obs)[0] for s in (before, after)]
    return float(policies[0].kl(policies[1]).mean())


@pytest.mark.parametrize("action", ["discrete", "box"])
@pytest.mark.parametrize("max_kl", [1e-3, 0.03])
def test_the_step_keeps_its_kl_limit_and_gains(action, max_kl):
    before, after, metrics, rollout = one_update(action, max_kl=max_kl)
    kl = kl_of(before, after, rollout)
    assert bool(metrics["accepted"])
    assert kl == pytest.approx(float(metrics["kl"]), rel=1e-3, abs=1e-7)
    assert 0.1 * max_kl < kl <= max_kl * (1 + 1e-4)  # and uses it: to round-off of a second evaluation
    _, v_tm1, v_t = common.evaluate(before.params, rollout)
    advantage = standardise(common.lambda_targets(rollout, v_t, 0.9, CONFIG.gae_lambda) - v_tm1)
    gain = [float(surrogate(common.evaluate(s.params, rollout)[0], rollout, advantage)) for s in (before, after)]
    assert gain[1] - gain[0] == pytest.approx(float(metrics["surrogate_gain"]), rel=1e-3)
    assert gain[1] > gain[0]


def test_its_fisher_product_is_the_explicit_matrix_of_the_network():
    before, _, _, rollout = one_update()
    vector, unravel = ravel_pytree(before.params)
    policy_of = lambda v: jax.vmap(jax.vmap(lambda o: unravel(v)(o)[0]))(rollout.obs)
    along = jax.random.normal(jax.random.key(5), vector.shape)
    old = policy_of(vector)
    mean_kl = lambda v: old.kl(policy_of(v)).mean()
    explicit = jax.jit(jax.hessian(mean_kl))(vector) @ along
    found = jax.jit(lambda v: natural.fisher_product(policy_of, vector)(v))(along)
    np.testing.assert_allclose(found, explicit, atol=1e-4 * float(jnp.abs(explicit).max()))
    assert float(jnp.abs(explicit).max()) > 0.01


def test_the_critic_learns_and_leaves_the_policy_alone():
    before, one, _, _ = one_update(learning_rate=1e-3)
    _, many, _, _ = one_update(learning_rate=1e-2)
    policy = lambda s: jax.tree.leaves((s.params.policy_trunk, s.params.policy_head))
    value = lambda s: jax.tree.leaves((s.params.value_trunk, s.params.value_head))
    for a, b in zip(policy(one), policy(many), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(value(one), value(many), strict=True))
    assert any((a != b).any() for a, b in zip(policy(before), policy(one), strict=True))


def test_without_a_line_search_it_is_the_natural_gradient_with_the_whole_step():
    before, after, metrics, rollout = one_update(line_search=False, max_kl=0.03)
    assert kl_of(before, after, rollout) == pytest.approx(0.03, rel=0.5)  # the quadratic model's, no limit
    assert int(metrics["backtracks"]) == 0
    far_before, far, _, _ = one_update(line_search=False, max_kl=3.0)
    assert kl_of(far_before, far, rollout) > 3.0  # where the model is wrong nothing holds it
    _, near, metrics, _ = one_update(max_kl=3.0)
    assert 0 < kl_of(before, near, rollout) <= 3.0
    assert int(metrics["backtracks"]) > 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"share_trunk": True}, "share_trunk = True; it must be left out: the critic's steps would move the policy"),
        ({"max_kl": 0.0}, "max_kl = 0.0"),
        ({"damping": -1.0}, "damping = -1.0"),
        ({"backtrack_ratio": 1.5}, "backtrack_ratio = 1.5"),
    ],
)
def test_errors(settings, says):
    with pytest.raises(UsageError, match=says):
        TRPOConfig(**settings)
