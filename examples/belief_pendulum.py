"""A pendulum seen through a noisy angle alone: an extended Kalman filter believes the rest, and SAC acts on that.

Run it:  python examples/belief_pendulum.py
or:      cd examples && steersman train sac belief_pendulum:pendulum --steps 20000
"""

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.beliefs import noisy_observation, observe_belief
from steersman.envs.classic.pendulum import DT, Pendulum
from steersman.envs.wrappers import time_limit, transform_observation
from steersman.theory.filters import extended_kalman
from steersman.types import Env, Filter
from steersman.unroll import random_policy

NOISE = 0.1  # rad


def wrapped(angle):
    return jnp.mod(angle + np.pi, 2 * np.pi) - np.pi


def sensor() -> Env:
    angle = transform_observation(
        Pendulum(), lambda obs: jnp.arctan2(obs[1], obs[0])[None], spaces.Box(-np.pi, np.pi, (1,), np.float32)
    )
    return noisy_observation(angle, NOISE)


def ekf() -> Filter:
    def dynamics(state, action):  # a torque of 2 N m for an action of 1
        velocity = jnp.clip(state[1] + DT * (15 * jnp.sin(state[0]) + 6 * action[0]), -8.0, 8.0)
        return jnp.stack([state[0] + DT * velocity, velocity])

    start, drift = np.diag([np.pi**2 / 3, 1 / 3]), np.diag([1e-6, 1e-4])
    difference = lambda a, b: wrapped(a - b)
    return extended_kalman(
        dynamics, lambda state: state[:1], drift, np.diag([NOISE**2]), np.zeros(2), start, difference=difference
    )


def pendulum() -> Env:
    """Cosine, sine, velocity, as Pendulum-v1 shows them, but believed; and their variances and covariance."""
    look = lambda f: jnp.stack([jnp.cos(f[0]), jnp.sin(f[0]), *f[1:]])
    believed = transform_observation(observe_belief(sensor(), ekf()), look, spaces.Box(-np.inf, np.inf, (6,)))
    return time_limit(believed, 200)


def main(steps: int = 200, episodes: int = 64) -> np.ndarray:
    env, seen = observe_belief(sensor(), ekf()), []
    act, first = random_policy(env.spec), jnp.ones((episodes,), bool)
    state, obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), episodes))
    step = jax.jit(jax.vmap(env.step))
    for t in range(steps):
        key = jax.random.fold_in(jax.random.key(1), t)
        state, _ = step(state, act((), obs, first, key)[0], jax.random.split(key, episodes))
        error = state.belief.mean - jnp.stack(state.env, -1)
        seen.append(np.stack([wrapped(error[:, 0]), error[:, 1]], -1))
    angle, velocity = np.sqrt(np.square(seen[steps // 4 :]).mean((0, 1)))
    print(f"angle: seen with an error of {NOISE} rad, believed with {angle:.3f}")
    print(
        f"velocity: never seen; two angles tell it to {np.sqrt(2) * NOISE / DT:.2f} rad/s, the belief to {velocity:.3f}"
    )
    return np.array([angle, velocity])


if __name__ == "__main__":
    main()
