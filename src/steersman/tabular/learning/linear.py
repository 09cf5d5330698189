"""Linear function approximation: tile coding, and semi-gradient SARSA(lambda) on it.

Axes: ``D`` dimensions of an observation, ``N`` tilings (active features), ``F`` features, ``A`` actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.tabular.learning.behaviour import Setting, at_step
from steersman.theory.exploration import epsilon_greedy
from steersman.types import Array, Env, Key

KINDS = ("accumulating", "replacing", "true-online")


class TileCoder(NamedTuple):
    """Overlapping grids: an observation turns on one tile in each of N tilings, shifted against each other.

    ``low`` and ``high`` float32 [D] bound the box; ``tiles`` int32 [D] per tiling. Tiling i is shifted by i (1, 3, 5,
    ...) / N of a tile, so that the overlaps are not along a diagonal. Observations outside are clipped. (Sutton &
    Barto 2018, 9.5.4.)
    """

    low: np.ndarray
    high: np.ndarray
    tiles: np.ndarray
    tilings: int

    @property
    def size(self) -> int:
        """F: one more tile a dimension than asked for, for the shift."""
        return self.tilings * int(np.prod(self.tiles + 1))

    def __call__(self, obs: Array) -> jax.Array:
        """obs float32 [D] -> the N active features, int32."""
        unit = (jnp.asarray(obs) - self.low) / (self.high - self.low)
        place = jnp.clip(unit, 0.0, 1.0 - 1e-6) * self.tiles.astype(np.float32)
        i = np.arange(self.tilings)[:, None]
        shift = ((i * (2 * np.arange(len(self.tiles)) + 1)) % self.tilings / self.tilings).astype(np.float32)
        cells = jnp.floor(place[None] + shift).astype(jnp.int32)  # [N, D]
        strides = np.cumprod(np.concatenate([[1], (self.tiles + 1)[:-1]])).astype(np.int32)
        first = (i[:, 0] * np.prod(self.tiles + 1)).astype(np.int32)
        return jnp.sum(cells * strides[None], -1) + first


def tile_coder(low: Sequence[float], high: Sequence[float], tiles: Sequence[int], tilings: int = 8) -> TileCoder:
    """A tile coder over a box. Raises UsageError unless the sizes agree and every side is longer than 0."""
    a, b, n = np.asarray(low, np.float32), np.asarray(high, np.float32), np.asarray(tiles, np.int32)
    if not a.shape == b.shape == n.shape or a.ndim != 1:
        raise UsageError(f"low, high and tiles need one entry a dimension; got {a.shape}, {b.shape}, {n.shape}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all() and (b > a).all()):
        raise UsageError(f"Tile coding needs a finite box with low < high; got {a.tolist()} to {b.tolist()}.")
    if tilings < 1 or (n < 1).any():
        raise UsageError(
            f"Tile coding needs at least one tiling and one tile a dimension; got {tilings}, {n.tolist()}."
        )
    return TileCoder(a, b, n, tilings)


class LinearLearned(NamedTuple):
    weights: Array  # float32 [A, F]
    returns: Array  # float32 [E]
    lengths: Array  # int32 [E]


def sarsa_lambda_linear(
    env: Env,
    coder: TileCoder,
    key: Key,
    *,
    episodes: int,
    alpha: Setting,
    lambda_: float | Array = 0.9,
    gamma: float | Array = 1.0,
    epsilon: Setting = 0.0,
    trace: str = "replacing",
    max_episode_steps: int = 5000,
) -> LinearLearned:
    """Semi-gradient SARSA(lambda), q(s, a) = sum of w over the active tiles; ``alpha`` is per tile.

    w <- w + alpha delta z. Optimistic zeros explore tasks of negative reward by themselves. ``max_episode_steps`` cuts
    an episode, which then bootstraps. Pure: jit it, vmap it over keys, alphas and lambdas. Raises UsageError for
    actions that are not Discrete or an unknown ``trace``. (Sutton & Barto 2018, sections 10.1, 12.7; true online: van
    Seijen 2016.)
    """
    if not isinstance(env.spec.action_space, spaces.Discrete):
        raise UsageError(f"SARSA needs Discrete actions; {env.spec.id} has {env.spec.action_space}.")
    if trace not in KINDS:
        raise UsageError(f"No trace is called {trace!r}; there are {', '.join(KINDS)}.")
    actions = int(env.spec.action_space.n)
    decay = jnp.asarray(gamma, jnp.float32) * jnp.asarray(lambda_, jnp.float32)

    def choose(w: Array, tiles: Array, key: Key, step: jax.Array) -> Array:
        return epsilon_greedy(jnp.sum(w[:, tiles], -1), at_step(epsilon, step)).sample(key)

    def begin(w: Array, key: Key, step: jax.Array):
        reset_key, act_key = jax.random.split(key)
        state, obs = env.reset(reset_key)
        tiles = coder(obs)
        return state, tiles, choose(w, tiles, act_key, step)

    def body(c):
        w, z, q_old, (state, tiles, a), clock, step, i, returns, lengths, key = c
        step_key, act_key, fresh_key, key = jax.random.split(key, 4)
        state, ts = env.step(state, a, step_key)
        seen = coder(ts.final_obs)
        a_next = choose(w, seen, act_key, step)
        rate, going = at_step(alpha, step), jnp.where(ts.terminated, 0.0, 1.0)
        q, q_next = jnp.sum(w[a, tiles]), going * jnp.sum(w[a_next, seen])
        delta = ts.reward + gamma * q_next - q
        if trace == "true-online":
            grown = z.at[a, tiles].add(1.0 - rate * jnp.sum(z[a, tiles]))
            w = w + rate * (delta + q - q_old) * grown
            w = w.at[a, tiles].add(-rate * (q - q_old))
        else:
            grown = z.at[a, tiles].set(1.0) if trace == "replacing" else z.at[a, tiles].add(1.0)
            w = w + rate * delta * grown
        clock = clock + 1
        ended = ts.terminated | ts.truncated | (clock >= max_episode_steps)
        returns, lengths = returns.at[i].add(ts.reward), lengths.at[i].add(1)
        fresh = begin(w, fresh_key, step)
        now = jax.tree.map(lambda x, y: jnp.where(ended, x, y), fresh, (state, seen, a_next))
        z = jnp.where(ended, 0.0, decay * grown)
        q_old = jnp.where(ended, 0.0, q_next)
        clock = jnp.where(ended, 0, clock)
        return w, z, q_old, now, clock, step + 1, i + ended.astype(jnp.int32), returns, lengths, key

    w = jnp.zeros((actions, coder.size), jnp.float32)
    first_key, key = jax.random.split(key)
    zero = jnp.int32(0)
    start = (
        w,
        w,
        jnp.zeros(()),
        begin(w, first_key, zero),
        zero,
        zero,
        zero,
        jnp.zeros(episodes),
        jnp.zeros(episodes, jnp.int32),
        key,
    )
    end = jax.lax.while_loop(lambda c: c[6] < episodes, body, start)
    return LinearLearned(end[0], end[7], end[8])
