"""CartPole-v1, compiled: balance a pole on a cart that is pushed left or right.

A twin of Gymnasium's CartPole-v1 in float32: the same constants, Euler steps, rewards and ends (Barto, Sutton,
Anderson, "Neuronlike Adaptive Elements That Can Solve Difficult Learning Control Problems", 1983).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.classic.common import outcome
from steersman.types import EnvSpec, Key, TimeStep

DT = 0.02  # s
X_LIMIT = 2.4  # m
THETA_LIMIT = 12 * 2 * math.pi / 360  # rad

_HIGH = np.array([2 * X_LIMIT, np.inf, 2 * THETA_LIMIT, np.inf], np.float32)
SPEC = EnvSpec("CartPole-v1", spaces.Box(-_HIGH, _HIGH), spaces.Discrete(2), spaces.Discrete(2))


class State(NamedTuple):
    x: jax.Array  # m
    x_dot: jax.Array
    theta: jax.Array  # rad from upright
    theta_dot: jax.Array


@dataclass(frozen=True)
class CartPole:
    """Reward 1 for every step; with ``sutton_barto_reward`` 0, and -1 for the step that fails."""

    sutton_barto_reward: bool = False
    gravity: float = 9.8  # m / s^2
    cart_mass: float = 1.0  # kg
    pole_mass: float = 0.1  # kg
    length: float = 0.5  # m, half of the pole's
    force: float = 10.0  # N
    dt: float = DT  # s from one action to the next

    @property
    def spec(self) -> EnvSpec:
        return SPEC

    def reset(self, key: Key) -> tuple[State, jax.Array]:
        start = jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05)
        return State(*start), start

    def step(self, state: State, action: jax.Array, key: Key) -> tuple[State, TimeStep]:
        x, x_dot, theta, theta_dot = state
        strength = jnp.asarray(self.force, jnp.float32)
        force = jnp.where(action == 1, strength, -strength)
        cos, sin = jnp.cos(theta), jnp.sin(theta)
        mass = self.cart_mass + self.pole_mass
        push = (force + self.pole_mass * self.length * theta_dot**2 * sin) / mass
        theta_acc = (self.gravity * sin - cos * push) / (self.length * (4 / 3 - self.pole_mass * cos**2 / mass))
        x_acc = push - self.pole_mass * self.length * theta_acc * cos / mass
        x, x_dot = x + self.dt * x_dot, x_dot + self.dt * x_acc
        theta, theta_dot = theta + self.dt * theta_dot, theta_dot + self.dt * theta_acc
        failed = (jnp.abs(x) > X_LIMIT) | (jnp.abs(theta) > THETA_LIMIT)
        reward = jnp.where(failed, jnp.float32(-1), jnp.float32(0)) if self.sutton_barto_reward else jnp.ones_like(x)
        state = State(x, x_dot, theta, theta_dot)
        return state, outcome(jnp.stack(state), reward, failed)


def to_gymnasium_attributes(task: CartPole) -> dict[str, float]:
    """What the original calls the parameters."""
    named = {"gravity": task.gravity, "masscart": task.cart_mass, "masspole": task.pole_mass, "length": task.length}
    sums = {"total_mass": task.cart_mass + task.pole_mass, "polemass_length": task.pole_mass * task.length}
    return {**named, **sums, "force_mag": task.force, "tau": task.dt}


def to_gymnasium_state(state: State) -> np.ndarray:
    """``env.unwrapped.state`` of the original in the same situation."""
    return np.array(state, np.float64)
