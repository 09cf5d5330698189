"""Films: that they hold what was shown, and what is said when they cannot be made."""

import os
import subprocess
import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image, ImageSequence

from steersman.errors import EnvironmentFault, UsageError
from steersman.run.show import frames, video


class Painter(gymnasium.Env):
    """Shows its step count as brightness; an episode takes ``length`` steps of reward 2."""

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 20}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (1,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, render_mode=None, length=5, shape=(30, 41)):
        self.render_mode, self.length, self.shape, self.seeds, self.actions = render_mode, length, shape, [], []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.t = 0
        return self._obs(), {"action_mask": np.array([0, 1, 0], np.int8)}

    def step(self, action):
        assert type(action) in (int, np.int64)
        self.actions.append(int(action))
        self.t += 1
        return self._obs(), 2.0, self.t >= self.length, False, {"action_mask": np.array([0, 1, 0], np.int8)}

    def render(self):
        return np.full((*self.shape, 3), 40 * self.t, np.uint8)

    def _obs(self):
        return np.array([self.t], np.float32)


def constant(obs):
    return np.array(1)


@pytest.fixture
def env():
    return Painter("rgb_array")


def brightness(pictures):
    return [int(p[5, 5, 0]) for p in pictures]


def read(path, width, height):
    """What ffmpeg says of a film, and its frames."""
    command = [get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    about = done.stderr.decode()
    assert f"{width}x{height}" in about
    return about, list(np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3))


def test_frames_follow_the_episodes(env):
    ended = []
    shown = list(video.host_frames(env, constant, episodes=2, seed=7, end=lambda *what: ended.append(what)))
    assert brightness(shown) == [0, 40, 80, 120, 160, 200] * 2
    assert env.seeds == [7, 8]
    assert ended == [(10.0, 5), (10.0, 5)]


def test_steps_cut_the_last_episode(env):
    ended, began = [], []
    shown = video.host_frames(
        env, constant, episodes=9, steps=7, begin=lambda: began.append(1), end=lambda *what: ended.append(what)
    )
    assert brightness(shown) == [0, 40, 80, 120, 160, 200, 0, 40, 80]
    assert ended == [(10.0, 5), (4.0, 2)]
    assert len(began) == 2


def test_the_mask_of_the_info_reaches_the_policy(env):
    policy = lambda obs: np.argmax(obs["action_mask"]) + int(obs["observation"][0]) * 0
    list(video.host_frames(env, policy, mask=True))
    assert env.actions == [1] * 5


def test_a_caption_is_added_below(env):
    env.shape = (40, 300)
    plain = next(video.host_frames(env, constant))
    titled = next(video.host_frames(env, constant, caption="Painter"))
    assert titled.shape[0] > plain.shape[0]
    np.testing.assert_array_equal(titled[: plain.shape[0]], plain)
    assert (titled[plain.shape[0] :] < 100).any()  # ink


def test_an_mp4_plays_everywhere_and_shows_what_was_shown(env, tmp_path):
    path = video.write_video(video.host_frames(env, constant), tmp_path / "x.mp4", 20)
    about, pictures = read(path, 42, 30)  # 41 padded to an even width
    assert "Video: h264" in about
    assert "yuv420p" in about
    assert "42x30" in about
    assert " 20 fps" in about
    np.testing.assert_allclose(brightness(pictures), [0, 40, 80, 120, 160, 200], atol=6)
    np.testing.assert_allclose(pictures[3][:, -1], 120, atol=6)
    assert os.listdir(tmp_path) == ["x.mp4"]


@pytest.mark.parametrize(("fps", "milliseconds"), [(20, 50), (10, 100), (60, 20), (1000, 20)])
def test_a_gif_moves_at_its_rate_and_loops(env, tmp_path, fps, milliseconds):
    path = video.write_video(video.host_frames(env, constant), tmp_path / "x.gif", fps)
    with Image.open(path) as film:
        assert film.info["loop"] == 0
        shown = [(f.info["duration"], f.convert("RGB").getpixel((5, 5))[0]) for f in ImageSequence.Iterator(film)]
    assert shown == [(milliseconds, b) for b in (0, 40, 80, 120, 160, 200)]


def test_one_frame_grey_and_alpha_will_do(tmp_path):
    grey, alpha = np.full((8, 8), 9, np.uint8), np.full((8, 8, 4), 9, np.uint8)
    for suffix in frames.SUFFIXES:
        assert video.write_video([grey, alpha], tmp_path / f"x{suffix}").stat().st_size > 30
        assert video.write_video(iter([grey]), tmp_path / f"y{suffix.upper()}").stat().st_size > 30
    assert len(read(tmp_path / "x.mp4", 8, 8)[1]) == 2


