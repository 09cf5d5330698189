"""Atari 2600 games of the Arcade Learning Environment, stepped by threads of C++, as ``HostEnvs``: ``atari/Breakout``.

Extra: ``atari``; the games come with ale-py. The protocol (Machado et al. 2018,
arXiv:1709.06009, section 5; Mnih et al. 2015 for the preprocessing), and its options:

- An action lasts 4 frames; with probability 0.25 a frame repeats the last action instead ("sticky", as ``ALE/...-v5``).
- The observation: each pixel's maximum over the last two frames, grey, 84 x 84; the last four, uint8 ``[4, 84, 84]``.
- An episode is a whole game, opened by up to 30 frames without action, and truncated after 108,000 frames (half an
  hour of play). Losing a life is not an end, unless ``terminal_on_life_loss``: then it is one to learn from (discount
  0), while the game goes on and returns and lengths are counted over whole games.
- Rewards to learn from are clipped to [-1, 1] (``clip_rewards``); returns are counted in the game's own points.
- The actions are the ones the game uses (not all 18, unless ``full_action_set``). No action starts a game by itself,
  unless ``fire_reset``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from steersman.envs.host.contract import leaves_of
from steersman.envs.host.timesteps import Bookkeeper, action_guard, member_seeds
from steersman.errors import UsageError, nearest, to_install
from steersman.spaces import canonical_action_space, inside_space, native_map
from steersman.types import EnvSpec, HostEnvs, PyTree, TimeStep


@dataclass(frozen=True)
class Protocol:
    """How a game is played; the same for ale-py and EnvPool."""

    sticky: float = 0.25
    """Probability that a frame repeats the last action."""
    frame_skip: int = 4
    """Frames an action lasts."""
    frame_stack: int = 4
    """Pictures in one observation."""
    screen_size: int = 84
    """Height and width of a picture."""
    noop_max: int = 30
    """Most frames without action that open a game."""
    max_frames: int = 108_000
    """Frames after which a game is cut."""
    full_action_set: bool = False
    """All 18 actions instead of the ones that the game uses."""
    fire_reset: bool = False
    """Press fire to start a game, where it needs that."""
    clip_rewards: bool = True
    """Learn from rewards clipped to [-1, 1]; returns stay in the game's points."""
    terminal_on_life_loss: bool = False
    """Learn as if the loss of a life ended the episode; the game, and what is counted, goes on."""

    @property
    def max_steps(self) -> int:
        """The most steps of an episode."""
        return self.max_frames // self.frame_skip


def protocol_of(name: str, kwargs: dict[str, Any]) -> tuple[Protocol, dict[str, Any]]:
    """The protocol that some keyword arguments describe, and the arguments that are none of its."""
    known = {f.name: f for f in fields(Protocol)}
    given = {k: v for k, v in kwargs.items() if k in known}
    for key, value in given.items():
        default = known[key].default
        whole = isinstance(default, int) and not isinstance(default, bool)
        fits = isinstance(value, int if whole else (int, float) if isinstance(default, float) else type(default))
        if not fits or (isinstance(value, bool) and not isinstance(default, bool)) or value < 0:
            raise UsageError(f"{name}: {key} = {value!r}; it is to be like its default, {default!r}.")
    return Protocol(**given), {k: v for k, v in kwargs.items() if k not in known}


