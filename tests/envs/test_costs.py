"""Costs of compiled environments: of functions and of comparisons."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.envs.costs import with_comparisons, with_costs
from steersman.envs.wrappers import PureEnv, transform_observation
from steersman.errors import UsageError
from steersman.types import EnvSpec, TimeStep
from steersman.vector import vectorize

CHOICE = spaces.Discrete(3)
SPEC = EnvSpec("Count", spaces.Box(-99, 99, (2,)), CHOICE, CHOICE, cost_names=("own",))


def look(t):
    return jnp.stack([t, -t]).astype(jnp.float32)


def step(t, action, key):
    """Episodes of three steps; ``info`` has the height t + 10; the own cost is t."""
    t, no = t + 1, jnp.zeros((), bool)
    info = {"height": 10 + t, "pair": look(t), "broken": jnp.where(t == 2, jnp.nan, 0.0)}
    return t, TimeStep(look(t), jnp.float32(1), t == 3, no, look(t), t.astype(jnp.float32)[None], info)


COUNT = PureEnv(SPEC, lambda key: (jnp.int32(0), look(jnp.int32(0))), step)


def played(env, steps=4):
    batch = vectorize(env, 1)

    def run(key):
        state, _ = batch.reset(key)
        return jax.lax.scan(lambda s, a: batch.step(s, jnp.array([a])), state, jnp.arange(steps, dtype=jnp.int32) % 3)[
            1
        ]

    return jax.jit(run)(jax.random.key(0))


def test_a_function_of_both_ends_of_a_step_by_hand():
    env = with_costs(
        COUNT,
        lambda obs, action, after: jnp.stack([obs[0] + 10 * after[0], action.astype(jnp.float32)]),
        ["ends", "action"],
    )
    assert env.spec.cost_names == ("own", "ends", "action")
    seen = played(env)
    # The third step is an episode's last: its successor is 3, not the 0 of the reset.
    assert seen.costs[:, 0].tolist() == [[1, 10, 0], [2, 21, 1], [3, 32, 2], [1, 10, 0]]
    assert seen.info["episode_cost"][:, 0].tolist() == [[1, 10, 0], [3, 31, 1], [6, 63, 3], [1, 10, 0]]


def test_comparisons_by_hand():
    env = with_comparisons(COUNT, ["height > 11", "abs(obs[1]) >= 3", "low = pair[0] < 2"])
    assert env.spec.cost_names == ("own", "height > 11", "abs(obs[1]) >= 3", "low")
    assert played(env).costs[:, 0, 1:].tolist() == [[0, 0, 1], [1, 0, 0], [1, 1, 0], [0, 0, 1]]
    dicts = transform_observation(COUNT, lambda obs: {"up": obs[0], "all": obs}, spaces.Dict(up=CHOICE, all=CHOICE))
    space = spaces.Dict({"up": spaces.Box(-99, 99, ()), "all": spaces.Box(-99, 99, (2,))})
    dicts = PureEnv(replace(dicts.spec, observation_space=space), dicts.reset, dicts.step)
    assert played(with_comparisons(dicts, ["up > 1", "all[1] > -2"])).costs[:3, 0, 1:].tolist() == [
        [0, 1],
        [1, 0],
        [1, 0],
    ]
    assert jnp.isnan(played(with_comparisons(COUNT, ["broken > 1"])).costs[:, 0, 1]).tolist() == [0, 1, 0, 0]


def test_nothing_asked_for_changes_nothing():
    assert with_comparisons(COUNT, ()) is COUNT


def test_what_does_not_fit():
    with pytest.raises(UsageError, match=r"Count gave no 'heigth'.*holds broken, height, pair.*mean height"):
        with_comparisons(COUNT, ["heigth > 1"])
    with pytest.raises(UsageError, match=r"pair of Count is an array of shape \(2,\)"):
        with_comparisons(COUNT, ["pair > 1"])
    with pytest.raises(UsageError, match=r"obs of Count is an array of shape \(2,\)"):
        with_comparisons(COUNT, ["obs[2] > 1"])
    with pytest.raises(UsageError, match=r"an array of shape \(2,\), and there are 1 names \(a\)"):
        with_costs(COUNT, lambda obs, action, after: after, "a")
    with pytest.raises(UsageError, match="has two costs of the name 'own'"):
        with_costs(COUNT, lambda obs, action, after: after[0], "own")


def test_of_environments_by_name_and_made_already():
    made = envs.make("CartPole-v1", 2, costs=["abs(obs[0]) > 0.5"])
    assert made.spec.cost_names == ("abs(obs[0]) > 0.5",)
    assert envs.make(made, 2, costs=["abs(obs[0])>0.5"]) is made  # it has that
    with pytest.raises(UsageError, match="made already, without the cost 'obs\\[0\\] > 1'"):
        envs.make(made, 2, costs=["obs[0] > 1"])
