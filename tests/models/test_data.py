"""Rows in the order of time, numbers of episodes, and what is held out of fitting."""

from functools import reduce

import jax
import numpy as np
import pytest

from steersman.memory import uniform
from steersman.models.data import held_out, of_memory, of_rollout
from steersman.models.model import Data
from steersman.types import Rollout


def play(start, length, envs=2, episode=3):
    """Observations count steps; environment b stands at 100 b; episodes of ``episode`` steps."""
    t = np.arange(start, start + length)[:, None] + np.zeros((1, envs), int)
    obs = (t + 100 * np.arange(envs)[None]).astype(np.float32)[..., None]
    ends, no = t % episode == episode - 1, np.zeros((length, envs), bool)
    costs = np.zeros((length, envs, 0), np.float32)
    return Rollout(obs, obs, obs[..., 0], ends, no, obs + 1, t % episode == 0, costs, {})


def shown(data):
    """[(observation, episode)] of the valid rows."""
    return [
        (x, e) for x, e, v in zip(data.rows.obs[:, 0].tolist(), data.episode.tolist(), data.valid, strict=True) if v
    ]


def test_a_rollout_environment_by_environment_in_order():
    data = of_rollout(play(1, 4))  # begins in the middle of an episode
    numbers = [0, 0, 2, 2, 1, 1, 3, 3]
    assert shown(data) == list(zip([1, 2, 3, 4, 101, 102, 103, 104], numbers, strict=True))
    np.testing.assert_array_equal(data.rows.next_obs, data.rows.obs + 1)
    assert data.rows.costs.shape == (8, 0)


def test_a_memory_that_is_not_full_yet():
    buffer = uniform(20, 4)
    data = jax.jit(lambda: of_memory(buffer.add(buffer.init(play(0, 4)), play(4, 3))))()
    assert data.valid.shape == (20,)
    assert shown(data) == shown(of_rollout(play(0, 7)))
    np.testing.assert_array_equal(data.rows.next_obs[data.valid], data.rows.obs[data.valid] + 1)


def test_a_full_memory_keeps_each_episode_apart():
    buffer = uniform(20, 4)
    add = jax.jit(buffer.add)
    memory = reduce(add, [play(start, 4) for start in (4, 8, 12)], jax.jit(buffer.init)(play(0, 4)))
    held = shown(jax.jit(of_memory)(memory))
    assert sorted(x for x, _ in held) == [*range(6, 16), *range(106, 116)]
    episodes = {x // 3: {e for y, e in held if y // 3 == x // 3} for x, _ in held if x < 100}
    for one, numbers in episodes.items():  # one that lies over the seam of the ring has two numbers, none is shared
        assert all(not numbers & others for other, others in episodes.items() if other != one)


@pytest.mark.parametrize(("share", "expected"), [(0.2, [4, 9, 14]), (0.5, [1, 3, 5, 7, 9, 11, 13]), (0.07, [14])])
def test_every_so_many_episodes_are_held_out_whole(share, expected):
    episode = np.repeat(np.arange(15, dtype=np.int32), 2)
    data = Data(play(0, 1)._replace(), episode, np.arange(30) != 29)
    held = np.asarray(held_out(data, share))
    assert sorted(set(episode[held].tolist())) == expected
    assert all(held[episode == e][:1].all() for e in expected)
    assert not held[29]  # not valid
    assert held.sum() == 2 * len(expected) - (14 in expected)
