"""Tasks with a parameter that no sensor says, another in every episode: ``hidden/pendulum``.

Observations are a Dict: ``state``, what a policy could see on the machine, and ``physics``, what a simulator knows
beside it. For a policy that does without, ``policy_sees = state``; its critic may see both (asymmetric actor-critic).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.classic.common import outcome
from steersman.envs.classic.pendulum import DT, MAX_SPEED, MAX_TORQUE
from steersman.envs.wrappers import PureEnv, time_limit
from steersman.errors import UsageError
from steersman.spaces import canonical_action_space, native_map
from steersman.types import Env, EnvSpec, Key, TimeStep

G = 10.0  # m / s^2


class Swinging(NamedTuple):
    theta: jax.Array  # rad from upright, never wrapped
    theta_dot: jax.Array
    mass: jax.Array  # kg
    length: jax.Array  # m


def pendulum(spread: float = 2.0, max_episode_steps: int = 200) -> Env:
    """Pendulum-v1, whose mass and length are drawn anew for each episode, between 1 / spread and spread.

        log2 m, log2 l ~ uniform in [-log2 spread, log2 spread],    w <- w + DT [3 g sin(theta) / (2 l) + 3 u / (m l^2)]

    The torque u has the same bounds for all: a light one is lifted at once, a heavy one swung up slowly or never, so
    what an episode is worth hangs on what is not seen. ``state``: cos, sin and speed; ``physics``: log m and log l.
    Rewards and ends are Pendulum-v1's, which spread = 1 is. Raises UsageError for a spread below 1.
    """
    if not spread >= 1:
        raise UsageError(f"hidden/pendulum: spread = {spread}; it is a factor of 1 or more.")
    most = np.float32(np.log(spread))
    high = np.array([1, 1, MAX_SPEED], np.float32)
    seen = {"physics": spaces.Box(-most, most, (2,)), "state": spaces.Box(-high, high)}
    torques = spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,))
    spec = EnvSpec("hidden/pendulum", spaces.Dict(seen), canonical_action_space(torques), torques)
    native = native_map(torques)

    def look(now: Swinging) -> dict[str, jax.Array]:
        state = jnp.stack([jnp.cos(now.theta), jnp.sin(now.theta), now.theta_dot])
        return {"physics": jnp.log(jnp.stack([now.mass, now.length])), "state": state}

    def reset(key: Key) -> tuple[Swinging, dict[str, jax.Array]]:
        unit = jax.random.uniform(key, (4,), jnp.float32, -1, 1)
        now = Swinging(np.pi * unit[0], unit[1], *jnp.exp(most * unit[2:]))
        return now, look(now)

    def step(now: Swinging, action: jax.Array, key: Key) -> tuple[Swinging, TimeStep]:
        torque, (theta, theta_dot, mass, length) = native(action)[0], now
        angle = jnp.mod(theta + np.pi, 2 * np.pi) - np.pi
        reward = -(angle**2 + 0.1 * theta_dot**2 + 0.001 * torque**2)
        acceleration = 3 * G / (2 * length) * jnp.sin(theta) + 3 / (mass * length**2) * torque
        theta_dot = jnp.clip(theta_dot + acceleration * DT, -MAX_SPEED, MAX_SPEED)
        now = now._replace(theta=theta + theta_dot * DT, theta_dot=theta_dot)
        return now, outcome(look(now), reward, jnp.zeros((), bool))

    return time_limit(PureEnv(spec, reset, step), max_episode_steps)


HIDDEN: dict[str, Callable[..., Env]] = {"hidden/pendulum": pendulum}
