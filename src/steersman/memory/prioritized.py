"""Proportional prioritized replay (Schaul et al. 2016, arXiv:1511.05952)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from steersman.memory import stream, sum_tree
from steersman.memory.buffer import Buffer, Sample
from steersman.theory.exploration import linear
from steersman.types import Array, Key, Rollout


class Prioritized(NamedTuple):
    """The state: what was seen, the priorities p^alpha over it, and what the schedule and new items need."""

    stream: stream.Stream
    tree: sum_tree.SumTree  # of p_i^alpha
    largest: jax.Array  # the largest p^alpha so far: what a new item gets
    rows: jax.Array  # int32, rows added so far: the clock of beta's schedule


def prioritized(
    capacity: int,
    batch_size: int,
    *,
    n_step: int = 1,
    gamma: float | Array = 0.99,
    frame_stack: int = 1,
    path: bool = False,
    alpha: float | Array = 0.6,
    beta: float | Array = 0.4,
    beta_steps: int = 0,
    epsilon: float = 1e-6,
) -> Buffer:
    """As ``uniform``, but P(i) = p_i^alpha / sum_k p_k^alpha, with weights that undo the bias of it.

        p_i = |priority_i| + epsilon        weight_i = (count P(i))^-beta / max over the batch

    A new item has the largest priority so far. beta rises from ``beta`` to 1 in a straight line over ``beta_steps``
    environment steps; 0 keeps it. Draws are stratified: one from each of N equal shares of the sum.
    """

    def init(first_rollout: Rollout) -> Prioritized:
        held = stream.empty(first_rollout, capacity, frame_stack)
        tree = sum_tree.empty(held.steps.reward.size)
        memory = Prioritized(held, tree, jnp.ones((), jnp.float32), jnp.zeros((), jnp.int32))
        return add(memory, stream.newest(held, first_rollout))

    def add(memory: Prioritized, rollout: Rollout) -> Prioritized:
        held, left = stream.append(memory.stream, rollout, frame_stack)
        rows, num_envs = held.steps.reward.shape
        length = rollout.reward.shape[0]
        added = (held.head - 1 - jnp.arange(length, dtype=jnp.int32)) % rows
        row = jnp.concatenate([added, left.row])
        changed = jnp.concatenate([jnp.ones((length,), bool), left.gone])
        here = (held.head - 1 - row) % rows < held.count
        index = row[:, None] * num_envs + jnp.arange(num_envs, dtype=jnp.int32)[None]
        index = jnp.where(changed[:, None], index, sum_tree.NOWHERE).reshape(-1)
        value = jnp.repeat(jnp.where(here, memory.largest, 0.0), num_envs)
        tree = sum_tree.put(memory.tree, index, value)
        return Prioritized(held, tree, memory.largest, jnp.minimum(memory.rows + length, 2**30))

    def sample(memory: Prioritized, key: Key) -> Sample:
        index, held = sum_tree.stratified(memory.tree, key, batch_size)
        num_envs = memory.stream.steps.reward.shape[1]
        count = (memory.stream.count * num_envs).astype(jnp.float32)
        power = jnp.asarray(beta, jnp.float32)
        if beta_steps:
            power = linear(memory.rows.astype(jnp.float32) * num_envs, beta, 1.0, beta_steps)
        chance = held / sum_tree.total(memory.tree)
        weight = jnp.power(count * chance, -power)
        batch, discount = stream.item(memory.stream, index, n_step, gamma, frame_stack)
        steps = stream.path(memory.stream, index, n_step, frame_stack) if path else None
        return Sample(batch, discount, weight / weight.max(), index, steps)

    def update(memory: Prioritized, index: Array, priority: Array) -> Prioritized:
        value = jnp.power(jnp.abs(jnp.asarray(priority)) + epsilon, jnp.asarray(alpha, jnp.float32))
        tree = sum_tree.put(memory.tree, index, value)
        return memory._replace(tree=tree, largest=jnp.maximum(memory.largest, value.max()))

    return Buffer(init, add, sample, update)
