"""One of our own environments as a Gymnasium environment, so that it can be played and filmed as those are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import numpy as np

from steersman import envs, spaces
from steersman.envs.families import FAMILIES
from steersman.envs.transfer.around import Surrounded
from steersman.envs.transfer.physics import Randomized
from steersman.run.show.drawings import DRAWINGS
from steersman.run.show.frames import picture_of
from steersman.types import DeviceEnvs, EnvSpec, HostEnvs, PyTree

ATARI_FPS = 15.0  # 60 frames a second, 4 of them a step
GRID_FPS = 10.0


def stage(name: str) -> gymnasium.Env | None:
    """The environment of that name, to film; None where it has neither a renderer nor observations to draw."""
    if FAMILIES[name.partition("/")[0]].kind == "host":
        return host_stage(name)
    made = envs.make(name, 1)
    assert isinstance(made, DeviceEnvs)
    draw = DRAWINGS.get(name.partition(",")[0])
    seen = len(made.spec.observation_space.shape or ()) in (2, 3)
    return DeviceStage(made, draw) if seen or draw is not None else None


def host_stage(name: str) -> HostStage:
    """A host environment of that name, to film."""
    made = envs.make(name, 1, render_mode="rgb_array")
    assert isinstance(made, HostEnvs)
    return HostStage(made)


class HostStage(gymnasium.Env):
    """The one member of ``HostEnvs``, in its own units, drawn by itself. Rewards are counted in the game's own."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": ATARI_FPS}  # noqa: RUF012

    def __init__(self, made: HostEnvs):
        self._made, self._counted = made, 0.0
        self.observation_space, self.action_space = made.spec.observation_space, made.spec.native_action_space
        self.render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[PyTree, dict[str, Any]]:
        self._counted = 0.0
        return _first(self._made.reset(0 if seed is None else seed)), {}

    def step(self, action: Any) -> tuple[PyTree, float, bool, bool, dict[str, Any]]:
        seen = _first(self._made.step(_canonical(self._made.spec, action)))
        reward = float(seen.info["episode_return"]) - self._counted
        self._counted += reward
        return seen.final_obs, reward, bool(seen.over), False, {}

    def render(self) -> np.ndarray:
        return self._made.render()

    def close(self) -> None:
        self._made.close()


class DeviceStage(gymnasium.Env):
    """The one member of compiled environments; the picture is the observation, an image or a grid, or drawn.

    draw: of the state, which at an episode's end is the next one's already: the last picture is that before.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": GRID_FPS}  # noqa: RUF012

    def __init__(self, made: DeviceEnvs, draw: Callable[[Any, np.ndarray], np.ndarray] | None = None):
        self._spec, self._reset, self._step = made.spec, jax.jit(made.reset), jax.jit(made.step)
        self._draw = draw
        self.observation_space, self.action_space = made.spec.observation_space, made.spec.native_action_space
        self.render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[PyTree, dict[str, Any]]:
        self._state, obs = self._reset(jax.random.key(0 if seed is None else seed))
        self._seen = np.asarray(obs[0])
        self._shown = self._state, self._seen
        return self._seen, {}

    def step(self, action: Any) -> tuple[PyTree, float, bool, bool, dict[str, Any]]:
        self._state, seen = self._step(self._state, _canonical(self._spec, action))
        seen = _first(seen)
        self._seen = seen.final_obs
        self._shown = self._shown if seen.over else (self._state, self._seen)
        return self._seen, float(seen.reward), bool(seen.terminated), bool(seen.truncated), {}

    def render(self) -> np.ndarray:
        if self._draw is None:
            return picture_of(self._seen)
        state, obs = self._shown
        inside = state.env
        while isinstance(inside, Surrounded | Randomized):
            inside = inside.env
        return self._draw(_first(inside), obs)


def _canonical(spec: EnvSpec, action: Any) -> PyTree:
    return jax.tree.map(lambda x: np.asarray(x)[None], spaces.from_native(spec.native_action_space, action))


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[0], tree)
