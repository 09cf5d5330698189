"""EnvPool behind the host protocol: no step that is none, the two ends, seeds."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("envpool")

from steersman.envs.envpool import make
from steersman.errors import UsageError


def play(envs, steps, seed=0, policy_seed=1):
    rng = np.random.default_rng(policy_seed)
    seen = [envs.reset(seed)]
    for _ in range(steps):
        if isinstance(envs.spec.action_space, spaces.Discrete):
            action = rng.integers(0, envs.spec.action_space.n, envs.num_envs).astype(np.int32)
        else:
            action = rng.uniform(-1, 1, (envs.num_envs, *envs.spec.action_space.shape)).astype(np.float32)
        seen.append((action, envs.step(action)))
    return seen


def test_every_cartpole_step_is_the_known_dynamics():
    """Each transition is put into Gymnasium's CartPole: a made-up step after a reset could not agree."""
    envs = make("CartPole-v1", 3)
    assert envs.spec.id == "envpool/CartPole-v1"
    first, *steps = play(envs, 150)
    model = gymnasium.make("CartPole-v1").unwrapped
    obs, ends = first, 0
    length = np.zeros(3, int)
    for action, seen in steps:
        length += 1
        for i in range(3):
            model.reset()
            model.state = obs[i].astype(np.float64)
            true, reward, terminated, _, _ = model.step(int(action[i]))
            assert_allclose(seen.final_obs[i], true, atol=1e-5)
            assert (seen.reward[i], seen.terminated[i]) == (reward, terminated)
        ended = seen.terminated | seen.truncated
        assert_array_equal(seen.info["episode_length"], length)
        assert_array_equal(seen.info["episode_return"], length)
        assert_array_equal(seen.obs[~ended], seen.final_obs[~ended])
        assert np.all(np.abs(seen.obs[ended]) <= 0.05)  # CartPole starts there
        length[ended] = 0
        ends += int(ended.sum())
        obs = seen.obs
    assert ends > 5
    assert obs.dtype == seen.reward.dtype == np.float32
    envs.close()


def test_the_time_limit_truncates_and_does_not_terminate():
    envs = make("envpool/Pendulum-v1", 2, max_episode_steps=7)
    assert envs.spec.max_episode_steps == 7
    assert envs.spec.action_space == spaces.Box(-1, 1, (1,))
    _, *steps = play(envs, 15)
    assert [s.truncated.tolist() for _, s in steps] == [[t % 7 == 6] * 2 for t in range(15)]
    assert not any(s.terminated.any() for _, s in steps)
    end = steps[6][1]
    assert np.any(end.final_obs != end.obs)
    assert end.info["episode_length"].tolist() == [7, 7]
    assert_allclose(end.info["episode_return"], sum(s.reward for _, s in steps[:7]), rtol=1e-6)
    envs.close()


def test_mujoco_is_cast_and_seeds_repeat():
    envs = make("HalfCheetah-v4", 2, num_threads=1, max_episode_steps=5)
    one, again, other = play(envs, 8, seed=0), play(envs, 8, seed=0), play(envs, 8, seed=1)
    assert one[0].dtype == np.float32
    assert one[0].shape == (2, 17)
    assert np.all(one[0][0] != one[0][1])  # members differ
    assert_array_equal(one[0], again[0])
    for (_, x), (_, y) in zip(one[1:], again[1:], strict=True):
        assert_array_equal(x.obs, y.obs)
        assert_array_equal(x.reward, y.reward)
    assert not set(one[0].ravel()) & set(other[0].ravel())  # EnvPool's own seeds would overlap
    envs.close()


def test_returned_arrays_are_the_callers():
    envs = make("CartPole-v1", 2)
    first, *steps = play(envs, 30)
    kept = [first, *(x for _, s in steps for x in (s.obs, s.final_obs, s.reward, s.terminated, s.truncated))]
    before = [x.copy() for x in kept]
    for _ in range(30):
        envs.step(np.zeros(2, np.int32))
    for x, y in zip(kept, before, strict=True):
        assert_array_equal(x, y)
    envs.close()


def test_dicts_images_and_counts():
    envs = make("CheetahRun-v1", 2)
    assert set(envs.spec.observation_space) == {"position", "velocity"}
    assert np.all(np.isinf(envs.spec.observation_space["position"].low))
    obs = envs.reset(0)
    assert (obs["position"].shape, obs["position"].dtype) == ((2, 8), np.float32)
    envs.close()
    envs = make("FrozenLake-v1", 2)
    assert envs.reset(0).dtype == np.int32
    envs.close()


def test_render_and_close():
    envs = make("CartPole-v1", 2, render_mode="rgb_array")
    with pytest.raises(UsageError, match="after reset"):
        envs.render()
    envs.reset(0)
    assert envs.render().shape[-1] == 3
    envs.close()
    envs.close()
    with pytest.raises(UsageError, match="Call reset"):
        envs.step(np.zeros(2, np.int32))


def test_what_is_refused(monkeypatch):
    with pytest.raises(UsageError, match=r"EnvPool has no CartPol-v1. Did you mean CartPole-v1"):
        make("envpool/CartPol-v1", 2)
    with pytest.raises(UsageError, match="num_threads=2"):
        make("CartPole-v1", 2, workers=2)
    with pytest.raises(UsageError, match="does not take these arguments"):
        make("CartPole-v1", 2, gravity=3)
    with pytest.raises(UsageError, match="num_envs"):
        make("CartPole-v1", 0)
    envs = make("CartPole-v1", 2)
    envs.reset(0)
    with pytest.raises(UsageError, match=r"shape \(2,\)"):
        envs.step(np.zeros(3, np.int32))
    envs.close()
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[envpool\]'"):
        make("CartPole-v1", 2)
