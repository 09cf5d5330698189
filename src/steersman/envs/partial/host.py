"""Wrappers that hide, for Gymnasium's environments: what Gymnasium has none for. Imports no JAX: workers import it.

Put them into the function that makes the environment. Gymnasium itself has, in ``gymnasium.wrappers``,
``DelayObservation``, ``FilterObservation`` (leaves parts of a Dict out) and ``FrameStackObservation``.
``partial.hiding`` is the same for compiled environments.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from steersman.envs.partial import parts


class MaskObservation(gymnasium.ObservationWrapper):
    """``hiding.mask_observation`` on the host: entries of a vector observation are set to zero.

    >>> MaskObservation(gymnasium.make("CartPole-v1"), [1, 3]).reset(seed=0)[0].astype(bool).tolist()
    [True, False, True, False]
    """

    def __init__(self, env: gymnasium.Env, indices: parts.Indices):
        super().__init__(env)
        self._masks = parts.hidden(env.observation_space, indices)
        self.observation_space = parts.masked_space(env.observation_space, self._masks)

    def observation(self, observation: Any) -> Any:
        shown = parts.named(observation, self._masks)
        zeroed = {name: np.where(self._masks[name], 0, x).astype(x.dtype) for name, x in shown.items()}
        return parts.exchanged(observation, zeroed)


class FlickerObservation(gymnasium.ObservationWrapper):
    """``hiding.flicker`` on the host: each observation is lost with ``probability``, zeros are seen instead.

    Its random numbers are the environment's own, so that a seed decides them.
    """

    def __init__(self, env: gymnasium.Env, probability: float = 0.5):
        super().__init__(env)
        parts.check_probability(probability)
        self._parts, self._probability = parts.boxes(env.observation_space, "lost"), probability
        widened = {name: parts.with_zero(part) for name, part in self._parts.items()}
        self.observation_space = parts.exchanged(env.observation_space, widened)

    def observation(self, observation: Any) -> Any:
        if self.np_random.random() >= self._probability:
            return observation
        zeros = {name: np.zeros(part.shape, part.dtype) for name, part in self._parts.items()}
        return parts.exchanged(observation, zeros)


class ObservePrevious(gymnasium.Wrapper):
    """``hiding.observe_previous`` on the host: the previous action, as agents know it, and reward are observed too."""

    def __init__(self, env: gymnasium.Env, action: bool = True, reward: bool = True):
        super().__init__(env)
        self._canonical = _canonical_space(env.action_space)
        self.observation_space = outer = parts.with_previous(env.observation_space, self._canonical, action, reward)
        self._added = {name: outer[name].shape or () for name in outer.spaces if name in parts.PREVIOUS}
        self._whole = isinstance(env.observation_space, spaces.Dict)

    def _joined(self, obs: Any, previous: dict[str, np.ndarray]) -> dict[str, Any]:
        own = obs if self._whole else {"observation": obs}
        return {**own, **{name: previous[name] for name in self._added}}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._joined(obs, {name: np.zeros(shape, np.float32) for name, shape in self._added.items()}), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        previous = {"previous_reward": np.array([reward], np.float32), parts.FLAG: np.ones(1, np.float32)}
        if "previous_action" in self._added:
            own = _canonical(self.env.action_space, action)
            previous["previous_action"] = parts.encoded(self._canonical, own, np)
        return self._joined(obs, previous), reward, terminated, truncated, info


def _bounded(native: spaces.Box) -> np.ndarray:
    return np.isfinite(native.low) & np.isfinite(native.high) & (native.high > native.low)


def _canonical_space(native: spaces.Space) -> spaces.Space:
    """``steersman.spaces.canonical_action_space`` of a Box, without JAX. The others differ in their start alone."""
    if not isinstance(native, spaces.Box):
        return native
    low, high = (np.where(_bounded(native), end, x) for end, x in ((-1, native.low), (1, native.high)))
    return spaces.Box(low.astype(np.float32), high.astype(np.float32))


def _canonical(native: spaces.Space, action: Any) -> np.ndarray:
    """An action in the environment's units as agents know it: in [-1, 1], counts from 0."""
    action = np.asarray(action)
    match native:
        case spaces.Box():
            low, high = (np.where(_bounded(native), x, end) for end, x in ((-1, native.low), (1, native.high)))
            return 2 * (action.astype(np.float64) - low) / (high - low) - 1
        case spaces.Discrete() | spaces.MultiDiscrete():
            return action - native.start
    return action
