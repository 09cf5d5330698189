"""RockSample: a rover that checks rocks from afar, by a sensor that is the worse the farther they are."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.classic.common import outcome
from steersman.envs.wrappers import PureEnv, discounted_return, time_limit
from steersman.errors import UsageError
from steersman.types import Env, EnvSpec, Key, TimeStep

GAMMA = 0.95  # the literature's
NORTH, EAST, SOUTH, WEST, SAMPLE, CHECK = range(6)  # CHECK + i checks rock i
MOVES = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]], np.int32)  # column, row

# Where the rocks lie in the problems of the literature: column, row.
LAYOUTS = {
    (7, 8): [(2, 0), (0, 1), (3, 1), (6, 3), (2, 4), (3, 4), (5, 5), (1, 6)],
    (11, 11): [(0, 3), (0, 7), (1, 8), (2, 4), (3, 3), (3, 8), (4, 3), (5, 8), (6, 1), (9, 3), (9, 9)],
}


class Field(NamedTuple):
    place: jax.Array  # int32 [2]: column, row
    good: jax.Array  # bool [K]


def rocks_of(size: int, rocks: int) -> np.ndarray:
    """Where the rocks lie, int32 [K, 2]: as in the literature, else at places drawn once and for all."""
    if (size, rocks) in LAYOUTS:
        return np.array(LAYOUTS[size, rocks], np.int32)
    cells = np.random.default_rng([size, rocks]).random(size * size).argsort()[:rocks]
    return np.stack([cells % size, cells // size], -1).astype(np.int32)


def rocksample(size: int = 7, rocks: int = 8, half_distance: float = 20.0, max_episode_steps: int | None = None) -> Env:
    """RockSample[size, rocks]: known places, unknown worth, a field that is left to the east.

    A rock is good with probability 1/2. Actions: north, east, south, west; sample; check rock 1, 2 ... A check reads
    the worth of a rock at distance d rightly with probability (1 + 2^(-d / half_distance)) / 2. Sampling pays 10 on a
    good rock, which is bad from then on, -10 on a bad one and 0 elsewhere; leaving pays 10 and ends the episode. Moves
    against the other edges do nothing. It starts in the middle of the western edge.

    Observation, float32 [2 size + rocks]: column and row, one-hot, and the reading of the last step's check, 1 (good)
    or -1 (bad) at its rock; 0 where none was checked.

    The best return is 10 + 5 rocks, and needs no memory: who stands on a rock checks it without error. With the
    discount of the literature, 0.95, checking from afar pays, which does: RockSample[7, 8] is worth about 21.4 and
    RockSample[11, 11] 21.6. ``info["discounted_return"]`` counts that. Truncated after 10 (size + rocks) steps.
    (Smith & Simmons 2004; places and values as in Silver & Veness 2010.)

    Raises UsageError for a size below 2, no rock or more than there are cells, and a distance that is not positive.
    """
    if size < 2 or not 1 <= rocks <= size * size or not half_distance > 0:
        raise UsageError(
            f"memory/rocksample has a size of at least 2, from 1 rock to as many as there are cells, and a positive "
            f"half_distance; got size={size}, rocks={rocks}, half_distance={half_distance}."
        )
    where = rocks_of(size, rocks)

    def look(state: Field, reading: jax.Array) -> jax.Array:
        column, row = jax.nn.one_hot(state.place, size, dtype=jnp.float32)  # who has left is in no column
        return jnp.concatenate([column, row, reading])

    def reset(key: Key) -> tuple[Field, jax.Array]:
        state = Field(jnp.array([0, size // 2], jnp.int32), jax.random.bernoulli(key, 0.5, (rocks,)))
        return state, look(state, jnp.zeros((rocks,), jnp.float32))

    def step(state: Field, action: jax.Array, key: Key) -> tuple[Field, TimeStep]:
        moves = action < SAMPLE
        to = state.place + jnp.where(moves, jnp.asarray(MOVES)[jnp.minimum(action, WEST)], np.int32(0))
        left = to[0] == size
        place = jnp.clip(to, np.int32(0), jnp.array([size, size - 1], jnp.int32))

        here = (state.place[None] == where).all(-1) & (action == SAMPLE)
        sampled = jnp.where(here, jnp.where(state.good, jnp.float32(10), jnp.float32(-10)), jnp.float32(0)).sum()
        after = Field(place, state.good & ~here)

        distance = jnp.linalg.norm((state.place[None] - where).astype(jnp.float32), axis=-1)
        right = jax.random.uniform(key, (rocks,)) < (1 + 2 ** (-distance / np.float32(half_distance))) / 2
        checked = jnp.arange(rocks, dtype=jnp.int32) == action - np.int32(CHECK)
        read = jnp.where(right == state.good, jnp.float32(1), jnp.float32(-1))
        obs = look(after, jnp.where(checked, read, jnp.float32(0)))
        return after, outcome(obs, sampled + jnp.where(left, jnp.float32(10), jnp.float32(0)), left)

    seen, actions = spaces.Box(-1.0, 1.0, (2 * size + rocks,)), spaces.Discrete(CHECK + rocks)
    env = PureEnv(EnvSpec("memory/rocksample", seen, actions, actions), reset, step)
    limit = 10 * (size + rocks) if max_episode_steps is None else max_episode_steps
    return discounted_return(time_limit(env, limit), GAMMA)
