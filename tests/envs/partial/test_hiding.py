import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.envs import classic
from steersman.envs.goals import point
from steersman.envs.partial.hiding import delay_observation, flicker, mask_observation, observe_previous
from steersman.envs.probe import mask as mask_probe
from steersman.envs.wrappers import PureEnv, frame_stack
from steersman.errors import UsageError
from steersman.types import EnvSpec, TimeStep
from steersman.vector import vectorize

DISCRETE, VECTOR = spaces.Discrete(3), spaces.Box(1.0, 9.0, (2,))


def counting(space=VECTOR, look=lambda n: jnp.full((2,), n, jnp.float32), actions=DISCRETE, length=4):
    """Observes ``look(1 + steps of this episode)``, pays that; terminates after ``length`` steps."""

    def step(state, action, key):
        state = state + np.int32(1)
        obs, ends = look(state), (state > length, jnp.zeros((), bool))
        return state, TimeStep(obs, state.astype(jnp.float32), *ends, obs, jnp.zeros((0,), jnp.float32), {})

    spec = EnvSpec("count", space, actions, actions)
    return PureEnv(spec, lambda key: (jnp.int32(1), look(jnp.int32(1))), step)


def play(env, actions=None, length=6, num_envs=1):
    """-> the first observations [B, ...], what is seen [T, B, ...]"""
    batch = vectorize(env, num_envs)
    actions = jnp.zeros((length, num_envs), jnp.int32) if actions is None else actions

    def run(key):
        state, obs = batch.reset(key)
        return obs, jax.lax.scan(batch.step, state, actions)[1]

    return jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(0)))


DICT = spaces.Dict({"a": VECTOR, "b": spaces.Box(0, 255, (3, 3), np.uint8), "action_mask": spaces.Box(0.0, 1.0, (3,))})
LOOK = lambda n: {"a": jnp.full((2,), n, jnp.float32), "b": jnp.full((3, 3), n, jnp.uint8), "action_mask": jnp.ones(3)}
NAMED = counting(DICT, LOOK)


def test_mask():
    env = mask_observation(counting(), [1])
    assert env.spec.observation_space == spaces.Box(np.float32([1, 0]), np.float32([9, 0]))
    obs, seen = play(env)
    assert obs.tolist() == [[1, 0]]
    assert seen.final_obs[:, 0].tolist() == [[2, 0], [3, 0], [4, 0], [5, 0], [2, 0], [3, 0]]
    assert seen.obs[3, 0].tolist() == [1, 0]
    obs, seen = play(mask_observation(NAMED, {"a": [0]}), length=1)
    assert seen.obs["a"].tolist() == [[[0, 2]]]
    assert (seen.obs["b"] == 2).all()
    assert seen.obs["action_mask"].all()
    assert mask_observation(point(1), {"observation": [1]}).spec.goal_reward is None


@pytest.mark.parametrize(
    ("env", "indices", "says"),
    [
        (counting(), [2], r"whole numbers from 0 to 1, as the observation has 2 entries, one at least; got \[2\]"),
        (counting(), [-1], r"got \[-1\]"),
        (counting(), [], r"got \[\]"),
        (counting(), [0.5], r"got \[0\.5\]"),
        (counting(), {"a": [0]}, "give a list of them"),
        (NAMED, [0], r"name the part: \{'a': \[\.\.\.\]\}"),
        (NAMED, {"c": [0]}, "There is no part 'c' to mask; there are a, b"),
        (NAMED, {"b": [0]}, r"Indices are places in a vector; b has the shape \(3, 3\)"),
        (counting(DISCRETE), [0], "Only Boxes, and Dicts of them, can be masked"),
    ],
)
def test_mistakes_of_a_mask(env, indices, says):
    with pytest.raises(UsageError, match=says):
        mask_observation(env, indices)


def test_flicker():
    env = flicker(counting(length=100), 0.25)
    assert env.spec.observation_space == spaces.Box(0.0, 9.0, (2,))  # 0 is outside what it was
    obs, seen = play(env, length=40, num_envs=50)
    np.testing.assert_array_equal(seen.obs[..., 0], seen.obs[..., 1])  # all of it or nothing
    lost = seen.obs[..., 0] == 0
    assert lost.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 2000))
    np.testing.assert_array_equal(seen.obs[~lost][:, 0], np.where(lost, 0, np.arange(2, 42)[:, None])[~lost])
    assert 0 < (obs[:, 0] == 0).sum() < 50  # the first one as well
    assert seen.reward[-1, 0] == 41
    _, seen = play(flicker(NAMED, 1.0), length=2)
    assert not seen.obs["a"].any()
    assert not seen.obs["b"].any()
    assert seen.obs["b"].dtype == np.uint8
    assert seen.obs["action_mask"].all()
    for probability in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match=r"lies in \[0, 1\]"):
            flicker(counting(), probability)
    with pytest.raises(UsageError, match=r"can be lost: the numbers of Discrete\(3\) are names"):
        flicker(counting(DISCRETE))


