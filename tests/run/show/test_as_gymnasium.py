"""Our own environments on the stage: played as Gymnasium's are, and drawn."""

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.envs.wrappers import PureEnv
from steersman.errors import UsageError
from steersman.run.show import drawings, frames, video
from steersman.run.show.as_gymnasium import DeviceStage, HostStage, stage
from steersman.types import EnvSpec, TimeStep


def flipper():
    """A plane of four pixels whose bright one is the last action; three steps of reward 1."""
    picture = lambda a: jnp.zeros((2, 2, 1)).at[a // 2, a % 2, 0].set(1.0)

    def reset(key):
        return (jnp.int32(0), jnp.int32(0)), picture(jnp.int32(0))

    def step(state, action, key):
        count = state[0] + np.int32(1)
        obs = picture(action)
        none = jnp.zeros((0,), jnp.float32)
        return (count, action), TimeStep(obs, jnp.float32(1), count == 3, jnp.zeros((), bool), obs, none, {})

    native = spaces.Discrete(4, start=10)
    return PureEnv(EnvSpec("flipper", spaces.Box(0, 1, (2, 2, 1)), spaces.Discrete(4), native, 3), reset, step)


def test_a_compiled_game_is_drawn_from_what_is_seen(tmp_path):
    env = DeviceStage(envs.make(flipper(), 1))
    ended = []
    policy = lambda obs: np.int64(10 + (int(obs.ravel().argmax()) + 1) % 4)  # in native units
    shown = list(video.host_frames(env, policy, episodes=2, end=lambda *what: ended.append(what)))
    assert ended == [(3.0, 3)] * 2
    assert len(shown) == 8
    where = [tuple(np.argwhere((x[::160, ::160] != frames._BACKGROUND).any(-1))[0]) for x in shown]
    assert where == [(0, 0), (0, 1), (1, 0), (1, 1)] * 2
    video.write_video(shown, tmp_path / "a.mp4", video.render_fps(env))


def test_a_host_environment_counts_in_its_own_points():
    pytest.importorskip("ale_py")
    env = stage("atari/SpaceInvaders,fire_reset=true,terminal_on_life_loss=true")
    assert isinstance(env, HostStage)
    rng, ended = np.random.default_rng(0), []
    moments = list(
        video.play(env, lambda obs: rng.integers(0, 6), steps=900, end=lambda *what: ended.append(what), episodes=1)
    )
    assert moments[-1].total == ended[0][0] > 10  # a shot pays 5 to 30, though 1 is learned from
    assert ended[0][1] > 100
    assert env.render().shape == (210, 160, 3)
    env.close()


def test_pictures():
    stack = np.arange(4 * 40 * 50, dtype=np.uint16).reshape(4, 40, 50).astype(np.uint8)
    picture = frames.picture_of(stack)  # channels first: the newest, grey, eight times as large
    assert picture.shape == (320, 400, 3)
    np.testing.assert_array_equal(picture[::8, ::8, 0], stack[-1])
    colour = np.random.default_rng(0).integers(0, 255, (330, 340, 3), np.uint8)
    np.testing.assert_array_equal(frames.picture_of(colour), colour)
    planes = np.zeros((4, 4, 3), np.float32)
    planes[0, 0] = [1, 0, 1]
    picture = frames.picture_of(planes)[::80, ::80]
    np.testing.assert_array_equal(picture[0, 0], frames._PALETTE[2])  # the last plane on top
    np.testing.assert_array_equal(picture[1, 1], frames._BACKGROUND)


def test_what_has_no_picture():
    assert stage("probe/action") is None
    with pytest.raises(UsageError, match="not one of Gymnasium's"):
        video.renderable("probe/action")


@pytest.mark.parametrize("name", ["safe/gridworld", "safe/point-goal,hazards=1"])
def test_tasks_with_costs_are_drawn(name):
    env = video.renderable(name)
    ends, drawn = lambda obs: np.full(env.action_space.shape, 1, env.action_space.dtype), []
    for picture in video.host_frames(env, ends, steps=3):
        drawn.append({tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()})
    assert len(drawn) == 4
    assert drawn[0] == {drawings.PAPER, drawings.INK, drawings.DANGER, drawings.AIM}


def test_twins_with_costs_are_drawn_as_their_originals():
    assert video.renderable("safe/pendulum,limit=3").spec.id == "Pendulum-v1"


def test_minatar_is_drawn():
    pytest.importorskip("gymnax")
    env = video.renderable("gymnax/Breakout-MinAtar")
    shown = list(video.host_frames(env, lambda obs: 0, steps=5))
    assert shown[0].shape == (320, 320, 3)
