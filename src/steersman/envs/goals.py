"""Goal environments, compiled: a Dict observation with what is achieved and what is desired, a reward of the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.envs.wrappers import PureEnv, time_limit
from steersman.errors import UsageError
from steersman.types import Array, Env, EnvSpec, Key, TimeStep

REACH = 0.05  # how near is there
DT, DRAG = 0.1, 0.5


class Mass(NamedTuple):
    position: jax.Array  # [K], in [-1, 1]
    velocity: jax.Array  # [K]
    goal: jax.Array  # [K]


def reached(achieved: Array, desired: Array) -> jax.Array:
    """Whether ``achieved`` [..., K] is within REACH of ``desired`` [..., K]."""
    return jnp.linalg.norm(jnp.asarray(achieved) - jnp.asarray(desired), axis=-1) < REACH


def sparse_reward(achieved: Array, desired: Array) -> jax.Array:
    """0 there, -1 elsewhere."""
    return jnp.where(reached(achieved, desired), jnp.float32(0), jnp.float32(-1))


def point(dimensions: int = 3, max_episode_steps: int = 50) -> Env:
    """A mass in K dimensions is pushed to a goal and held there: reward 0 within 0.05 of it, else -1.

        v <- v + DT (2 a - DRAG v),   x <- clip(x + DT v, -1, 1)   (the velocity is lost at a wall)

    Start and goal are uniform in [-0.8, 0.8]^K. Episodes end by the clock alone. A random place is within reach of the
    goal one time in 330 in the plane, in 7,800 in space and in 210,000 in four dimensions: early episodes all give the
    same return, more of them the more dimensions, which is the test of hindsight replay.

    Raises UsageError unless ``dimensions`` is at least 1.
    """
    if dimensions < 1:
        raise UsageError(f"goal/point has 1 dimension or more; got dimensions={dimensions}.")
    place, moving = spaces.Box(-1.0, 1.0, (dimensions,)), spaces.Box(-8.0, 8.0, (2 * dimensions,))
    observation = spaces.Dict({"observation": moving, "achieved_goal": place, "desired_goal": place})
    action = spaces.Box(-1.0, 1.0, (dimensions,))
    spec = EnvSpec("goal/point", observation, action, action, goal_reward=sparse_reward)

    def look(state: Mass) -> dict[str, jax.Array]:
        moving = jnp.concatenate([state.position, state.velocity])
        return {"observation": moving, "achieved_goal": state.position, "desired_goal": state.goal}

    def reset(key: Key) -> tuple[Mass, dict[str, jax.Array]]:
        start, goal = jax.random.uniform(key, (2, dimensions), jnp.float32, -0.8, 0.8)
        state = Mass(start, jnp.zeros((dimensions,)), goal)
        return state, look(state)

    def step(state: Mass, action: jax.Array, key: Key) -> tuple[Mass, TimeStep]:
        push = 2.0 * jnp.clip(action, -1.0, 1.0)
        velocity = state.velocity + DT * (push - DRAG * state.velocity)
        there = state.position + DT * velocity
        position = jnp.clip(there, -1.0, 1.0)
        state = Mass(position, jnp.where(there == position, velocity, 0.0), state.goal)
        obs, no = look(state), jnp.zeros((), bool)
        reward = sparse_reward(position, state.goal)
        return state, TimeStep(obs, reward, no, no, obs, jnp.zeros((0,), jnp.float32), {})

    return time_limit(PureEnv(spec, reset, step), max_episode_steps)


GOALS: dict[str, Callable[..., Env]] = {"goal/point": point}
