"""Acrobot-v1, compiled: swing the tip of a two-link pendulum above a line, with a torque at the middle joint only.

A twin of Gymnasium's Acrobot-v1 in float32: the equations of motion of Sutton and Barto's book (2018, section 11.3 of
the first edition), one Runge-Kutta step of fourth order per action.
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

DT = 0.2  # s
GRAVITY = 9.8
LENGTH_1 = 1.0  # m
MASS_1, MASS_2 = 1.0, 1.0  # kg
CENTER_1, CENTER_2 = 0.5, 0.5  # m from the joint to the link's centre of mass
INERTIA_1, INERTIA_2 = 1.0, 1.0  # kg m^2
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
    """Actions 0, 1, 2: torque -1, 0, 1 N m. Reward -1 for every step, 0 for the one that reaches the goal."""

    @property
    def spec(self) -> EnvSpec:
        return SPEC

    def reset(self, key: Key) -> tuple[State, jax.Array]:
        state = State(*jax.random.uniform(key, (4,), jnp.float32, -0.1, 0.1))
        return state, _observe(state)

    def step(self, state: State, action: jax.Array, key: Key) -> tuple[State, TimeStep]:
        torque = action.astype(jnp.float32) - 1
        k1 = _derivative(state, torque)
        k2 = _derivative(_move(state, k1, DT / 2), torque)
        k3 = _derivative(_move(state, k2, DT / 2), torque)
        k4 = _derivative(_move(state, k3, DT), torque)
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


def _derivative(state: State, torque: jax.Array) -> State:
    theta_1, theta_2, dot_1, dot_2 = state
    cos_2, sin_2 = jnp.cos(theta_2), jnp.sin(theta_2)
    d1 = MASS_1 * CENTER_1**2 + MASS_2 * (LENGTH_1**2 + CENTER_2**2 + 2 * LENGTH_1 * CENTER_2 * cos_2)
    d1 = d1 + INERTIA_1 + INERTIA_2
    d2 = MASS_2 * (CENTER_2**2 + LENGTH_1 * CENTER_2 * cos_2) + INERTIA_2
    coupling = MASS_2 * LENGTH_1 * CENTER_2 * sin_2
    phi_2 = MASS_2 * CENTER_2 * GRAVITY * jnp.sin(theta_1 + theta_2)
    phi_1 = -coupling * dot_2**2 - 2 * coupling * dot_2 * dot_1
    phi_1 = phi_1 + (MASS_1 * CENTER_1 + MASS_2 * LENGTH_1) * GRAVITY * jnp.sin(theta_1) + phi_2
    acc_2 = torque + d2 / d1 * phi_1 - coupling * dot_1**2 - phi_2
    acc_2 = acc_2 / (MASS_2 * CENTER_2**2 + INERTIA_2 - d2**2 / d1)
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


def to_gymnasium_state(state: State) -> np.ndarray:
    """``env.unwrapped.state`` of the original in the same situation."""
    return np.array(state, np.float64)
