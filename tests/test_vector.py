from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.envs import classic
from steersman.envs.wrappers import PureEnv
from steersman.errors import EnvironmentFault, UsageError
from steersman.types import EnvSpec, TimeStep
from steersman.vector import vectorize

SPEC = EnvSpec("toy", spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(9), spaces.Discrete(9), 9)


def seen_as(obs, reward=1.0, terminated=False, truncated=False, info=None):
    flags = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
    return TimeStep(obs, jnp.float32(reward), *flags, obs, jnp.zeros((0,), jnp.float32), info or {})


def key_env(length=3):
    """Its observations are the bits of the key it was given: shows who gets which randomness."""

    def bits(key):
        return jax.lax.bitcast_convert_type(jax.random.key_data(key), jnp.float32)

    def step(state, action, key):
        return state + np.int32(1), seen_as(bits(key), terminated=state + np.int32(1) == length)

    return PureEnv(SPEC, lambda key: (jnp.int32(0), bits(key)), step)


def count_env(info=None, **flags):
    """The observation is (steps of this episode, action), the reward the action; ``flags`` are functions of steps."""

    def step(state, action, key):
        state = state + np.int32(1)
        obs = jnp.stack([state, action]).astype(jnp.float32)
        ends = {name: function(state) for name, function in flags.items()}
        return state, seen_as(obs, action.astype(jnp.float32), **ends, info=info and info(action))

    return PureEnv(SPEC, lambda key: (jnp.int32(0), jnp.zeros((2,), jnp.float32)), step)


def play(batch, actions, key=None, **reset):
    def run(key, actions, reset):
        state, obs = batch.reset(key, **reset)
        state, seen = jax.lax.scan(batch.step, state, actions)
        return obs, seen, state

    return jax.jit(run)(jax.random.key(0) if key is None else key, actions, reset)


ACTIONS = jnp.asarray([[1, 2], [3, 4], [5, 6], [7, 8], [0, 1]], jnp.int32)  # [T, B]


def test_an_episode_ends_and_the_next_begins_in_the_same_step():
    _, seen, state = play(vectorize(count_env(terminated=lambda n: n == 3), 2), ACTIONS)
    np.testing.assert_array_equal(seen.terminated[:, 0], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(seen.obs[:, 0, 0], [1, 2, 0, 1, 2])  # after the reset
    np.testing.assert_array_equal(seen.final_obs[:, 0, 0], [1, 2, 3, 1, 2])  # the true successor
    np.testing.assert_array_equal(seen.info["episode_length"][:, 0], [1, 2, 3, 1, 2])
    np.testing.assert_array_equal(seen.info["episode_return"], [[1, 2], [4, 6], [9, 12], [7, 8], [7, 9]])
    np.testing.assert_array_equal(state.env, [2, 2])
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(seen)} == {"float32", "int32", "bool"}


def test_both_ends_are_kept_apart_and_together():
    env = count_env(terminated=lambda n: n == 3, truncated=lambda n: (n == 2) & (n < 0) | (n == 3))
    _, seen, _ = play(vectorize(env, 2), ACTIONS)
    np.testing.assert_array_equal(seen.terminated, seen.truncated)
    assert seen.terminated.any()
    _, seen, _ = play(vectorize(count_env(truncated=lambda n: n == 2), 2), ACTIONS)
    assert not seen.terminated.any()
    np.testing.assert_array_equal(seen.info["episode_length"][:, 0], [1, 2, 1, 2, 1])


def test_members_end_apart():
    env = count_env()

    def step(state, action, key):  # the first action of an episode says how long it is
        length = jnp.where(state[0] == 0, action, state[1])
        n = state[0] + np.int32(1)
        obs = jnp.stack([n, length]).astype(jnp.float32)
        return (n, length), seen_as(obs, terminated=n == length)

    env = replace(env, reset_fn=lambda key: ((jnp.int32(0), jnp.int32(0)), jnp.zeros((2,))), step_fn=step)
    _, seen, _ = play(vectorize(env, 2), jnp.asarray([[2, 3]] * 5, jnp.int32))
    np.testing.assert_array_equal(seen.terminated, [[0, 0], [1, 0], [0, 1], [1, 0], [0, 0]])


