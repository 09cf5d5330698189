"""A pendulum seen through a noisy angle alone: an extended Kalman filter believes the rest, and SAC acts on that.

Run it:  python examples/belief_pendulum.py
or:      cd examples && steersman train sac belief_pendulum:pendulum --steps 20000
"""

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.beliefs import observe_belief
from steersman.envs.classic.pendulum import DT, Pendulum
from steersman.envs.transfer.around import transferred
from steersman.envs.wrappers import time_limit, transform_observation
from steersman.theory.beliefs.filters import extended_kalman
from steersman.types import Env, Filter

NOISE = 0.1  # rad


def wrapped(angle):
    return jnp.mod(angle + np.pi, 2 * np.pi) - np.pi


def sensor() -> Env:
    angle = lambda obs: jnp.arctan2(obs[1], obs[0])[None]
    seen = transform_observation(Pendulum(), angle, spaces.Box(-np.pi, np.pi, (1,)))
    return transferred(seen, observation_noise=NOISE)


def ekf() -> Filter:
    def dynamics(state, action):  # a torque of 2 N m for an action of 1
        velocity = jnp.clip(state[1] + DT * (15 * jnp.sin(state[0]) + 6 * action[0]), -8.0, 8.0)
        return jnp.stack([state[0] + DT * velocity, velocity])

    see, difference = lambda state: state[:1], lambda a, b: wrapped(a - b)
    drift, noise, start = np.diag([1e-6, 1e-4]), np.diag([NOISE**2]), np.diag([np.pi**2 / 3, 1 / 3])
    return extended_kalman(dynamics, see, drift, noise, np.zeros(2), start, difference=difference)


def pendulum() -> Env:
    """Cosine, sine, velocity, as Pendulum-v1 shows them, but believed; and their variances and covariance."""
    look = lambda f: jnp.stack([jnp.cos(f[0]), jnp.sin(f[0]), *f[1:]])
    believed = transform_observation(observe_belief(sensor(), ekf()), look, spaces.Box(-np.inf, np.inf, (6,)))
    return time_limit(believed, 200)


def main(steps: int = 200, episodes: int = 64) -> np.ndarray:
    env, keys = observe_belief(sensor(), ekf()), jax.random.split(jax.random.key(0), episodes)

    def step(state, key):
        action = jax.random.uniform(key, (episodes, 1), minval=-1.0)
        state, _ = jax.vmap(env.step)(state, action, jax.random.split(key, episodes))
        (angle, velocity), so = state.belief.mean.T, state.env.env  # within the belief, and within the noise
        return state, jnp.stack([wrapped(angle - so.theta), velocity - so.theta_dot])

    play = jax.jit(lambda: jax.lax.scan(step, jax.vmap(env.reset)(keys)[0], jax.random.split(keys[0], steps))[1])
    error = np.asarray(play())[steps // 4 :]  # [T, 2, B], once the belief has settled
    angle, velocity = np.sqrt(np.square(error).mean((0, 2)))
    print(f"angle: seen with an error of {NOISE} rad, believed with {angle:.3f}")
    apart = np.sqrt(2) * NOISE / DT
    print(f"velocity: never seen; two angles tell it to {apart:.2f} rad/s, the belief to {velocity:.3f}")
    return np.array([angle, velocity])


if __name__ == "__main__":
    main()
