"""What a model learns from, out of a rollout or of a replay memory, with the episode that each row is of."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from steersman.memory import stream
from steersman.models.model import Data
from steersman.types import Array, Rollout


def of_rollout(rollout: Rollout) -> Data:
    """All steps of a rollout [T, B, ...], N = T * B: environment by environment, each in the order of time.

    What a rollout begins in the middle of is an episode of its own.
    """
    opens = jnp.asarray(rollout.first).at[0].set(True)
    flat = lambda x: jnp.swapaxes(jnp.asarray(x), 0, 1).reshape(opens.size, *x.shape[2:])
    rows = jax.tree.map(flat, rollout._replace(carry=()))
    return Data(rows, _numbered(opens), jnp.ones((opens.size,), bool))


def of_memory(memory: stream.Stream, frame_stack: int = 1) -> Data:
    """All that ``memory.uniform`` holds, in the same order, N = its capacity; places that are empty are not valid.

    Rows stay where they lie in the memory. So do the numbers of episodes until it is full; then the number of an old
    one may move as others leave.
    """
    rows, num_envs = memory.steps.reward.shape
    row = jnp.arange(rows, dtype=jnp.int32)
    held = (memory.head - 1 - row) % rows < memory.count
    oldest = (memory.head - memory.count) % rows  # may stand in the middle of an episode, behind the newest
    opens = jnp.asarray(memory.steps.first) | (row == oldest)[:, None] | (row == 0)[:, None]
    index = row[None] * num_envs + jnp.arange(num_envs, dtype=jnp.int32)[:, None]
    batch, _ = stream.item(memory, index.reshape(-1), 1, 1.0, frame_stack)
    return Data(batch, _numbered(opens), jnp.tile(held, num_envs))


def held_out(data: Data, share: float | Array) -> jax.Array:
    """bool [N]: the rows that are not learned from, all of every (1 / share)-th episode: at 0.2 of 4, 9, 14 ...

        episode e is held out where  floor((e + 1) share) > floor(e share)

    It depends on nothing but the number: what a model is tried on now it has never learned from. No row is held out
    before so many episodes are there.
    """
    number, share = data.episode.astype(jnp.float32), jnp.asarray(share, jnp.float32)
    return jnp.asarray(data.valid) & (jnp.floor((number + 1) * share) > jnp.floor(number * share))


def _numbered(opens: jax.Array) -> jax.Array:
    """Episodes that open at [T, B], numbered over all environments as they open: int32 [B * T]."""
    num_envs = opens.shape[1]
    nth = jnp.cumsum(opens, axis=0, dtype=jnp.int32) - 1
    return (nth * num_envs + jnp.arange(num_envs, dtype=jnp.int32)[None]).T.reshape(-1)
