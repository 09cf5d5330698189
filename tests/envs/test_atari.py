"""Atari games behind the host protocol: the preprocessing, the two ends, lives, what is counted; ale-py and EnvPool."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

pytest.importorskip("ale_py")

from steersman import envs
from steersman.envs import atari
from steersman.envs.families import split_name
from steersman.errors import UsageError
from steersman.run.evaluate import host_evaluator
from steersman.types import Agent


def play(made, steps, seed=0, policy_seed=1):
    rng = np.random.default_rng(policy_seed)
    first, seen = made.reset(seed), []
    for _ in range(steps):
        seen.append(made.step(rng.integers(0, made.spec.action_space.n, made.num_envs).astype(np.int32)))
    return first, seen


def engines(game, num_envs, **kwargs):
    yield envs.make(f"atari/{game}", num_envs, num_threads=1, **kwargs)
    if "envpool" in sys.modules or pytest.importorskip("envpool"):
        yield envs.make(f"envpool/{game}-v5", num_envs, num_threads=1, **kwargs)


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting:UserWarning")
def test_whole_games_are_counted_and_lives_are_ends_to_learn_from():
    """Four lost lives of five are ends of the learner's episode, in which the game goes on; the fifth is both's."""
    for made in engines("Breakout", 3, terminal_on_life_loss=True, fire_reset=True):
        assert made.spec.observation_space == spaces.Box(0, 255, (4, 84, 84), np.uint8)
        assert made.spec.action_space == spaces.Discrete(4)
        assert made.spec.max_episode_steps == 27_000
        _, seen = play(made, 420)
        made.close()
        terminated, over = np.stack([s.terminated for s in seen]), np.stack([s.over for s in seen])
        points = np.stack([s.reward for s in seen])
        total = np.stack([s.info["episode_return"] for s in seen])
        length = np.stack([s.info["episode_length"] for s in seen])
        assert (over <= terminated).all()
        whole = 0
        for b in range(3):
            ends = np.flatnonzero(over[:, b])
            starts = np.concatenate([[0], ends[:-1] + 1])
            for start, end in zip(starts, ends, strict=True):
                assert terminated[start : end + 1, b].sum() == 5
                assert length[end, b] == end - start + 1
                whole += 1
            for t in np.flatnonzero(terminated[:, b] & ~over[:, b]):
                np.testing.assert_array_equal(seen[t].obs[b], seen[t].final_obs[b])  # the game goes on
            for t in ends:
                assert (seen[t].obs[b] != seen[t].final_obs[b]).any()
        assert whole >= 3
        assert set(np.unique(points)) == {0.0, 1.0}  # clipped
        assert total.max() > 1


def test_evaluation_plays_whole_games_whatever_is_learned_from():
    def act(state, carry, obs, first, key, *, explore=True):
        return (jnp.sum(obs[:, -1].astype(jnp.int32), axis=(1, 2)) % 4).astype(jnp.int32), carry, {}

    agent = Agent(lambda key, rollout: (), lambda num: (), act, lambda state, rollout, key: (state, {}))
    found = []
    for ends in (False, True):
        made = envs.make("atari/Breakout", 2, terminal_on_life_loss=ends, max_frames=2400, num_threads=1)
        found.append(host_evaluator(agent, made, 2)((), 0))
        made.close()
    assert found[0].returns == found[1].returns
    assert found[0].lengths == found[1].lengths
    assert min(found[0].lengths) > 100


def test_rewards_to_learn_from_are_clipped_and_returns_are_not():
    raw, clipped = (envs.make("atari/SpaceInvaders", 2, clip_rewards=c, num_threads=1) for c in (False, True))
    (_, a), (_, b) = play(raw, 150), play(clipped, 150)
    points, learned = np.stack([s.reward for s in a]), np.stack([s.reward for s in b])
    assert points.max() >= 5  # a row of invaders pays 5 to 30
    np.testing.assert_array_equal(np.clip(points, -1, 1), learned)
    np.testing.assert_array_equal(a[-1].info["episode_return"], b[-1].info["episode_return"])
    raw.close()
    clipped.close()


def test_the_stack_moves_and_frames_are_the_callers():
    made = envs.make("atari/Pong", 2, num_threads=1)
    first, seen = play(made, 30)
    kept = [x.obs.copy() for x in seen]
    for before, after in zip([first, *[s.obs for s in seen]], [s.obs for s in seen], strict=False):
        np.testing.assert_array_equal(before[:, 1:], after[:, :-1])  # the newest is last
    again, repeated = play(made, 30)  # the same environments, the same seed
    np.testing.assert_array_equal(first, again)
    for x, y, z in zip(kept, seen, repeated, strict=True):
        np.testing.assert_array_equal(x, y.obs)
        np.testing.assert_array_equal(x, z.obs)
    made.close()


def test_sticky_actions_repeat_a_quarter():
    """Without them two games from one seed under one sequence of actions are one; with them the outcome differs."""
    outcomes = {}
    for sticky in (0.0, 0.25):
        made = envs.make("atari/Pong", 6, sticky=sticky, noop_max=0, num_threads=1)
        rng = np.random.default_rng(0)
        made.reset(0)
        for action in rng.integers(0, 6, 40):
            seen = made.step(np.full(6, action, np.int32))
        outcomes[sticky] = len(np.unique(seen.obs.reshape(6, -1), axis=0))
        made.close()
    assert outcomes[0.0] == 1
    assert outcomes[0.25] > 1


def test_the_clock_cuts_a_game():
    made = envs.make("atari/Pong,max_frames=40,frame_skip=4", 2, num_threads=1)
    assert made.spec.id == "atari/Pong,max_frames=40,frame_skip=4"
    _, seen = play(made, 25)
    assert [s.truncated.tolist() for s in seen] == [[t % 10 == 9] * 2 for t in range(25)]
    assert not any(s.terminated.any() for s in seen)
    made.close()


def test_the_camera_films_the_same_game():
    made = envs.make("atari/Breakout", 2, render_mode="rgb_array", fire_reset=True, num_threads=1)
    with pytest.raises(UsageError, match="after reset"):
        made.render()
    rng = np.random.default_rng(0)
    made.reset(3)
    for _ in range(250):  # past the end of a game
        seen = made.step(rng.integers(0, 4, 2).astype(np.int32))
        picture = made.render()
    assert picture.shape == (210, 160, 3)
    grey = picture.astype(np.float64) @ [0.299, 0.587, 0.114]
    newest = seen.obs[0, -1].astype(np.float64)
    rows, columns = (np.arange(84) * n // 84 for n in (210, 160))
    nearest = grey[np.ix_(rows, columns)]
    assert np.corrcoef(nearest.ravel(), newest.ravel())[0, 1] > 0.85
    assert abs(grey.mean() - newest.mean()) < 1.0
    made.close()
    with pytest.raises(UsageError, match="closed"):
        made.reset(0)


def test_names_and_their_arguments():
    assert split_name("atari/Pong,sticky=0.5,fire_reset=true,x=abc") == (
        "atari/Pong",
        {"sticky": 0.5, "fire_reset": True, "x": "abc"},
    )
    with pytest.raises(UsageError, match="no Atari game Brekout. Did you mean Breakout"):
        envs.make("atari/Brekout", 1)
    with pytest.raises(UsageError, match="does not take colour"):
        envs.make("atari/Pong,colour=red", 1)
    with pytest.raises(UsageError, match="sticky = 'yes'"):
        envs.make("atari/Pong,sticky=yes", 1)
    with pytest.raises(UsageError, match="follow a name as ,key=value"):
        envs.make("atari/Pong,sticky", 1)
    with pytest.raises(UsageError, match="Pendulum-v1,g=9,action_delay=1,g=8 says g twice"):
        envs.make("Pendulum-v1,g=9,action_delay=1,g=8", 1)
    with pytest.raises(UsageError, match="num_threads=2"):
        envs.make("atari/Pong", 2, workers=2)
    with pytest.raises(UsageError, match="reset"):
        envs.make("atari/Pong", 1).step(np.zeros(1, np.int32))
    assert envs.make("gymnasium/CartPole-v1,max_episode_steps=7", 1).spec.max_episode_steps == 7


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[atari\]'"):
        atari.make("Pong", 1)


def test_envpool_plays_by_the_same_protocol():
    pytest.importorskip("envpool")
    made = envs.make("envpool/Pong-v5,sticky=0", 1)
    assert made.spec.max_episode_steps == 27_000
    assert made._kwargs["repeat_action_probability"] == 0
    assert made._kwargs["use_fire_reset"] is False
    assert envs.make("envpool/Pong-v5", 1)._kwargs["repeat_action_probability"] == 0.25
    with pytest.raises(UsageError, match="episodic_life is terminal_on_life_loss here"):
        envs.make("envpool/Pong-v5,episodic_life=true", 1)