def test_odd_sizes_and_non_contiguous_frames(tmp_path):
    wide = np.random.default_rng(0).integers(0, 255, (21, 33, 3), np.uint8)
    video.write_video([wide[::-1, ::-1], np.flip(wide)], tmp_path / "x.mp4")
    assert len(read(tmp_path / "x.mp4", 34, 22)[1]) == 2


@pytest.mark.parametrize("suffix", frames.SUFFIXES)
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "no frame"),
        ([np.zeros((4, 4, 3))], r"float64 \[4, 4, 3\]; it has to be uint8"),
        ([np.zeros((4, 4, 2), np.uint8)], "has to be uint8"),
        ([np.zeros((0, 4, 3), np.uint8)], "has to be uint8"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], "one size"),
    ],
)
def test_frames_that_are_not_pictures(tmp_path, suffix, given, says):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"before")
    with pytest.raises(UsageError, match=says):
        video.write_video(given, path)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == [path.name]


def test_the_folder_of_a_film_is_made_or_refused(tmp_path):
    frame = np.zeros((8, 8, 3), np.uint8)
    assert video.write_video([frame], tmp_path / "films" / "new" / "x.gif").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="The folder of .*x.gif cannot be made: (Not a directory|File exists)"):
        video.write_video([frame], tmp_path / "file" / "x.gif")


def test_other_suffixes_and_rates(tmp_path, env):
    with pytest.raises(UsageError, match=r"suffix '.avi'; a film is one of .mp4, .gif"):
        video.write_video([], tmp_path / "x.avi")
    with pytest.raises(UsageError, match="suffix ''"):
        video.record(env, None, tmp_path / "x")  # before anything is played
    assert env.seeds == []
    for fps in (0, -1, float("nan"), 1e9):
        with pytest.raises(UsageError, match="frames per second"):
            video.write_video([np.zeros((4, 4, 3), np.uint8)], tmp_path / "x.mp4", fps)


@pytest.mark.parametrize("suffix", frames.SUFFIXES)
def test_an_error_while_filming_leaves_nothing(tmp_path, suffix, env):
    def tired(obs):
        if obs[0] > 2:
            raise RuntimeError("tired")
        return 0

    with pytest.raises(RuntimeError, match="tired"):
        video.write_video(video.host_frames(env, tired), tmp_path / f"x{suffix}")
    assert os.listdir(tmp_path) == []


def test_a_full_disk(tmp_path, monkeypatch):
    """ffmpeg cannot write: it says so, and so do we."""
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UsageError, match="ffmpeg could not write"):
        video.write_video([picture], tmp_path / f"{'x' * 300}.mp4")
    with pytest.raises(UsageError, match="File name too long"):
        video.write_video([picture], tmp_path / f"{'x' * 300}.gif")
    real = subprocess.Popen

    def full(command, **how):
        return real([sys.executable, "-c", "import sys; sys.exit('x.mp4: No space left on device')"], **how)

    monkeypatch.setattr(frames.subprocess, "Popen", full)
    with pytest.raises(UsageError, match="disk is full"):
        video.write_video([np.zeros((500, 500, 3), np.uint8)] * 20, tmp_path / "x.mp4")
    assert os.listdir(tmp_path) == []


class Trained:
    """What ``record`` needs of a policy."""

    spec = SimpleNamespace(observation_space=Painter.observation_space)

    def __init__(self):
        self.resets = 0

    def reset(self):
        self.resets += 1

    def __call__(self, obs):
        return np.int64(1)


def test_record_films_an_object_a_factory_and_a_name(tmp_path, env, monkeypatch):
    policy = Trained()
    assert video.record(env, policy, tmp_path / "a.mp4", episodes=2, steps=8, seed=3) == [10.0, 6.0]
    assert policy.resets == 2
    assert env.seeds == [3, 4]
    assert video.record(Painter, policy, tmp_path / "b.gif") == [10.0]
    assert video.record(lambda: Painter("rgb_array"), policy, tmp_path / "b.gif") == [10.0]
    monkeypatch.setitem(sys.modules, "painters", SimpleNamespace(Painter=Painter))
    assert video.record("painters:Painter", policy, tmp_path / "c.mp4") == [10.0]
    assert " 20 fps" in read(tmp_path / "c.mp4", 42, 30)[0]


