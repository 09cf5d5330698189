"""The wrappers for Gymnasium's environments do as the compiled ones."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.envs.partial.hiding import mask_observation, observe_previous
from steersman.envs.partial.host import FlickerObservation, MaskObservation, ObservePrevious
from steersman.errors import UsageError
from steersman.spaces import from_native


class Counting(gymnasium.Env):
    observation_space = spaces.Box(1.0, 9.0, (2,))

    def __init__(self, action_space=None):
        self.action_space = action_space or spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 1
        return np.full(2, 1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(2, self.steps, np.float32), float(self.steps), self.steps > 4, False, {}


def test_mask():
    env = MaskObservation(Counting(), [1])
    assert env.observation_space == spaces.Box(np.float32([1, 0]), np.float32([9, 0]))
    assert env.reset(seed=0)[0].tolist() == [1, 0]
    obs, *_ = env.step(0)
    assert obs.tolist() == [2, 0]
    assert obs.dtype == np.float32
    with pytest.raises(UsageError, match="whole numbers from 0 to 1"):
        MaskObservation(Counting(), [2])
    cart = MaskObservation(gymnasium.make("CartPole-v1"), [1, 3])
    assert cart.observation_space == mask_observation(envs.make_env("CartPole-v1"), [1, 3]).spec.observation_space


def test_flicker():
    env = FlickerObservation(Counting(), 0.25)
    lost = []
    for seed in range(400):
        obs, _ = env.reset(seed=seed)
        lost.append(obs.tolist())
        lost.append(env.step(0)[0].tolist())
    assert {tuple(x) for x in lost} == {(0, 0), (1, 1), (2, 2)}
    assert np.mean([x == [0, 0] for x in lost]) == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 800))
    assert env.reset(seed=7)[0].tolist() == env.reset(seed=7)[0].tolist()
    assert env.observation_space == spaces.Box(0.0, 9.0, (2,))
    with pytest.raises(UsageError, match=r"lies in \[0, 1\]"):
        FlickerObservation(Counting(), 2)


def test_previous():
    made = envs.make(lambda: ObservePrevious(Counting()), 2)
    obs = made.reset(0)
    assert {name: x[0].tolist() for name, x in obs.items()} == {
        "observation": [1, 1],
        "previous_action": [0, 0, 0],
        "previous_reward": [0],
        "has_previous": [0],
    }
    for action in (2, 0, 1):
        seen = made.step(np.array([action, 0], np.int32))
        assert seen.obs["previous_action"].tolist() == [np.eye(3)[action].tolist(), [1, 0, 0]]
    assert seen.obs["previous_reward"].tolist() == [[4], [4]]
    seen = made.step(np.array([2, 0], np.int32))
    assert seen.terminated.all()
    assert seen.final_obs["previous_action"].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert not seen.obs["previous_action"].any()
    assert seen.final_obs["has_previous"].all()
    assert not seen.obs["has_previous"].any()
    made.close()


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (spaces.Discrete(4, start=-2), np.int64(1)),
        (spaces.MultiDiscrete([2, 3], start=[5, 7]), np.array([6, 9])),
        (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8)),
        (spaces.Box(np.float32([-2, 0]), np.float32([4, 1])), np.float32([2.5, 0.25])),
        (spaces.Box(-np.inf, np.inf, (2,)), np.float32([2.5, -7])),
    ],
)
def test_previous_actions_are_those_that_agents_know(space, action):
    class Compiled:  # only its spec is looked at
        spec = envs.make(lambda: Counting(space), 1).spec

    env = ObservePrevious(Counting(space), reward=False)
    assert (
        env.observation_space["previous_action"]
        == observe_previous(Compiled()).spec.observation_space["previous_action"]
    )
    env.reset(seed=0)
    obs, *_ = env.step(action)
    canonical = from_native(space, action)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        counts = np.atleast_1d(space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n)
        canonical = np.concatenate([np.eye(n)[i] for n, i in zip(counts, np.atleast_1d(canonical), strict=True)])
    np.testing.assert_allclose(obs["previous_action"], np.ravel(canonical), rtol=1e-6)
    assert env.observation_space.contains(obs)


def test_gymnasiums_own_delay_is_the_same():
    env = gymnasium.wrappers.DelayObservation(Counting(), 2)
    env.env.observation_space = spaces.Box(0.0, 9.0, (2,))
    assert [env.reset(seed=0)[0][0], *(env.step(0)[0][0] for _ in range(3))] == [0, 0, 1, 2]


def test_workers_stay_light():
    code = "import sys, steersman.envs.partial.host, steersman.envs.partial.parts; print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "False"