def test_info_of_the_environment_is_kept_and_native_reward_is_what_is_counted():
    env = count_env(info=lambda a: {"native_reward": 10 * a.astype(jnp.float32), "height": a})
    _, seen, _ = play(vectorize(env, 2), ACTIONS)
    counted = {"episode_return", "episode_length", "episode_cost"}
    assert set(seen.info) == {"native_reward", "height", *counted}
    np.testing.assert_array_equal(seen.info["episode_return"][:, 0], [10, 40, 90, 160, 160])


def test_sums_over_a_long_episode_are_right_to_float32():
    """27,000 steps are an evaluation's limit. Optimised as users have it: nothing may be simplified away."""
    plain = count_env()

    def step(state, action, key):
        state, seen = plain.step(state, action, key)
        return state, seen._replace(reward=jnp.float32(0.1), costs=jnp.full((1,), 0.3, jnp.float32))

    batch = vectorize(PureEnv(replace(SPEC, cost_names=("cost",)), plain.reset_fn, step), 2)

    def run(key):
        start, _ = batch.reset(key)
        return jax.lax.fori_loop(0, 300_000, lambda _, state: batch.step(state, jnp.zeros(2, jnp.int32))[0], start)

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        state = jax.jit(run)(jax.random.key(0))
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
    np.testing.assert_allclose(state.episode_return, 300_000 * np.float64(np.float32(0.1)), rtol=1e-7)
    np.testing.assert_allclose(state.episode_cost[:, 0], 300_000 * np.float64(np.float32(0.3)), rtol=1e-7)
    assert np.all(np.abs(state.return_lost) < 0.01)


def test_costs_are_summed_over_an_episode_each_for_itself():
    plain = count_env(terminated=lambda n: n == 3)

    def step(state, action, key):
        state, seen = plain.step(state, action, key)
        return state, seen._replace(costs=jnp.stack([seen.reward / 2, jnp.float32(1)]))

    costly = PureEnv(replace(SPEC, cost_names=("a", "b")), plain.reset_fn, step)
    _, seen, state = play(vectorize(costly, 2), ACTIONS)
    np.testing.assert_array_equal(seen.info["episode_cost"][:, 0], [[0.5, 1], [2, 2], [4.5, 3], [3.5, 1], [3.5, 2]])
    np.testing.assert_array_equal(seen.info["episode_cost"][:, 1, 0], seen.info["episode_return"][:, 1] / 2)
    assert state.episode_cost.dtype == jnp.float32


def test_without_costs_the_state_is_what_it_was():
    _, seen, state = play(vectorize(count_env(), 2), ACTIONS)
    assert seen.info["episode_cost"].shape == (5, 2, 0)
    assert state.episode_cost == ()  # no leaf: checkpoints of before costs were counted fit


def test_no_key_is_ever_used_twice():
    obs, seen, _ = play(vectorize(key_env(), 5), jnp.zeros((20, 5), jnp.int32))
    keys = [np.asarray(x).view(np.uint32).reshape(-1, 2) for x in (obs, seen.final_obs, seen.obs[seen.terminated])]
    assert len(keys[2]) == 30
    together = np.concatenate(keys)
    assert len(np.unique(together, axis=0)) == len(together)


def test_a_member_does_the_same_whether_the_batch_is_whole_or_cut():
    key = jax.random.key(7)
    env = classic.make("CartPole-v1")
    actions = jax.random.randint(jax.random.key(1), (80, 6), 0, 2, jnp.int32)
    whole = play(vectorize(env, 6), actions, key)
    part = vectorize(env, 2)
    for first in (4,):
        half = play(part, actions[:, first : first + 2], key, offset=jnp.int32(first))
        mine = slice(first, first + 2)
        np.testing.assert_array_equal(half[0], whole[0][mine])
        for ours, theirs in zip(jax.tree.leaves(half[1]), jax.tree.leaves(whole[1]), strict=True):
            np.testing.assert_array_equal(ours, theirs[:, mine])
    assert whole[1].terminated.any()
    np.testing.assert_array_equal(part.reset(key, offset=4)[1], whole[0][4:])


