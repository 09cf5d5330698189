"""MountainCar-v0, compiled: rock a car with a weak engine out of a valley.

A twin of Gymnasium's MountainCar-v0 in float32 (Moore, "Efficient Memory-based Learning for Robot Control", 1990).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.classic.common import outcome
from steersman.types import EnvSpec, Key, TimeStep

LEFT, RIGHT = -1.2, 0.6  # the walls; only the left one is ever met
GOAL = 0.5
MAX_SPEED = 0.07

_BOX = spaces.Box(np.array([LEFT, -MAX_SPEED], np.float32), np.array([RIGHT, MAX_SPEED], np.float32))
SPEC = EnvSpec("MountainCar-v0", _BOX, spaces.Discrete(3), spaces.Discrete(3))


class State(NamedTuple):
    position: jax.Array
    velocity: jax.Array


@dataclass(frozen=True)
class MountainCar:
    """Actions 0, 1, 2: push left, not at all, right. Reward -1 for every step."""

    goal_velocity: float = 0.0
    force: float = 0.001
    gravity: float = 0.0025

    @property
    def spec(self) -> EnvSpec:
        return SPEC

    def reset(self, key: Key) -> tuple[State, jax.Array]:
        state = State(jax.random.uniform(key, (), jnp.float32, -0.6, -0.4), jnp.zeros((), jnp.float32))
        return state, jnp.stack(state)

    def step(self, state: State, action: jax.Array, key: Key) -> tuple[State, TimeStep]:
        push = (action.astype(jnp.float32) - 1) * self.force
        velocity = jnp.clip(state.velocity + push - self.gravity * jnp.cos(3 * state.position), -MAX_SPEED, MAX_SPEED)
        position = jnp.clip(state.position + velocity, LEFT, RIGHT)
        velocity = jnp.where((position <= LEFT) & (velocity < 0), jnp.zeros_like(velocity), velocity)
        reached = (position >= GOAL) & (velocity >= self.goal_velocity)
        state = State(position, velocity)
        return state, outcome(jnp.stack(state), -jnp.ones_like(position), reached)


def to_gymnasium_attributes(task: MountainCar) -> dict[str, float]:
    """What the original calls the parameters."""
    return {"force": task.force, "gravity": task.gravity}


def to_gymnasium_state(state: State) -> np.ndarray:
    """``env.unwrapped.state`` of the original in the same situation."""
    return np.array(state, np.float64)
