"""POMDPs by name, the tiger's exact value played, and what is said of discounts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.envs.families import FAMILIES
from steersman.episodes import numbers_of
from steersman.errors import UsageError
from steersman.tabular.problems.pomdp_classics import POMDPS

LISTEN, LEFT, RIGHT = range(3)
TEXT = """
discount: 0.9
values: reward
states: here there
actions: stay go
observations: one two
start: 1.0 0.0
T: stay identity
T: go : * : there 1.0
O: * uniform
R: go : here : * : * 3
"""


def test_the_names_we_list_are_the_problems():
    assert FAMILIES["pomdp"].names == (*POMDPS, "PATH.POMDP")


def test_the_tiger_is_worth_what_it_is_by_its_best_rule(returns_of):
    """Listen until one side leads by two, and open the other: V = -1 - g + g^2 [(p^2 + q^2) (R + g V) + 2 p q V]."""
    g, p, q = 0.95, 0.85, 0.15
    agree = p**2 + q**2
    value = (-1 - g + g**2 * (10 * p**2 - 100 * q**2)) / (1 - g**2 * (agree * g + 2 * p * q))
    assert value == pytest.approx(19.3714, abs=1e-4)

    def rule(memory, obs, first):
        lead, opened = memory
        heard = jnp.where(first | opened | (obs == 2), 0, 1 - 2 * obs)  # what is seen after opening says nothing
        lead = jnp.where(first | opened, 0, lead + heard)
        action = jnp.where(lead == 2, RIGHT, jnp.where(lead == -2, LEFT, LISTEN)).astype(jnp.int32)
        return (lead, action != LISTEN), action

    start = lambda num: (jnp.zeros(num, jnp.int32), jnp.zeros(num, bool))
    returns = returns_of("pomdp/tiger", rule, start, 200, 2000, "discounted_return")
    assert returns.mean() == pytest.approx(value, abs=4 * returns.std() / np.sqrt(2000))
    assert returns.std() < 35

    def on_belief(memory, belief, first):
        return memory, jnp.where(belief[:, 0] > 0.96, RIGHT, jnp.where(belief[:, 1] > 0.96, LEFT, LISTEN))

    again = returns_of("pomdp/tiger,belief=true", on_belief, lambda num: (), 200, 2000, "discounted_return")
    np.testing.assert_allclose(np.sort(again), np.sort(returns), atol=1e-3)  # the same rule on the same draws


def test_returns_are_without_the_discount():
    made = envs.make("pomdp/tiger,gamma=0.5,max_episode_steps=3", 2)
    assert made.spec.max_episode_steps == 3
    state, obs = made.reset(jax.random.key(0))
    assert obs.tolist() == [2, 2]  # nothing seen yet
    step = jax.jit(made.step)
    for _ in range(3):
        state, seen = step(state, jnp.zeros(2, jnp.int32))
    assert seen.truncated.all()
    assert not seen.terminated.any()
    assert seen.info["episode_return"].tolist() == [-3, -3]
    assert seen.info["discounted_return"].tolist() == [-1.75, -1.75]
    assert obs.tolist() == seen.obs.tolist() != seen.final_obs.tolist()
    state, seen = step(state, jnp.zeros(2, jnp.int32))
    assert seen.info["discounted_return"].tolist() == [-1, -1]  # a new episode's
    assert "discounted_return" in numbers_of(made.spec, seen, ())  # without being asked for


def test_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "walk.POMDP").write_text(TEXT)
    for name in ("pomdp/deep/walk.POMDP", f"pomdp/{tmp_path}/deep/walk.POMDP"):
        assert envs.make(f"{name},gamma=0.8", 2).spec.id == f"{name},gamma=0.8"
    env = envs.make_env("pomdp/deep/walk.POMDP")
    state, obs = env.reset(jax.random.key(0))
    assert obs == 2
    step = jax.jit(env.step)
    for action in (0, 1):
        state, seen = step(state, jnp.int32(action), jax.random.key(action))
    assert float(seen.info["discounted_return"]) == pytest.approx(0.9 * 3)
    assert envs.make_env("pomdp/deep/walk.POMDP,belief=true").spec.observation_space.shape == (2,)
    (tmp_path / "bad.POMDP").write_text(TEXT.replace("identity", "idendity"))
    (tmp_path / "binary.POMDP").write_bytes(bytes(range(9)))
    for name, says in {
        "none.POMDP": "There is no file none.POMDP",
        "bad.POMDP": "line 8",
        "binary.POMDP": "is not a text file",
        "deep/walk.POMDP,belive=true": "takes belief, max_episode_steps, gamma; got belive. Did you mean belief",
        "deep": "No partially observed problem is called 'deep'. Known: tiger, hallway, and paths",
    }.items():
        with pytest.raises(UsageError, match=says):
            envs.make(f"pomdp/{name}", 2)


def test_settings_of_the_problem():
    assert envs.make_env("pomdp/hallway,restart=true").spec.observation_space.n == 22
    with pytest.raises(UsageError, match=r"pomdp/tiger takes belief, max_episode_steps, gamma, accuracy; got restart"):
        envs.make("pomdp/tiger,restart=true", 2)
    with pytest.raises(UsageError, match=r"Did you mean tiger\?"):
        envs.make("pomdp/tigr", 2)
    with pytest.raises(UsageError, match="at least 1; got 0"):
        envs.make("pomdp/tiger,max_episode_steps=0", 2)