class Lives:
    """What a step means to the learner and to the count, from the lives that are left: shared by all Atari engines."""

    def __init__(self, protocol: Protocol):
        self._protocol, self._lives = protocol, np.zeros(0, np.int32)

    def reset(self, lives: np.ndarray) -> None:
        self._lives = lives.copy()

    def step(
        self, lives: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> dict[str, Any]:
        """lives: after the step, and after the reset where there was one. -> what ``Bookkeeper.step`` is to be told."""
        over = terminated | truncated
        lost = (lives < self._lives) & ~over
        self._lives = lives.copy()
        points = reward.astype(np.float64)
        learned = np.clip(points, -1.0, 1.0) if self._protocol.clip_rewards else points
        if not self._protocol.terminal_on_life_loss:
            return {"reward": learned, "terminated": terminated, "native_reward": points}
        return {"reward": learned, "terminated": terminated | lost, "native_reward": points, "over": over}


def make(
    name: str,
    num_envs: int,
    *,
    workers: int = 0,
    log_info: Sequence[str] = (),
    costs: Sequence[str] = (),
    **kwargs: Any,
) -> HostEnvs:
    """``num_envs`` copies of a game, by its name: ``Breakout`` or ``atari/Breakout``.

    kwargs: the fields of ``Protocol``; ``num_threads`` (0: one for each core); ``render_mode="rgb_array"``.

    Raises UsageError where ale-py is not installed, for unknown games (with the nearest) and arguments, and for
    ``workers``, which C++ threads make needless, ``log_info`` and ``costs``.
    """
    try:
        from ale_py import roms, vector_env
    except ImportError as error:
        raise UsageError(f"ale-py is not installed. Install it with: {to_install('atari')}") from error
    if workers:
        raise UsageError(
            f"workers={workers}: Atari games have threads of their own. Use num_threads={workers} instead."
        )
    if log_info:
        raise UsageError(
            f"log_info = {', '.join(log_info)}: of a game that is over ale-py gives the last picture and no info. "
            "Leave log_info out."
        )
    if costs:
        raise UsageError(
            f"costs = {', '.join(costs)}: a game of Atari shows pictures and no numbers that could be compared. Leave "
            "costs out."
        )
    title = name.removeprefix("atari/")
    games = {rom.title().replace("_", ""): rom for rom in roms.get_all_rom_ids()}
    if title not in games:
        raise UsageError(f"There is no Atari game {title}. {nearest(title, games)}".rstrip())
    protocol, rest = protocol_of(f"atari/{title}", kwargs)
    num_threads, render_mode = rest.pop("num_threads", 0), rest.pop("render_mode", None)
    if rest or render_mode not in (None, "rgb_array"):
        given = ", ".join(rest) or f"render_mode={render_mode!r}"
        takes = ", ".join(f.name for f in fields(Protocol))
        raise UsageError(
            f"atari/{title} does not take {given}. It takes {takes}, num_threads, render_mode='rgb_array'."
        )
    return AtariEnvs(vector_env.AtariVectorEnv, title, games[title], num_envs, protocol, num_threads, render_mode)


class AtariEnvs(HostEnvs):
    """ale-py's vector environment, reset in the step that ends a game. Arrays it gives are fresh at every step."""

    def __init__(
        self,
        engine: Any,
        title: str,
        rom: str,
        num_envs: int,
        protocol: Protocol,
        num_threads: int,
        render_mode: str | None,
    ):
        from gymnasium.vector import AutoresetMode

        p, size = protocol, protocol.screen_size
        shared = {
            "frameskip": p.frame_skip,
            "repeat_action_probability": p.sticky,
            "noop_max": p.noop_max,
            "max_num_frames_per_episode": p.max_frames,
            "full_action_space": p.full_action_set,
            "use_fire_reset": p.fire_reset,
            "reward_clipping": False,
            "autoreset_mode": AutoresetMode.SAME_STEP,
        }
        picture = {"img_height": size, "img_width": size, "stack_num": p.frame_stack}
        self._envs = engine(rom, num_envs, num_threads=num_threads, **shared, **picture)
        # The camera is the first member once more, in colour: with its seed and its actions it plays the same game.
        colour = {"img_height": 210, "img_width": 160, "stack_num": 1, "grayscale": False}
        self._camera = engine(rom, 1, num_threads=1, **shared, **colour) if render_mode else None
        self._picture: np.ndarray | None = None
        self.num_envs = num_envs
        native = self._envs.single_observation_space
        actions = self._envs.single_action_space
        inside = inside_space(native)
        self.spec = EnvSpec(f"atari/{title}", inside, canonical_action_space(actions), actions, p.max_steps)
        self._native, self._book = native_map(actions), Bookkeeper(self.spec, num_envs, leaves_of(native, inside))
        self._guard, self._lives, self._ready = action_guard(self.spec, num_envs), Lives(p), False

    def reset(self, seed: int) -> PyTree:
        if self._envs is None:
            raise UsageError(f"These environments ({self.spec.id}) are closed. Make new ones.")
        seeds = np.asarray(member_seeds(seed, self.num_envs))
        obs, info = self._envs.reset(seed=seeds)
        if self._camera is not None:
            self._picture = self._camera.reset(seed=seeds[:1])[0][0, -1]
        self._lives.reset(info["lives"])
        self._ready = True
        return self._book.reset([obs])

    def step(self, action: PyTree) -> TimeStep:
        if not self._ready or self._envs is None:
            raise UsageError("Call reset(seed) before the first step.")
        self._guard(action)
        native = np.asarray(self._native(action), np.int32)
        obs, reward, terminated, truncated, info = self._envs.step(native)
        if self._camera is not None:
            self._picture = self._camera.step(native[:1])[0][0, -1]
        over, final = terminated | truncated, None
        if over.any():
            final = [obs.copy()]
            final[0][over] = info["final_obs"][over]
        told = self._lives.step(info["lives"], reward, terminated, truncated)
        return self._book.step([obs], truncated=truncated, final=final, action=action, **told)

    def render(self) -> np.ndarray:
        """The screen of member 0 in colour, uint8 ``[210, 160, 3]``; UsageError without ``render_mode="rgb_array"``."""
        if self._picture is None:
            raise UsageError(f"{self.spec.id} can be drawn after reset(seed), made with render_mode='rgb_array'.")
        return self._picture

    def close(self) -> None:
        self._envs = self._camera = None  # their threads end with them
        self._ready = False
