import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.envs import classic, wrappers
from steersman.envs.classic.pendulum import Pendulum
from steersman.envs.wrappers import PureEnv
from steersman.errors import UsageError
from steersman.types import EnvSpec, TimeStep
from steersman.vector import vectorize

F = np.float32


def counting(space, look, length=3, limit=None):
    """Observes ``look(steps of this episode)``; terminates after ``length`` steps."""

    def step(state, action, key):
        state = state + np.int32(1)
        obs, flags = look(state), (state >= length, jnp.zeros((), bool))
        return state, TimeStep(obs, jnp.float32(2), *flags, obs, jnp.zeros((0,), jnp.float32), {})

    spec = EnvSpec("count", space, spaces.Discrete(2), spaces.Discrete(2), limit)
    return PureEnv(spec, lambda key: (jnp.int32(0), look(jnp.int32(0))), step)


VECTOR = counting(spaces.Box(0.0, 9.0, (1,)), lambda n: n.astype(jnp.float32)[None])


def play(env, length=6, num_envs=2):
    batch = vectorize(env, num_envs)

    def run(key):
        state, obs = batch.reset(key)
        return obs, jax.lax.scan(batch.step, state, jnp.zeros((length, num_envs), jnp.int32))[1]

    return jax.jit(run)(jax.random.key(0))


def test_time_limit_truncates_and_leaves_terminations_alone():
    limited = wrappers.time_limit(VECTOR, 2)
    assert limited.spec.max_episode_steps == 2
    _, seen = play(limited)
    np.testing.assert_array_equal(seen.truncated[:, 0], [0, 1, 0, 1, 0, 1])
    assert not seen.terminated.any()
    np.testing.assert_array_equal(seen.final_obs[:, 0, 0], [1, 2, 1, 2, 1, 2])
    _, seen = play(wrappers.time_limit(VECTOR, 3))  # both at once
    np.testing.assert_array_equal(seen.truncated[:, 0], seen.terminated[:, 0])
    _, seen = play(wrappers.time_limit(VECTOR, 9))
    np.testing.assert_array_equal(seen.terminated[:, 0], [0, 0, 1, 0, 0, 1])
    assert not seen.truncated.any()
    with pytest.raises(UsageError, match="at least 1"):
        wrappers.time_limit(VECTOR, 0)


def test_frame_stack_starts_every_episode_anew():
    env = wrappers.frame_stack(VECTOR, 3)
    assert env.spec.observation_space == spaces.Box(0.0, 9.0, (3,))
    obs, seen = play(env, length=4)
    np.testing.assert_array_equal(obs[0], [0, 0, 0])
    np.testing.assert_array_equal(seen.final_obs[:, 0], [[0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 1]])
    np.testing.assert_array_equal(seen.obs[2, 0], [0, 0, 0])  # nothing of the last episode is left


@pytest.mark.parametrize(("shape", "stacked"), [((4, 5), (4, 5, 3)), ((4, 5, 2), (4, 5, 6))])
def test_frame_stack_of_images(shape, stacked):
    space = spaces.Box(0, 255, shape, np.uint8)
    env = wrappers.frame_stack(counting(space, lambda n: jnp.full(shape, n, jnp.uint8)), 3)
    assert env.spec.observation_space == spaces.Box(0, 255, stacked, np.uint8)
    obs, seen = play(env, length=2)
    assert obs.dtype == jnp.uint8
    channels = 1 if len(shape) == 2 else 2
    np.testing.assert_array_equal(seen.obs[1, 0, 0, 0], np.repeat([0, 1, 2], channels))


def test_frame_stack_of_a_dict_leaves_the_mask():
    space = spaces.Dict({"observation": spaces.Box(0.0, 9.0, (2,)), "action_mask": spaces.Box(0.0, 1.0, (2,))})
    look = lambda n: {"observation": jnp.full((2,), n, jnp.float32), "action_mask": jnp.array([1.0, 0.0])}
    env = wrappers.frame_stack(counting(space, look), 2)
    _, seen = play(env, length=2)
    np.testing.assert_array_equal(seen.obs["observation"][1, 0], [1, 1, 2, 2])
    np.testing.assert_array_equal(seen.obs["action_mask"][1, 0], [1, 0])
    assert env.spec.observation_space["observation"].shape == (4,)


def test_frame_stack_refuses_what_it_cannot_stack():
    with pytest.raises(UsageError, match="only Boxes"):
        wrappers.frame_stack(counting(spaces.Discrete(9), lambda n: n), 2)
    with pytest.raises(UsageError, match="at least 1"):
        wrappers.frame_stack(VECTOR, 0)


def test_transform_observation_reaches_both_observations():
    space = spaces.Box(0.0, 90.0, (1,))
    env = wrappers.transform_observation(VECTOR, lambda obs: 10 * obs, space)
    assert env.spec.observation_space == space
    _, seen = play(env)
    np.testing.assert_array_equal(seen.final_obs[:3, 0, 0], [10, 20, 30])
    np.testing.assert_array_equal(seen.obs[:3, 0, 0], [10, 20, 0])


def test_transform_reward_keeps_episode_returns_in_the_environments_units():
    env = wrappers.transform_reward(wrappers.transform_reward(VECTOR, lambda r: r / 4), lambda r: -r)
    _, seen = play(env)
    np.testing.assert_array_equal(seen.reward[:, 0], [-0.5] * 6)
    np.testing.assert_array_equal(seen.info["episode_return"][:, 0], [2, 4, 6, 2, 4, 6])


def test_canonical_actions_of_a_native_pendulum():
    twin = Pendulum()
    native_step = lambda state, action, key: twin.step(state, action / 2, key)  # a task in N m
    spec = EnvSpec("native", twin.spec.observation_space, spaces.Box(-2.0, 2.0, (1,)), spaces.Box(-2.0, 2.0, (1,)))
    env = wrappers.canonical_actions(PureEnv(spec, twin.reset, native_step))
    assert env.spec.action_space == spaces.Box(-1.0, 1.0, (1,))
    assert env.spec.native_action_space == spaces.Box(-2.0, 2.0, (1,))
    key = jax.random.key(0)
    state, _ = twin.reset(key)
    for action, clipped in ((0.5, 0.5), (3.0, 1.0), (-7.0, -1.0)):
        got = env.step(state, jnp.array([action], jnp.float32), key)[1]
        wanted = twin.step(state, jnp.array([clipped], jnp.float32), key)[1]
        np.testing.assert_array_equal(got.obs, wanted.obs)
        np.testing.assert_array_equal(got.reward, wanted.reward)


def test_wrappers_compose_on_a_twin():
    env = classic.make("CartPole-v1")
    for wrap in (lambda e: wrappers.frame_stack(e, 2), lambda e: wrappers.time_limit(e, 7)):
        env = wrap(env)
    assert env.spec.max_episode_steps == 7
    obs, seen = play(env, length=20)
    assert obs.shape == (2, 8)
    assert int(seen.info["episode_length"].max()) <= 7
    np.testing.assert_array_equal(seen.final_obs[1:, :, :4], seen.obs[:-1, :, 4:])  # the older frame
