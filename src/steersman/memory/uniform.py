"""Uniform replay (Lin 1992): every transition that is held is as likely as any other."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from steersman.memory import stream
from steersman.memory.buffer import Buffer, Sample
from steersman.types import Array, Key, Rollout


def uniform(
    capacity: int,
    batch_size: int,
    *,
    n_step: int = 1,
    gamma: float | Array = 0.99,
    frame_stack: int = 1,
    path: bool = False,
) -> Buffer:
    """A memory of the newest ``capacity`` transitions over all environments, drawn with equal probability.

    P(i) = 1 / count. n_step: steps of one item; gamma: their discount; path: give the single steps too. frame_stack:
    frames in one image observation, 1 if it is no stack (``memory.stream`` says what is stored). Raises UsageError,
    from ``init``, where that is wrong.

    >>> import numpy as np
    >>> from steersman.types import Rollout
    >>> x, no = np.arange(3, dtype=np.float32)[:, None], np.zeros((3, 1), bool)
    >>> rollout = Rollout(x, x, x, no, no, x + 1, no, np.zeros((3, 1, 0), np.float32), {})
    >>> buffer = uniform(100, 4, n_step=2, gamma=0.5)
    >>> buffer.sample(buffer.init(rollout), jax.random.key(0)).batch.next_obs.shape
    (4,)
    """

    def init(first_rollout: Rollout) -> stream.Stream:
        memory = stream.empty(first_rollout, capacity, frame_stack)
        return add(memory, stream.newest(memory, first_rollout))

    def add(memory: stream.Stream, rollout: Rollout) -> stream.Stream:
        return stream.append(memory, rollout, frame_stack)[0]

    def sample(memory: stream.Stream, key: Key) -> Sample:
        rows, num_envs = memory.steps.reward.shape
        drawn = jax.random.randint(key, (batch_size,), 0, memory.count * num_envs, jnp.int32)
        row = (memory.head - 1 - drawn // num_envs) % rows
        index = row * num_envs + drawn % num_envs
        batch, discount = stream.item(memory, index, n_step, gamma, frame_stack)
        steps = stream.path(memory, index, n_step, frame_stack) if path else None
        return Sample(batch, discount, jnp.ones((batch_size,), jnp.float32), index, steps)

    return Buffer(init, add, sample, lambda memory, index, priority: memory)