def test_delay():
    env = delay_observation(counting(), 2)
    assert env.spec.observation_space == spaces.Box(0.0, 9.0, (2,))
    obs, seen = play(env)
    assert obs.tolist() == [[0, 0]]
    assert seen.final_obs[:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1]
    assert seen.obs[:, 0, 0].tolist() == [0, 1, 2, 0, 0, 1]  # nothing of the last episode comes late
    obs, seen = play(delay_observation(NAMED, 1), length=2)
    assert not obs["b"].any()
    assert obs["action_mask"].all()
    assert seen.obs["b"][:, 0, 0, 0].tolist() == [1, 2]
    for steps in (0, 1.5, True):
        with pytest.raises(UsageError, match="A delay is a whole number of at least 1"):
            delay_observation(counting(), steps)
    with pytest.raises(UsageError, match="can be delayed"):
        delay_observation(counting(DISCRETE), 1)


def test_previous_action_and_reward():
    actions = jnp.array([[2], [0], [1], [1], [2]], jnp.int32)
    obs, seen = play(observe_previous(counting()), actions)
    assert {name: x[0].tolist() for name, x in obs.items()} == {
        "observation": [1, 1],
        "previous_action": [0, 0, 0],
        "previous_reward": [0],
        "has_previous": [0],
    }
    assert seen.obs["previous_action"][:, 0].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert seen.obs["previous_reward"][:, 0, 0].tolist() == [2, 3, 4, 0, 2]
    assert seen.obs["has_previous"][:, 0, 0].tolist() == [1, 1, 1, 0, 1]
    assert seen.final_obs["previous_action"][3, 0].tolist() == [0, 1, 0]  # the true successor's
    assert seen.final_obs["previous_reward"][3, 0].tolist() == [5]


@pytest.mark.parametrize(
    ("space", "action", "encoded"),
    [
        (spaces.MultiDiscrete([2, 3], dtype=np.int32), np.int32([1, 2]), [0, 1, 0, 0, 1]),
        (spaces.MultiBinary(3), np.int32([1, 0, 1]), [1, 0, 1]),
        (spaces.Box(-1.0, 1.0, (2, 2)), np.float32([[0.5, -3], [0, 1]]), [0.5, -1, 0, 1]),
    ],
)
def test_previous_actions_of_other_spaces(space, action, encoded):
    env = observe_previous(counting(actions=space), reward=False)
    assert set(env.spec.observation_space.spaces) == {"observation", "previous_action", "has_previous"}
    _, seen = play(env, jnp.asarray(action)[None, None])
    assert seen.obs["previous_action"][0, 0].tolist() == encoded
    assert env.spec.observation_space.contains({name: x[0, 0] for name, x in seen.obs.items()})


def test_what_came_before_joins_a_dict():
    env = observe_previous(mask_probe(), action=False)
    assert set(env.spec.observation_space.spaces) == {"observation", "action_mask", "previous_reward", "has_previous"}
    assert env.spec.action_space == spaces.Discrete(3)
    with pytest.raises(UsageError, match="has has_previous, previous_reward already"):
        observe_previous(env, action=False)
    with pytest.raises(UsageError, match="neither action nor reward"):
        observe_previous(counting(), False, False)
    with pytest.raises(UsageError, match="Observe the reward alone: action=False"):
        observe_previous(counting(actions=spaces.Tuple([DISCRETE, DISCRETE])))


def test_they_compose():
    env = observe_previous(frame_stack(delay_observation(mask_observation(classic.make("CartPole-v1"), [1, 3]), 1), 2))
    obs, seen = play(env, length=2)
    assert obs["observation"].shape == (1, 8)
    assert seen.obs["observation"][1, 0, [1, 3, 5, 7]].tolist() == [0, 0, 0, 0]
    assert env.spec.max_episode_steps == 500
