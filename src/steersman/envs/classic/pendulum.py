"""Pendulum-v1, compiled: swing up a pendulum and hold it, with a torque too weak to lift it at once.

A twin of Gymnasium's Pendulum-v1 in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.classic.common import outcome
from steersman.spaces import canonical_action_space, native_map
from steersman.types import EnvSpec, Key, TimeStep

MAX_SPEED = 8.0  # rad / s
MAX_TORQUE = 2.0  # N m
DT = 0.05  # s

_HIGH = np.array([1, 1, MAX_SPEED], np.float32)
_TORQUE = spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,))
SPEC = EnvSpec("Pendulum-v1", spaces.Box(-_HIGH, _HIGH), canonical_action_space(_TORQUE), _TORQUE)
_native = native_map(_TORQUE)


class State(NamedTuple):
    theta: jax.Array  # rad from upright, never wrapped
    theta_dot: jax.Array


@dataclass(frozen=True)
class Pendulum:
    """Reward -(angle^2 + 0.1 velocity^2 + 0.001 torque^2), of the state before the step. Never terminates.

    The torque is that which is asked for; ``gain`` times it acts.
    """

    g: float = 10.0
    mass: float = 1.0  # kg
    length: float = 1.0  # m
    gain: float = 1.0
    dt: float = DT  # s from one action to the next

    @property
    def spec(self) -> EnvSpec:
        return SPEC

    def reset(self, key: Key) -> tuple[State, jax.Array]:
        unit = jax.random.uniform(key, (2,), jnp.float32, -1, 1)
        state = State(np.pi * unit[0], unit[1])
        return state, _observe(state)

    def step(self, state: State, action: jax.Array, key: Key) -> tuple[State, TimeStep]:
        torque = _native(action)[0]
        theta, theta_dot = state
        angle = jnp.mod(theta + np.pi, 2 * np.pi) - np.pi
        reward = -(angle**2 + 0.1 * theta_dot**2 + 0.001 * torque**2)
        acceleration = 3 * self.g / (2 * self.length) * jnp.sin(theta)
        acceleration = acceleration + 3 * self.gain / (self.mass * self.length**2) * torque
        theta_dot = jnp.clip(theta_dot + acceleration * self.dt, -MAX_SPEED, MAX_SPEED)
        state = State(theta + theta_dot * self.dt, theta_dot)
        return state, outcome(_observe(state), reward, jnp.zeros((), bool))


def _observe(state: State) -> jax.Array:
    return jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta), state.theta_dot])


def to_gymnasium_attributes(task: Pendulum) -> dict[str, float]:
    """What the original calls the parameters; without ``gain``, which it has none of."""
    return {"g": task.g, "m": task.mass, "l": task.length, "dt": task.dt}


def to_gymnasium_state(state: State) -> np.ndarray:
    """``env.unwrapped.state`` of the original in the same situation."""
    return np.array(state, np.float64)
