"""Acrobot-v1, compiled: swing the tip of a two-link pendulum above a line, with a torque at the middle joint only.

A twin of Gymnasium's Acrobot-v1 in float32: the equations of motion of Sutton and Barto's book (2018, section 11.3 of
the first edition), one Runge-Kutta step of fourth order per action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.classic.common import outcome
from steersman.types import EnvSpec, Key, TimeStep

DT = 0.2  # s
GRAVITY = 9.8
INERTIA = 1.0  # kg m^2, of each link
MAX_VELOCITY_1, MAX_VELOCITY_2 = 4 * np.pi, 9 * np.pi  # rad / s

_HIGH = np.array([1, 1, 1, 1, MAX_VELOCITY_1, MAX_VELOCITY_2], np.float32)
SPEC = EnvSpec("Acrobot-v1", spaces.Box(-_HIGH, _HIGH), spaces.Discrete(3), spaces.Discrete(3))


class State(NamedTuple):
    theta_1: jax.Array  # rad, the upper link from hanging down
    theta_2: jax.Array  # rad, the lower link from the upper one's direction
    theta_dot_1: jax.Array
    theta_dot_2: jax.Array


@dataclass(frozen=True)
class Acrobot:
    """Actions 0, 1, 2: ``torque`` one way, none, the other. Reward -1 for every step, 0 where the goal is reached."""

    mass_1: float = 1.0  # kg, of the upper link
    mass_2: float = 1.0
    length: float = 1.0  # m, of the upper link
    center_1: float = 0.5  # m from the joint to the link's centre of mass
    center_2: float = 0.5
    torque: float = 1.0  # N m

    @property
    def spec(self) -> EnvSpec:
        return SPEC

    def reset(self, key: Key) -> tuple[State, jax.Array]:
        state = State(*jax.random.uniform(key, (4,), jnp.float32, -0.1, 0.1))
        return state, _observe(state)

    def step(self, state: State, action: jax.Array, key: Key) -> tuple[State, TimeStep]:
        torque = (action.astype(jnp.float32) - 1) * self.torque
        k1 = self._derivative(state, torque)
        k2 = self._derivative(_move(state, k1, DT / 2), torque)
        k3 = self._derivative(_move(state, k2, DT / 2), torque)
        k4 = self._derivative(_move(state, k3, DT), torque)
        slope = State(*((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True)))
        theta_1, theta_2, velocity_1, velocity_2 = _move(state, slope, DT)
        state = State(
            _wrap(theta_1),
            _wrap(theta_2),
            jnp.clip(velocity_1, -MAX_VELOCITY_1, MAX_VELOCITY_1),
            jnp.clip(velocity_2, -MAX_VELOCITY_2, MAX_VELOCITY_2),
        )
        reached = -jnp.cos(state.theta_1) - jnp.cos(state.theta_2 + state.theta_1) > 1
        return state, outcome(_observe(state), jnp.where(reached, jnp.float32(0), jnp.float32(-1)), reached)

    def _derivative(self, state: State, torque: jax.Array) -> State:
        theta_1, theta_2, dot_1, dot_2 = state
        mass, length, center_1, center_2 = self.mass_2, self.length, self.center_1, self.center_2
        cos_2, sin_2 = jnp.cos(theta_2), jnp.sin(theta_2)
        d1 = self.mass_1 * center_1**2 + mass * (length**2 + center_2**2 + 2 * length * center_2 * cos_2)
        d1 = d1 + INERTIA + INERTIA
        d2 = mass * (center_2**2 + length * center_2 * cos_2) + INERTIA
        coupling = mass * length * center_2 * sin_2
        phi_2 = mass * center_2 * GRAVITY * jnp.sin(theta_1 + theta_2)
        phi_1 = -coupling * dot_2**2 - 2 * coupling * dot_2 * dot_1
        phi_1 = phi_1 + (self.mass_1 * center_1 + mass * length) * GRAVITY * jnp.sin(theta_1) + phi_2
        acc_2 = torque + d2 / d1 * phi_1 - coupling * dot_1**2 - phi_2
        acc_2 = acc_2 / (mass * center_2**2 + INERTIA - d2**2 / d1)
        acc_1 = -(d2 * acc_2 + phi_1) / d1
        return State(dot_1, dot_2, acc_1, acc_2)


def _move(state: State, slope: State, dt: float) -> State:
    return State(*(x + dt * v for x, v in zip(state, slope, strict=True)))


def _wrap(angle: jax.Array) -> jax.Array:
    """To [-pi, pi], and untouched inside."""
    return angle - 2 * np.pi * jnp.floor((angle + np.pi) / (2 * np.pi))


def _observe(state: State) -> jax.Array:
    cos_1, sin_1 = jnp.cos(state.theta_1), jnp.sin(state.theta_1)
    cos_2, sin_2 = jnp.cos(state.theta_2), jnp.sin(state.theta_2)
    return jnp.stack([cos_1, sin_1, cos_2, sin_2, state.theta_dot_1, state.theta_dot_2])


def to_gymnasium_attributes(task: Acrobot) -> dict[str, Any]:
    """What the original calls the parameters."""
    masses = {"LINK_MASS_1": task.mass_1, "LINK_MASS_2": task.mass_2}
    centers = {"LINK_COM_POS_1": task.center_1, "LINK_COM_POS_2": task.center_2}
    torques = [-task.torque, 0.0, task.torque]
    return {**masses, **centers, "LINK_LENGTH_1": task.length, "AVAIL_TORQUE": torques}


def to_gymnasium_state(state: State) -> np.ndarray:
    """``env.unwrapped.state`` of the original in the same situation."""
    return np.array(state, np.float64)
