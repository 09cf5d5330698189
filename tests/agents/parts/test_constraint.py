"""Limits: what is refused, what the multipliers are moved by, and that without one nothing is there."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import shards
from steersman.agents import ALGORITHMS
from steersman.agents.parts.constraint import Constraint, ConstraintConfig, constraint_of
from steersman.errors import UsageError
from steersman.run.disk.spec_json import transitions_like
from steersman.types import EnvSpec

T, B = 4, 2
SPACE = spaces.Discrete(2)
SPEC = EnvSpec("place", spaces.Box(-1, 1, (3,)), SPACE, SPACE, 100, cost_names=("cost",))
TWO = replace(SPEC, cost_names=("speed", "heat"))
CONSTRAINED = [name for name in ALGORITHMS if "multiplier_cap" in ALGORITHMS[name].config.__dataclass_fields__]
CONSTRAINED.remove("mbpo")  # it refuses limits: its model predicts no costs


def rollout(costs, first, truncated, length=T):
    """Of two environments, one cost."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), transitions_like(SPEC, (length, B)))
    columns = lambda x, dtype: jnp.asarray(np.array(x, dtype).T)
    return zeros._replace(
        costs=columns(costs, np.float32)[..., None], first=columns(first, bool), truncated=columns(truncated, bool)
    )


# The first environment's episode began before, and ends in row 1; the next goes on. The second's ends in row 3.
SEEN = rollout([[1, 2, 4, 8], [1, 1, 0, 1]], [[0, 0, 1, 0], [0, 0, 0, 0]], [[0, 1, 0, 0], [0, 0, 0, 1]])
BEFORE = rollout([[16, 16, 16, 1], [0, 0, 0, 1]], [[1, 0, 0, 1], [1, 0, 0, 0]], [[0, 0, 1, 0], [0, 0, 0, 0]])


def one(**settings):
    return Constraint(ConstraintConfig(cost_limit=(5.0,), **settings), ("cost",))


@pytest.mark.parametrize(
    ("criterion", "costs"),
    [
        ("episode", [1 + 1 + 2, 1 + 1 + 1 + 0 + 1]),
        ("discounted", [1 + 0.5 + 0.25 * 2, 0.5**3 + 0.5**4 + 0.5**5 + 0.5**7]),
    ],
)
def test_they_are_moved_by_the_episodes_that_ended(criterion, costs):
    """One that goes over from a rollout into the next is whole, and what a cost on its last step is belongs to it."""
    constraint = one(cost_criterion=criterion, cost_gamma=0.5, pid_gains=(1.0, 0.5, 0.0))
    state, metrics = constraint.moved(constraint.begin(BEFORE), SEEN)
    error = np.mean(costs) / 5 - 1
    assert float(state.costs.cost[0]) == pytest.approx(np.mean(costs))
    assert ("discounted_cost" in metrics) == (criterion == "discounted")
    assert float(metrics["multiplier"]) == pytest.approx(max(0.0, error + max(0.0, 0.5 * error)))
    assert float(state.costs.length) == pytest.approx(
        5.5 if criterion == "episode" else (2 - 1 / 2**2 + 2 - 1 / 2**7) / 2
    )
    weights = (1, 1) if criterion == "episode" else (1, 0.5)
    np.testing.assert_allclose(state.costs.running.value.cost[:, 0], [weights[0] * 4 + weights[1] * 8, costs[1]])
    over = replace(constraint, config=replace(constraint.config, cost_limit=(0.8 * np.mean(costs),)))
    _, metrics = over.moved(over.begin(BEFORE), SEEN)
    assert float(metrics["multiplier"]) == pytest.approx(0.25 + 0.5 * 0.25, rel=1e-5)


def test_a_mean_over_several_episodes_fades():
    """From the first that ended; two that end together count as two."""
    constraint = replace(one(), episodes=4)
    state, _ = constraint.counted(constraint.begin(BEFORE).costs, SEEN)
    assert float(state.cost[0]) == pytest.approx(4.0)
    after, some = constraint.counted(state._replace(cost=jnp.array([20.0]), length=jnp.array(1.0)), SEEN)
    ended = [4 + 8 + 1 + 2, 4 + 1 + 1 + 0 + 1]  # SEEN goes on where it left off: its first rows begin no episode
    assert float(after.cost[0]) == pytest.approx(20.0 + (1 - (3 / 4) ** 2) * (np.mean(ended) - 20.0))
    assert bool(some)


@pytest.mark.parametrize("multiplier", ["pid", "dual"])
def test_where_no_episode_ended_they_stay(multiplier):
    constraint = one(multiplier=multiplier, dual_rate=0.5)
    state = constraint.begin(BEFORE)
    state = state._replace(multiplier=jnp.array([0.7]), controller=state.controller._replace(integral=jnp.array([0.3])))
    quiet = rollout(np.ones((2, T)), np.zeros((2, T)), np.zeros((2, T)))
    after, metrics = constraint.moved(state, quiet)
    assert float(metrics["multiplier"]) == pytest.approx(0.7)
    jax.tree.map(np.testing.assert_array_equal, state[:2], after[:2])
    np.testing.assert_allclose(after.costs.running.value.cost[:, 0], [1 + 4, 1 + 4])
    moved, _ = constraint.moved(after, SEEN)
    assert float(moved.multiplier[0]) != pytest.approx(0.7)


