"""Replay of sequences, for what remembers (Kapturowski et al. 2019, R2D2).

Rollouts come in unrolls of P steps, each with the acting memory as it was before its first row: one carry for each
unroll and environment is stored, and sequences of S steps begin where unrolls do.

    rows        0 ........ P ........ 2P ....... 3P ... newest |  (seam of the ring)  | oldest ...
    carry       c_0        c_1        c_2        c_3
    a sequence             [----------- S ----------]

No sequence crosses the seam; episodes may end inside one: ``first`` says where memory is to be emptied. One that begins
near the newest step is not all there yet: what is missing repeats that step, with weight 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.memory import stream, sum_tree
from steersman.memory.buffer import Buffer, Sample
from steersman.theory.exploration import linear
from steersman.types import Array, Key, PyTree, Rollout


class Priorities(NamedTuple):
    """Of prioritized sequences."""

    tree: sum_tree.SumTree  # of p^alpha, by where a sequence begins: unroll * B + environment
    largest: jax.Array  # so far: what a new one gets
    rows: jax.Array  # int32, rows added so far: the clock of beta's schedule


class Sequences(NamedTuple):
    """The state: rings of L rows and of L / P carries, L a multiple of P."""

    stream: stream.Stream
    carry: PyTree  # before each unroll [L / P, B, ...]
    known: jax.Array  # bool [L / P]: it is what acting had
    priorities: Any  # Priorities; () where all sequences are as likely


def sequences(
    capacity: int,
    batch_size: int,
    length: int,
    *,
    period: int,
    gamma: float | Array = 0.99,
    frame_stack: int = 1,
    stored_carry: bool = True,
    prioritized: bool = False,
    alpha: float | Array = 0.9,
    beta: float | Array = 0.6,
    beta_steps: int = 0,
    epsilon: float = 1e-6,
) -> Buffer:
    """A memory of the newest ``capacity`` transitions, drawn as N = ``batch_size`` sequences of S = ``length`` steps.

    A ``Sample`` has time first: batch [S, N, ...] of single steps with ``batch.carry`` [N, ...], the acting memory
    before the first row; discount = gamma (1 - terminated) [S, N]; weight [S, N], 0 for rows that are not there yet;
    index [N]. The newest row counts as truncated. Where no carry was stored (random play before learning, recorded
    data), or without ``stored_carry``, the first row is marked ``first``: memory begins anew there.

    period: P, steps of one unroll; what is added has a whole number of them, but for the first rollout, whose oldest
    rows are left out. prioritized: as ``memory.prioritized``, over sequences (``sequence_priority``). Raises
    UsageError, from ``init``, for a capacity that does not hold a sequence, whatever episodes there are.
    """

    def init(first_rollout: Rollout) -> Sequences:
        num_envs = first_rollout.reward.shape[1]
        rows = stream.rows_of(capacity, num_envs) // period * period
        least = -(-(frame_stack + 1) * max(length, period) // period) * period
        if rows < least:
            raise UsageError(
                f"replay_capacity = {capacity:,} is too small for sequences of {length} steps: with num_envs "
                f"{num_envs} and unroll_length {period} it must be {least * num_envs:,} or more. Raise it, or lower "
                "sequence_length."
            )
        held = stream.empty(first_rollout, rows * num_envs, frame_stack)
        unrolls = rows // period
        carry = jax.tree.map(lambda x: jnp.zeros((unrolls, *jnp.shape(x)), jnp.asarray(x).dtype), first_rollout.carry)
        priorities: Any = ()
        if prioritized:
            tree = sum_tree.empty(unrolls * num_envs)
            priorities = Priorities(tree, jnp.ones((), jnp.float32), jnp.zeros((), jnp.int32))
        memory = Sequences(held, carry, jnp.zeros((unrolls,), bool), priorities)
        whole = min(first_rollout.reward.shape[0] // period * period, rows)
        if not whole:
            return memory
        part = first_rollout._replace(carry=())
        newest = jax.tree.map(lambda x: x[x.shape[0] - whole :], part)
        return _added(memory, newest._replace(carry=first_rollout.carry), known=False)

    def add(memory: Sequences, rollout: Rollout) -> Sequences:
        steps = rollout.reward.shape[0]
        if steps % period:
            raise UsageError(f"A rollout of {steps} steps is no whole number of unrolls of period = {period}.")
        return _added(memory, rollout, known=True)

    def _added(memory: Sequences, rollout: Rollout, known: bool) -> Sequences:
        unrolls, rows = memory.known.shape[0], memory.stream.steps.reward.shape[0]
        new, num_envs = rollout.reward.shape[0] // period, rollout.reward.shape[1]
        at = (memory.stream.head // period + jnp.arange(new, dtype=jnp.int32)) % unrolls
        held, left = stream.append(memory.stream, rollout, frame_stack)
        carry = jax.tree.map(lambda ring, x: ring.at[at[0]].set(x), memory.carry, rollout.carry)
        is_known = jnp.arange(new) == 0 if known and stored_carry else jnp.zeros((new,), bool)
        memory = memory._replace(stream=held, carry=carry, known=memory.known.at[at].set(is_known))
        if not prioritized:
            return memory
        old = memory.priorities
        start = jnp.concatenate([at * period, left.row])
        changed = jnp.concatenate([jnp.ones((new,), bool), left.gone & (left.row % period == 0)])
        there = (held.head - 1 - start) % rows < held.count
        index = (start // period)[:, None] * num_envs + jnp.arange(num_envs, dtype=jnp.int32)[None]
        index = jnp.where(changed[:, None], index, sum_tree.NOWHERE).reshape(-1)
        tree = sum_tree.put(old.tree, index, jnp.repeat(jnp.where(there, old.largest, 0.0), num_envs))
        return memory._replace(priorities=Priorities(tree, old.largest, jnp.minimum(old.rows + new * period, 2**30)))

    def sample(memory: Sequences, key: Key) -> Sample:
        held, unrolls = memory.stream, memory.known.shape[0]
        rows, num_envs = held.steps.reward.shape
        count = jnp.maximum(held.count // period, 1) * num_envs
        if prioritized:
            index, share = sum_tree.stratified(memory.priorities.tree, key, batch_size)
            power = jnp.asarray(beta, jnp.float32)
            if beta_steps:
                power = linear(memory.priorities.rows.astype(jnp.float32) * num_envs, beta, 1.0, beta_steps)
            chance = share / sum_tree.total(memory.priorities.tree)
            weight = jnp.power(count.astype(jnp.float32) * chance, -power)
            weight = weight / weight.max()
        else:
            drawn = jax.random.randint(key, (batch_size,), 0, count, jnp.int32)
            unroll = (held.head // period - 1 - drawn // num_envs) % unrolls
            index, weight = unroll * num_envs + drawn % num_envs, jnp.ones((batch_size,), jnp.float32)
        unroll, env = index // num_envs, index % num_envs
        there = (held.head - 1 - unroll * period) % rows + 1  # rows from its first to the newest
        step, left = jnp.arange(length, dtype=jnp.int32)[:, None], there[None] - 1
        row = ((unroll * period)[None] + jnp.minimum(step, left)) % rows
        batch, discount = stream.item(held, (row * num_envs + env[None]).reshape(-1), 1, gamma, frame_stack)
        fold = lambda x: x.reshape(length, batch_size, *x.shape[1:])
        batch, discount = jax.tree.map(fold, (batch, discount))
        opens = (step == 0) & ~memory.known[unroll][None]
        batch = batch._replace(
            truncated=batch.truncated | ((step >= left) & ~batch.terminated),
            first=batch.first | opens,
            carry=jax.tree.map(lambda x: x[unroll, env], memory.carry),
        )
        whole = jnp.where(there >= length, index, sum_tree.NOWHERE)  # until then it stays as likely as a new one
        return Sample(batch, discount, jnp.where(step <= left, weight[None], 0.0), whole)

    def update(memory: Sequences, index: Array, priority: Array) -> Sequences:
        if not prioritized:
            return memory
        old = memory.priorities
        value = jnp.power(jnp.abs(jnp.asarray(priority)) + epsilon, jnp.asarray(alpha, jnp.float32))
        largest = jnp.where(jnp.asarray(index) < sum_tree.NOWHERE, value, 0.0).max()
        tree = sum_tree.put(old.tree, index, value)
        return memory._replace(priorities=old._replace(tree=tree, largest=jnp.maximum(old.largest, largest)))

    return Buffer(init, add, sample, update)


def sequence_priority(priority: Array, eta: float = 0.9) -> jax.Array:
    """p = eta max_t |p_t| + (1 - eta) mean_t |p_t|, of single steps [S, N] -> [N]. Kapturowski et al. (2019), 2.3.

    >>> float(sequence_priority(jnp.array([[1.0], [-3.0]]), eta=0.5))
    2.5
    """
    size = jnp.abs(jnp.asarray(priority))
    return eta * size.max(0) + (1.0 - eta) * size.mean(0)