def test_compiled_twins_are_filmed_through_the_originals(tmp_path):
    pytest.importorskip("pygame")
    for name in ("CartPole-v1", "gymnasium/CartPole-v1"):
        returns = video.record(name, Trained(), tmp_path / "x.mp4", steps=30)
        assert len(returns) == 1
        shown = read(tmp_path / "x.mp4", 600, 400)[1]
        assert len(shown) == returns[0] + 1  # a reward of 1 a step, and the reset


def test_what_is_around_an_environment_is_around_its_film():
    pytest.importorskip("pygame")
    with video.renderable("Pendulum-v1,mass=2,gain=0.5") as env:
        assert env.unwrapped.m == 2
    with video.renderable("Pendulum-v1,action_delay=1,observation_history=2") as env:
        assert env.reset(seed=0)[0].shape == (10,)
        assert env.render().shape == (500, 500, 3)
    for name, says in {
        "PendulumNoVel-v1,action_delay=1": "without its settings for transfer",
        "Pendulum-v1,randomize=mass:0.5:2": "no simulator that randomize and push can change",
    }.items():
        with pytest.raises(UsageError, match=says):
            video.renderable(name)


def test_a_policy_with_a_mask_gets_it(tmp_path, env):
    space = spaces.Dict({"observation": Painter.observation_space, "action_mask": spaces.MultiBinary(3)})

    class Masked(Trained):
        spec = SimpleNamespace(observation_space=space)

        def __call__(self, obs):
            return int(np.argmax(obs["action_mask"]))

    video.record(env, Masked(), tmp_path / "x.gif")
    assert env.actions == [1] * 5


def test_what_cannot_be_filmed(tmp_path):
    for place, says in [
        (Painter(), r"render_mode=None; make it with render_mode='rgb_array'"),
        (Painter("human"), "render_mode='human'"),
        (
            lambda: Painter(),
            r"render_mode='rgb_array'\. Let the function that makes it take that.*make\(render_mode=None",
        ),
        (object(), "not a Gymnasium environment"),
        (lambda: 3, "not a Gymnasium environment"),
        ("gymnax/CartPole-v1", r"Film it in Gymnasium's: --environment CartPole-v1"),
        ("probe/action", "not one of Gymnasium's"),
        ("CartPole-v7", "Did you mean CartPole-v"),
        ("no_such_module_at_all:make", "Cannot import"),
    ]:
        with pytest.raises(UsageError, match=says):
            video.record(place, Trained(), tmp_path / "x.mp4")
    assert os.listdir(tmp_path) == []


def test_arguments_of_ones_own_environment_are_kept(tmp_path, monkeypatch):
    (tmp_path / "own_camera.py").write_text(
        "def make(size, render_mode=None):\n    raise ValueError((size, render_mode))"
    )
    with pytest.raises(EnvironmentFault, match="ValueError: .7, 'rgb_array'"):
        video.renderable(f"{tmp_path}/own_camera.py:make,size=7")
    sys.modules.pop("own_camera")


def test_no_picture(env, monkeypatch):
    monkeypatch.setattr(env, "render", lambda: None)
    with pytest.raises(UsageError, match="gave no picture"):
        next(video.host_frames(env, constant))


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("CartPole-v1", DependencyNotInstalled("no pygame."), r"pip install -e '\.\[classic\]'"),
        ("gymnasium/LunarLander-v3", DependencyNotInstalled("no Box2D."), r"pip install -e '\.\[box2d\]'"),
        ("HalfCheetah-v5", DependencyNotInstalled("no mujoco."), r"pip install -e '\.\[mujoco\]'"),
        ("HalfCheetah-v5", RuntimeError("OpenGL"), "MUJOCO_GL=egl"),
        ("CartPole-v1", gymnasium.error.Error("bad mode"), "cannot be filmed: bad mode"),
    ],
)
def test_a_missing_renderer_is_named(tmp_path, monkeypatch, name, error, says):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(gymnasium, "make", fail)
    with pytest.raises(UsageError, match=says):
        video.record(name, Trained(), tmp_path / "x.mp4")


def test_a_renderer_missed_only_when_it_draws(monkeypatch):
    made = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[classic\]'"):
        next(video.host_frames(made, constant))


def test_an_environments_own_error_passes(env, monkeypatch):
    def fail():
        raise ZeroDivisionError

    monkeypatch.setattr(env, "render", fail)
    with pytest.raises(ZeroDivisionError):
        next(video.host_frames(env, constant))
