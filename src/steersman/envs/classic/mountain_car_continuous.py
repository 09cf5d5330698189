"""MountainCarContinuous-v0, compiled: rock a car out of a valley, and pay for the force used.

A twin of Gymnasium's MountainCarContinuous-v0 in float32. (There the force in the reward is the one asked for, here as
everywhere an action is clipped to its bounds at the door; within the bounds they are the same.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.classic.common import outcome
from steersman.spaces import native_map
from steersman.types import EnvSpec, Key, TimeStep

LEFT, RIGHT = -1.2, 0.6
GOAL = 0.45
MAX_SPEED = 0.07
GRAVITY = 0.0025

_BOX = spaces.Box(np.array([LEFT, -MAX_SPEED], np.float32), np.array([RIGHT, MAX_SPEED], np.float32))
_FORCE = spaces.Box(-1.0, 1.0, (1,))
SPEC = EnvSpec("MountainCarContinuous-v0", _BOX, _FORCE, _FORCE)
_native = native_map(_FORCE)


class State(NamedTuple):
    position: jax.Array
    velocity: jax.Array


@dataclass(frozen=True)
class MountainCarContinuous:
    """Reward 100 for reaching the goal, less 0.1 force^2 at every step."""

    goal_velocity: float = 0.0
    power: float = 0.0015

    @property
    def spec(self) -> EnvSpec:
        return SPEC

    def reset(self, key: Key) -> tuple[State, jax.Array]:
        state = State(jax.random.uniform(key, (), jnp.float32, -0.6, -0.4), jnp.zeros((), jnp.float32))
        return state, jnp.stack(state)

    def step(self, state: State, action: jax.Array, key: Key) -> tuple[State, TimeStep]:
        force = _native(action)[0]
        velocity = state.velocity + force * self.power - GRAVITY * jnp.cos(3 * state.position)
        velocity = jnp.clip(velocity, -MAX_SPEED, MAX_SPEED)
        position = jnp.clip(state.position + velocity, LEFT, RIGHT)
        velocity = jnp.where((position <= LEFT) & (velocity < 0), jnp.zeros_like(velocity), velocity)
        reached = (position >= GOAL) & (velocity >= self.goal_velocity)
        reward = jnp.where(reached, jnp.float32(100), jnp.float32(0)) - 0.1 * force**2
        state = State(position, velocity)
        return state, outcome(jnp.stack(state), reward, reached)


def to_gymnasium_attributes(task: MountainCarContinuous) -> dict[str, float]:
    """What the original calls the parameters."""
    return {"power": task.power}


def to_gymnasium_state(state: State) -> np.ndarray:
    """``env.unwrapped.state`` of the original in the same situation."""
    return np.array(state, np.float64)
