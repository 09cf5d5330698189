"""CPO's three cases on a rollout whose answer is known: what the step does to reward, cost and policy."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import pytest
from gymnasium import spaces

from steersman.agents.parts.constraint import CostState
from steersman.agents.policy_gradient.cpo import CPOConfig, cpo
from steersman.errors import UsageError
from steersman.run.disk.spec_json import transitions_like
from steersman.types import EnvSpec

T, B = 16, 16
SPACE = spaces.Discrete(3)
SPEC = EnvSpec("place", spaces.Box(-1, 1, (1,)), SPACE, SPACE, 1, cost_names=("cost",))
SMALL = {"unroll_length": T, "num_minibatches": 2, "value_epochs": 1, "hidden_sizes": (8,), "damping": 1e-3}
CONFIG = CPOConfig(cost_limit=(0.5,), normalize_observations=False, scale_rewards=False, **SMALL)


@cache
def program():
    """One-step episodes: action 1 pays 1 and costs 1, action 2 pays a half for nothing, action 0 neither. The update as
    a function of what episodes have cost up to now."""
    agent = cpo(CONFIG, SPEC)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), transitions_like(SPEC, (T, B)))
    state = jax.jit(agent.init)(jax.random.key(0), zeros)
    policy, value = jax.vmap(jax.vmap(state.params))(zeros.obs)
    assert value.shape == (T, B, 2)
    action = policy.sample(jax.random.key(1))
    pays, costs = jnp.array([0.0, 1.0, 0.5])[action], (action == 1).astype(jnp.float32)

    @jax.jit
    def update(cost):
        """With the cost of the episodes as the rollout's says, or shifted so that their mean is ``cost``."""
        over = jnp.ones((T, B), bool)
        shifted = costs + (cost - costs.mean())
        rollout = zeros._replace(action=action, reward=pays, costs=shifted[..., None], terminated=over, first=over)
        rollout = rollout._replace(extras={"log_prob": policy.log_prob(action)})
        after, metrics = agent.update(state, rollout, jax.random.key(2))
        probs = jax.nn.softmax(after.params(jnp.zeros(1))[0].logits)
        return probs, after.constraint, metrics

    return jax.nn.softmax(state.params(jnp.zeros(1))[0].logits), update


@pytest.mark.parametrize(
    ("cost", "case"), [(0.01, "case_free"), (0.47, "case_both"), (0.51, "case_both"), (3.0, "recovery")]
)
def test_its_cases(cost, case):
    before, update = program()
    after, costs, metrics = update(jnp.float32(cost))
    assert isinstance(costs, CostState)
    assert float(costs.cost[0]) == pytest.approx(cost, rel=1e-4)
    assert float(costs.length) == 1
    assert [name for name in ("case_free", "case_both", "recovery") if metrics[name]] == [case]
    assert bool(metrics["step_accepted"])
    kl = float((before * (jnp.log(before) - jnp.log(after))).sum())
    assert 0 < kl <= 0.01 * 1.001
    reward, price = (float((after - before) @ jnp.array(x)) for x in ([0.0, 1.0, 0.5], [0.0, 1.0, 0.0]))
    if case == "case_free":
        assert reward > 0.02
        assert price > 0.02
    if case == "case_both":
        assert price == pytest.approx(0.5 - cost, abs=0.01)  # up to the limit, or down to it
        assert reward > 0 or cost > 0.5
    if case == "recovery":
        assert price < -0.04


@pytest.mark.parametrize(
    ("settings", "spec", "says"),
    [
        ({}, SPEC, "CPO has no cost_limit.*--cost-limit 25, or train trpo"),
        ({"cost_limit": (1.0, 2.0)}, SPEC, "CPO: 2 limits; its step keeps one. Train ppo"),
        ({"cost_limit": (1.0,)}, replace(SPEC, cost_names=()), "CPO: cost_limit = 1; place has no costs"),
        ({"cost_limit": (-1.0,)}, SPEC, "cost_limit = -1"),
        ({"cost_limit": (1.0,), "share_trunk": True}, SPEC, "CPO: share_trunk = True"),
    ],
)
def test_errors(settings, spec, says):
    with pytest.raises(UsageError, match=says):
        cpo(CPOConfig(**settings), spec)