def test_a_shard_counts_as_many_episodes_as_it_has():
    """Two shards of one environment each: the mean over episodes, not over shards."""
    constraint = one()
    both = SEEN._replace(truncated=SEEN.truncated.at[3, 0].set(True))  # three episodes, two of them in the first
    whole, _ = constraint.moved(constraint.begin(BEFORE), both)

    def shard(start, seen):
        with shards.sharded_over("shards"):
            return constraint.moved(constraint.begin(start), seen)[0]

    split = lambda x: jax.tree.map(lambda a: jnp.asarray(a)[:, :, None], x._replace(extras={}, carry=()))
    parts = jax.vmap(shard, in_axes=1, axis_name="shards")(split(BEFORE), split(both))
    np.testing.assert_allclose(whole.costs.cost, [(4 + 12 + 4) / 3])
    for part in (0, 1):
        np.testing.assert_allclose(parts.multiplier[part], whole.multiplier)
        np.testing.assert_allclose(parts.costs.cost[part], whole.costs.cost, rtol=1e-6)


def test_of_two_limits_the_one_that_is_broken_has_a_price():
    constraint = Constraint(ConstraintConfig(cost_limit=(5.0, 2.0)), TWO.cost_names)
    twice = lambda x: x._replace(costs=jnp.concatenate([x.costs, x.costs], -1))
    state, metrics = constraint.moved(constraint.begin(twice(BEFORE)), twice(SEEN))  # each episode costs 4
    assert set(metrics) == {"multiplier_speed", "multiplier_heat"}
    assert float(metrics["multiplier_speed"]) == 0
    assert float(metrics["multiplier_heat"]) == pytest.approx(1.02)  # twice the limit: an error of 1
    signals = jnp.ones((T, B, 3)).at[..., 1].set(7.0)
    np.testing.assert_allclose(constraint.mixed(state, signals), np.full((T, B), (1 - 1.02) / 2.02), rtol=1e-4)


def test_signals_are_rewards_and_costs_in_units_of_their_limits():
    r_t, discount_t, lambda_t = one(cost_gamma=0.5).signals(SEEN._replace(reward=SEEN.reward + 3), 0.9, 0.8)
    np.testing.assert_allclose(r_t[:, 0], [[3, 0.2], [3, 0.4], [3, 0.8], [3, 1.6]], rtol=1e-6)
    np.testing.assert_allclose(discount_t[0, 0], [0.9, 0.5])
    np.testing.assert_allclose(lambda_t[:, 0], [[0.8, 0.8], [0, 0], [0.8, 0.8], [0.8, 0.8]])


def test_without_a_limit_nothing_is_there():
    free = constraint_of("PPO", ConstraintConfig(), SPEC)
    assert free.begin(SEEN) == ()
    assert free.moved((), SEEN) == ((), {})
    assert free.heads == ()
    assert free.mixed((), SEEN.reward) is SEEN.reward


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cost_limit": (-1.0,)}, "cost_limit = -1; each limit.*0 or more"),
        ({"cost_limit": (float("nan"),)}, "cost_limit = nan"),
        ({"pid_gains": (1.0, -0.1, 0.0)}, "pid_gains = 1 -0.1 0; each gain"),
        ({"pid_gains": (1.0,)}, "pid_gains = 1; they are three numbers.*Default: 1 "),
        ({"multiplier_cap": 0.0}, "multiplier_cap = 0.0.*above 0"),
        ({"multiplier": "adam"}, "multiplier = 'adam'; it must be pid or dual"),
    ],
)
def test_settings_out_of_range(settings, says):
    with pytest.raises(UsageError, match=says):
        ConstraintConfig(**settings)


@pytest.mark.parametrize("name", CONSTRAINED)
def test_limits_belong_to_costs(name):
    box = spaces.Box(-1, 1, (2,))
    both = {"action_space": box, "native_action_space": box} if name in ("td3", "tqc") else {}
    config = ALGORITHMS[name].config
    make = lambda spec, *limits: ALGORITHMS[name].factory(config(cost_limit=limits), replace(spec, **both))
    with pytest.raises(UsageError, match="cost_limit = 25; place has no costs.*--cost .*with_costs.*safe/"):
        make(replace(SPEC, cost_names=()), 25.0)
    with pytest.raises(UsageError, match="cost_limit = 25 3; place has 1 cost: cost.*Give one for each"):
        make(SPEC, 25.0, 3.0)


@pytest.mark.parametrize("criterion", ["episode", "discounted"])
def test_the_state_keeps_its_types(criterion):
    """Or a second update would be compiled anew."""
    constraint = one(cost_criterion=criterion)
    before = jax.eval_shape(constraint.begin, BEFORE)
    after, _ = jax.eval_shape(constraint.moved, before, SEEN)
    kinds = lambda state: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)]
    assert kinds(before) == kinds(after)
