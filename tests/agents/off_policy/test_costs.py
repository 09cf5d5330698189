"""Critics of costs: targets and the actor's mix by hand, what moves the multipliers, the family's shapes, refusals."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents import ALGORITHMS
from steersman.agents.off_policy.costs import CostLearner, cost_learner
from steersman.agents.off_policy.sac import SACConfig, SACState
from steersman.agents.parts.replay.sequences import Items
from steersman.errors import UsageError
from steersman.run.disk.spec_json import transitions_like
from steersman.types import EnvSpec

BOX, T, B, M = spaces.Box(-1.0, 1.0, (2,)), 4, 2, 4
SPEC = EnvSpec("place", BOX, BOX, BOX, 10, cost_names=("speed", "heat"))
LIMITS = (2.0, 4.0)
CONFIG = SACConfig(cost_limit=LIMITS, cost_gamma=0.5, tau=0.25)
RNG = np.random.default_rng(0)
SEEN, AFTER = RNG.normal(size=(2, M, 2)).astype(np.float32)
COSTS = RNG.random((M, 2)).astype(np.float32)
ENDS = np.array([0, 0, 1, 0], bool)


def linear(key):
    return {"w": jax.random.normal(key, (2,))}


def value(critics, seen):
    return jax.vmap(lambda critic: seen @ critic["w"])(critics)


def rollout(**parts):
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), transitions_like(SPEC, (T, B)))
    return zeros._replace(**{name: jnp.asarray(x) for name, x in parts.items()})


@pytest.fixture(scope="module")
def begun():
    learner = cost_learner("SAC", CONFIG, SPEC, linear)
    return learner, jax.jit(learner.init)(jax.random.key(0), rollout())


@pytest.fixture(scope="module")
def items():
    discount = jnp.where(ENDS, 0.0, 0.9).astype(jnp.float32)
    see = lambda network, carry=None: (jnp.asarray(SEEN), jnp.asarray(AFTER))
    weight = jnp.array([1.0, 1.0, 1.0, 0.5])
    return Items(jnp.zeros((M, 2)), jnp.zeros(M), discount, weight, None, see, costs=jnp.asarray(COSTS))


def by_cost(critics, seen):
    """[K, C, M]: the k-th critic of cost i is at k C + i."""
    return np.einsum("kcd,md->kcm", np.asarray(critics["w"]).reshape(2, 2, 2), seen)


@pytest.mark.parametrize("n", [1, 3])
def test_targets_are_the_mean_of_the_critics_and_true_costs(begun, items, n):
    _, state = begun
    learner = CostLearner(begun[0].constraint, replace(CONFIG, n_step=n), linear)
    learned, metrics = learner.learn(state, items, jnp.float32(0.1), value, value)
    gamma = np.where(ENDS, 0.0, 0.5 if n == 1 else 0.9)  # several steps are discounted by replay
    y = COSTS.T / np.array(LIMITS)[:, None] + gamma * by_cost(state.targets, AFTER).mean(0)
    q, weight = by_cost(state.critics.params, SEEN), np.asarray(items.weight)
    np.testing.assert_allclose(metrics["cost_critic_loss"], (0.5 * np.square(q - y) * weight).mean(), rtol=1e-5)
    downhill = np.einsum("kcm,md->kcd", (q - y) * weight, SEEN).reshape(4, 2)
    step = np.asarray(learned.critics.params["w"] - state.critics.params["w"])
    np.testing.assert_array_equal(np.sign(step), -np.sign(downhill))  # each critic towards the one target
    slow = learner.averaged(learned).targets["w"]
    np.testing.assert_allclose(slow, 0.75 * state.targets["w"] + 0.25 * learned.critics.params["w"], rtol=1e-5)


def test_the_actor_ascends_a_mean_of_objectives_weighed_by_the_multipliers(begun, items):
    learner, state = begun
    loss = jnp.arange(M, dtype=jnp.float32)
    np.testing.assert_allclose(learner.weighed(state, items, loss, value), loss)  # they begin at 0
    priced = state._replace(constraint=state.constraint._replace(multiplier=jnp.array([3.0, 1.0])))
    q = by_cost(state.critics.params, SEEN).mean(0)
    np.testing.assert_allclose(learner.weighed(priced, items, loss, value), (loss + 3 * q[0] + q[1]) / 5, rtol=1e-5)


def test_the_multipliers_are_moved_by_the_episodes_of_acting_alone(begun, items):
    learner, costs = begun
    state = SACState((), (), (), (), (), jnp.uint32(0), costs)
    truncated = np.zeros((T, B), bool)
    truncated[2, 0] = True
    seen = rollout(costs=np.ones((T, B, 2), np.float32), truncated=truncated)  # of 3 steps: 3 of 2, and 3 of 4
    after = learner.observe(state, seen)
    assert int(after.steps) == T * B
    assert after.costs.constraint.multiplier.tolist() == pytest.approx([0.1 * 0.5 + 0.05 * 0.5, 0.0])
    learned, _ = learner.learn(after.costs, items, jnp.float32(0.1), value, value)
    assert learned.constraint is after.costs.constraint


def test_without_a_limit_there_is_nothing(items):
    free = cost_learner("SAC", replace(CONFIG, cost_limit=()), SPEC, linear)
    state = SACState((), (), (), (), (), jnp.uint32(0), free.init(jax.random.key(0), rollout()))
    assert state.costs == free.observe(state, rollout()).costs == free.averaged(()) == ()
    assert free.learn((), items, jnp.float32(0.1), value, value) == ((), {})
    assert free.weighed((), items, items.reward, value) is items.reward


FAMILY = [
    ("sac", BOX, {"n_step": 3, "cost_gamma": 0.99}),
    ("sac", spaces.Discrete(3), {}),
    ("td3", BOX, {"memory": "gru", "memory_size": 4, "burn_in": 1, "sequence_length": 4, "n_step": 2}),
    ("tqc", BOX, {"num_quantiles": 3}),
]


@pytest.mark.parametrize(("name", "space", "settings"), FAMILY)
def test_the_family_keeps_limits(name, space, settings):
    spec = replace(SPEC, action_space=space, native_action_space=space)
    small = {"hidden_sizes": (4,), "batch_size": 4, "replay_capacity": 64, "unroll_length": T, "update_ratio": 0.25}
    small |= {"normalize_observations": False, "scale_rewards": False}
    entry = ALGORITHMS[name]
    agent = entry.factory(entry.config(**small, **settings, cost_limit=LIMITS), spec)
    like = transitions_like(spec, (T, B))
    state = jax.eval_shape(agent.init, jax.random.key(0), like)
    carry = jax.eval_shape(lambda: agent.begin(B))
    after, metrics = jax.eval_shape(agent.update, state, like._replace(carry=carry), jax.random.key(0))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert {"multiplier_speed", "multiplier_heat", "cost_critic_loss"} <= set(metrics)
    assert all(x.shape[0] == 4 for x in jax.tree.leaves(state.learner.costs.targets))  # two of each of two


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_step": 3, "cost_gamma": 0.9}, "replay sums costs as it does rewards, by gamma = 0.99"),
        ({"n_step": 3, "n_step_correction": "retrace"}, "Set n_step_correction to none, or n_step to 1"),
        ({"cost_limit": (1.0,)}, "place has 2 costs: speed, heat"),
    ],
)
def test_what_costs_cannot_be_learned_with(settings, said):
    with pytest.raises(UsageError, match=said):
        ALGORITHMS["sac"].factory(SACConfig(**{"cost_limit": LIMITS, **settings}), SPEC)
