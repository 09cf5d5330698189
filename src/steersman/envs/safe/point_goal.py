"""``safe/point-goal``: a point is pushed from goal to goal across a square with hazards, which it sees by lidar.

After PointGoal of Safety Gym (Ray, Achiam, Amodei 2019), made small enough to be compiled: no body that turns, no
contacts. A step inside a hazard costs 1; the way straight to the goal leads through some.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.wrappers import PureEnv, time_limit
from steersman.errors import UsageError
from steersman.types import Env, EnvSpec, Key, TimeStep

SIDE = 1.5  # half of the square's
HAZARD, GOAL = 0.2, 0.3  # radii
BEAMS = 16
DT, DRAG = 0.1, 0.5
TRIES = 32  # places that are drawn for what has to be clear of hazards


class Point(NamedTuple):
    position: jax.Array  # [2]
    velocity: jax.Array  # [2]
    goal: jax.Array  # [2]
    hazards: jax.Array  # [H, 2]


def point_goal(hazards: int = 8, max_episode_steps: int = 250) -> Env:
    """A mass in a square, pushed by a force in the plane.

        v <- v + DT (a - DRAG v),   x <- clip(x + DT v, -SIDE, SIDE)   (the velocity is lost at a wall)
        reward = |goal - x| - |goal - x'| + [|goal - x'| < GOAL],      cost = [|hazard - x'| < HAZARD for any]

    Where the goal is reached, there is a new one, clear of hazards as the start is. Hazards are drawn for each episode
    and may overlap. Seen are the velocity, and two rings of ``BEAMS`` readings around the point, of the goal and of the
    hazards:

        reading_i = max over things of exp(-distance) max(0, 1 - |angle - angle_i| / (2 pi / BEAMS))

    Episodes end by the clock alone. Raises UsageError for less than one hazard.
    """
    if hazards < 1:
        raise UsageError(f"safe/point-goal has 1 hazard or more; got hazards={hazards}.")
    low, high = np.full(2 + 2 * BEAMS, -4.0, np.float32), np.full(2 + 2 * BEAMS, 4.0, np.float32)
    low[2:], high[2:] = 0.0, 1.0
    action = spaces.Box(-1.0, 1.0, (2,))
    spec = EnvSpec("safe/point-goal", spaces.Box(low, high), action, action, cost_names=("hazard",))

    def reset(key: Key) -> tuple[Point, jax.Array]:
        keys = jax.random.split(key, 3)
        around = jax.random.uniform(keys[0], (hazards, 2), jnp.float32, -SIDE, SIDE)
        start, goal = _clear(keys[1], around, HAZARD), _clear(keys[2], around, HAZARD + GOAL)
        state = Point(start, jnp.zeros((2,), jnp.float32), goal, around)
        return state, observe(state)

    def step(state: Point, action: jax.Array, key: Key) -> tuple[Point, TimeStep]:
        push = jnp.clip(action, -1.0, 1.0)
        velocity = state.velocity + DT * (push - DRAG * state.velocity)
        there = state.position + DT * velocity
        position = jnp.clip(there, -SIDE, SIDE)
        before, after = (jnp.linalg.norm(state.goal - x) for x in (state.position, position))
        reached = after < GOAL
        reward = before - after + reached.astype(jnp.float32)
        goal = jnp.where(reached, _clear(key, state.hazards, HAZARD + GOAL), state.goal)
        state = Point(position, jnp.where(there == position, velocity, 0.0), goal, state.hazards)
        inside = jnp.any(jnp.linalg.norm(state.hazards - position[None], axis=-1) < HAZARD)
        obs, no = observe(state), jnp.zeros((), bool)
        return state, TimeStep(obs, reward, no, no, obs, inside.astype(jnp.float32)[None], {})

    return time_limit(PureEnv(spec, reset, step), max_episode_steps)


def observe(state: Point) -> jax.Array:
    """What is seen, [2 + 2 BEAMS]."""
    rings = [lidar(things - state.position[None]) for things in (state.goal[None], state.hazards)]
    return jnp.concatenate([state.velocity, *rings])


def lidar(offsets: jax.Array) -> jax.Array:
    """Readings [BEAMS] of things at ``offsets`` [K, 2]: a thing is in the two beams beside it, by how near each is."""
    width = 2 * np.pi / BEAMS
    beams = width * jnp.arange(BEAMS, dtype=jnp.float32)
    angle = jnp.arctan2(offsets[:, 1], offsets[:, 0])
    apart = jnp.abs(jnp.mod(angle[:, None] - beams[None] + np.pi, 2 * np.pi) - np.pi)
    seen = jnp.maximum(1.0 - apart / width, 0.0)
    return jnp.max(jnp.exp(-jnp.linalg.norm(offsets, axis=-1))[:, None] * seen, axis=0)


def _clear(key: Key, hazards: jax.Array, distance: float) -> jax.Array:
    """A place farther than ``distance`` from every hazard: the first of some; of none, the farthest."""
    places = jax.random.uniform(key, (TRIES, 2), jnp.float32, -SIDE, SIDE)
    nearest = jnp.min(jnp.linalg.norm(places[:, None] - hazards[None], axis=-1), axis=-1)
    best = jnp.where(jnp.any(nearest > distance), jnp.argmax(nearest > distance), jnp.argmax(nearest))
    return places[best]