@pytest.mark.exact
def test_vmap_over_seeds_is_the_loop_over_seeds(same_bits):
    batch = vectorize(classic.make("CartPole-v1"), 3)
    actions = jnp.ones((30, 3), jnp.int32)
    keys = jax.random.split(jax.random.key(2), 2)
    together = jax.jit(jax.vmap(lambda k: play(batch, actions, k)[:2]))(keys)
    alone = lambda k: play(batch, actions, k)[:2]
    for i in range(2):
        for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone(keys[i])), strict=True):
            same_bits(ours[i], theirs)
    assert together[1].terminated.any()


def test_an_environment_may_keep_keys_and_trees_in_its_state():
    env = count_env(terminated=lambda n: n == 2)

    def reset(key):
        state, obs = env.reset(key)
        return {"n": state, "key": key, "grid": jnp.zeros((3, 2))}, obs

    def step(state, action, key):
        n, seen = env.step(state["n"], action, key)
        key, _ = jax.random.split(state["key"])
        return {"n": n, "key": key, "grid": state["grid"] + 1}, seen

    _, _, state = play(vectorize(PureEnv(SPEC, reset, step), 2), ACTIONS)
    np.testing.assert_array_equal(state.env["grid"][:, 0, 0], [1, 1])
    assert jnp.issubdtype(state.env["key"].dtype, jax.dtypes.prng_key)


BROKEN = {
    "reward = int32": lambda s: s._replace(reward=jnp.int32(1)),
    r"obs = float32\[2, 3\]": lambda s: s._replace(obs=jnp.zeros((3,))),
    r"final_obs = int32\[2, 2\]": lambda s: s._replace(final_obs=jnp.zeros((2,), jnp.int32)),
    "terminated = float32": lambda s: s._replace(terminated=jnp.zeros(())),
    "costs": lambda s: s._replace(costs=jnp.zeros((1,))),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_step_that_is_not_what_the_spec_says_is_a_fault(what):
    good = count_env()

    def step(state, action, key):
        state, seen = good.step(state, action, key)
        return state, BROKEN[what](seen)

    with pytest.raises(EnvironmentFault, match=f"toy: step gives, over the batch, {what}"):
        play(vectorize(replace(good, step_fn=step), 2), ACTIONS)


def test_other_faults():
    good = count_env()
    with pytest.raises(EnvironmentFault, match=r"toy: reset gives, over the batch, obs = float32\[2, 3\]"):
        vectorize(replace(good, reset_fn=lambda key: (jnp.int32(0), jnp.zeros((3,)))), 2).reset(jax.random.key(0))
    changes = lambda state, action, key: (state.astype(jnp.float32), seen_as(jnp.zeros((2,))))
    with pytest.raises(EnvironmentFault, match=r"state = float32\[2\]"):
        play(vectorize(replace(good, step_fn=changes), 2), ACTIONS)
    pair = lambda state, action, key: (state, (jnp.zeros((2,)), 1.0, False))
    with pytest.raises(EnvironmentFault, match=r"toy: step returned tuple"):
        play(vectorize(replace(good, step_fn=pair), 2), ACTIONS)


def test_usage_errors():
    for num_envs in (0, -1, 2.5, True, "2"):
        with pytest.raises(UsageError, match="num_envs is a whole number"):
            envs.vectorize(count_env(), num_envs)
    with pytest.raises(UsageError, match=r"Wrap it: vectorize\(canonical_actions"):
        vectorize(replace(count_env(), spec=replace(SPEC, action_space=spaces.Box(-2.0, 2.0, (1,)))), 2)


@pytest.mark.parametrize("shape", [(2, 1), (3,), ()])
def test_actions_of_another_shape_are_refused_while_they_are_traced(shape):
    batch = vectorize(count_env(terminated=lambda t: t == 9), 2)
    state, _ = jax.eval_shape(batch.reset, jax.random.key(0))
    jax.eval_shape(batch.step, state, jnp.zeros(2, jnp.int32))
    with pytest.raises(UsageError, match=r"toy takes actions of int32\[2\], over the batch; got the shapes"):
        jax.eval_shape(batch.step, state, jnp.zeros(shape, jnp.int32))
