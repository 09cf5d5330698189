"""Every frame once: what an environment showed, as one stream of frames per environment.

Transition t needs the observation before it and the true one after it. The one after it is the one before the next
transition, unless the episode ended there. So each environment has a ring of frames, written in the order they were
seen, and a transition knows the ``slot`` of its first one:

    episode of 3 steps, then another:   o0 o1 o2 o3 | o0' o1' ...        transition t: frames slot_t and slot_t + 1

The true successor is always the next frame: an episode of n steps takes n + 1. Where the observation is itself a stack
of the S newest frames, only the newest is written, and all S of an episode's first: n + S frames, and the stack at a
slot is frames slot - S + 1 ... slot, whatever the environment pads the first with.

There is room for one frame per transition and an eighth more. Where episodes are so short that this does not hold them
(under 8 S steps on average), the oldest transitions leave before the capacity is reached.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from steersman.errors import UsageError
from steersman.types import Array, PyTree, Rollout


class First(NamedTuple):
    """Frames [F, B, H, W, ...] of an observation [S, H, W, ...]. A type of its own: the state itself says the axis."""

    frame: jax.Array


class Last(NamedTuple):
    """Frames [F, B, H, W] of an observation [H, W, S]."""

    frame: jax.Array


class Steps(NamedTuple):
    """What a transition is beside its observations, ``[L, B, ...]``."""

    action: PyTree
    reward: Array
    terminated: Array
    truncated: Array
    first: Array
    costs: Array
    extras: Any
    slot: jax.Array  # int32: of the newest frame of obs, modulo ``_turn(F)``


class Stream(NamedTuple):
    """The state: rings of F frames and of L transitions for each of B environments."""

    frames: PyTree  # [F, B, ...]; stacks as First or Last
    steps: Steps
    head: jax.Array  # int32 in [0, L): where the next row of transitions goes
    count: Any  # int32: the newest ``count`` rows can be sampled
    newest: jax.Array  # int32 [B]: slot of the newest frame


class Left(NamedTuple):
    """Rows that are no longer there although nothing has been written over them: their frames were needed."""

    row: jax.Array  # int32 [K]
    gone: jax.Array  # bool [K]


def rows_of(capacity: int, num_envs: int) -> int:
    """L: rows of a memory for ``capacity`` transitions of ``num_envs`` environments."""
    return max(1, capacity // num_envs)


def empty(rollout: Rollout, capacity: int, stack: int = 1) -> Stream:
    """Rings for ``capacity`` transitions, of the shapes and dtypes of ``rollout`` [T, B, ...], with nothing in them.

    Raises UsageError if ``stack`` is above 1 and no image of the observation has an axis of that size.
    """
    num_envs = rollout.reward.shape[1]
    rows = rows_of(capacity, num_envs)
    room = rows + rows // 8 + 2 * stack + 2

    def ring(x: Array) -> Any:
        make = lambda shape: jnp.zeros((room, num_envs, *shape), x.dtype)
        shape = x.shape[2:]
        if stack == 1 or x.dtype != np.uint8 or len(shape) < 3 or stack not in (shape[0], shape[-1]):
            return make(shape)
        return Last(make(shape[:-1])) if shape[-1] == stack else First(make(shape[1:]))

    frames = jax.tree.map(ring, rollout.obs)
    if stack > 1 and not any(map(_is_stack, jax.tree.leaves(frames, is_leaf=_is_stack))):
        shapes = ", ".join(f"{x.dtype}{list(x.shape[2:])}" for x in jax.tree.leaves(rollout.obs))
        raise UsageError(
            f"frame_stack = {stack}, but no image of the observation has a first or last axis of {stack}: {shapes}. "
            "Set frame_stack to the number of frames in one observation, or to 1."
        )
    parts = rollout.action, rollout.reward, rollout.terminated, rollout.truncated, rollout.first, rollout.costs
    parts = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), (*parts, rollout.extras))
    zero = jnp.zeros((), jnp.int32)
    steps = Steps(*parts, slot=jnp.zeros((rows, num_envs), jnp.int32))
    return Stream(frames, steps, zero, zero, jnp.zeros((num_envs,), jnp.int32))


def newest(stream: Stream, rollout: Rollout) -> Rollout:
    """As much of the end of a rollout as the stream has room for, without the acting memory: that is of whole ones."""
    rows, rollout = stream.steps.reward.shape[0], rollout._replace(carry=())
    return jax.tree.map(lambda x: x[max(0, x.shape[0] - rows) :], rollout)


def append(stream: Stream, rollout: Rollout, stack: int = 1) -> tuple[Stream, Left]:
    """Add T rows, going on where the last rollout stopped. -> (stream, the rows that left early)

    The oldest rows are written over. Raises UsageError where T is above L.
    """
    rows, room = stream.steps.reward.shape[0], jax.tree.leaves(stream.frames)[0].shape[0]
    rollout, length, left = rollout._replace(carry=()), rollout.reward.shape[0], []
    if length > rows:
        raise UsageError(
            f"A rollout of {length} steps does not fit a replay memory of {rows} rows ({rows} steps of each of "
            f"{rollout.reward.shape[1]} environments). Raise replay_capacity, or lower unroll_length."
        )
    most = max(1, room // (stack + 1))  # rows that fit the ring whatever episodes they hold
    for begin in range(0, length, most):
        part = jax.tree.map(lambda x, begin=begin: jnp.asarray(x)[begin : begin + most], rollout)
        opens = jnp.asarray(part.first).astype(bool)
        opens = opens.at[0].set(opens[0] | (stream.count == 0))  # a stream can open in the middle of an episode
        stream, gone = _append(stream, part, opens, stack)
        left.append(gone)
    return stream, jax.tree.map(lambda *x: jnp.concatenate(x), *left)


def _append(stream: Stream, rollout: Rollout, opens: jax.Array, stack: int) -> tuple[Stream, Left]:
    length, num_envs = rollout.reward.shape
    rows, room = stream.steps.reward.shape[0], jax.tree.leaves(stream.frames)[0].shape[0]
    turn = _turn(room)
    written = jnp.cumsum(1 + stack * opens.astype(jnp.int32), axis=0)  # frames, this row's included
    slot = stream.newest[None] + written - 1  # of obs; its successor has the next
    env = jnp.arange(num_envs, dtype=jnp.int32)[None]

    def write(ring: Any, obs: Array, next_obs: Array) -> Any:
        now, after, store = _split(ring, jnp.asarray(obs)), _split(ring, jnp.asarray(next_obs)), _ring(ring)
        back = jnp.arange(1 - now.shape[0], 1, dtype=jnp.int32)[:, None, None]
        at = jnp.where(opens[None], (slot[None] + back) % room, room)  # elsewhere the frame is there already
        store = store.at[at, jnp.broadcast_to(env[None], at.shape)].set(now, mode="drop")
        store = store.at[(slot + 1) % room, jnp.broadcast_to(env, slot.shape)].set(after[-1])
        return type(ring)(store) if _is_stack(ring) else store

    frames = jax.tree.map(write, stream.frames, rollout.obs, rollout.next_obs, is_leaf=_is_stack)
    at = (stream.head + jnp.arange(length, dtype=jnp.int32)) % rows
    extras = {name: rollout.extras[name] for name in stream.steps.extras}
    parts = rollout.action, rollout.reward, rollout.terminated, rollout.truncated, rollout.first, rollout.costs
    new = Steps(*parts, extras, slot % turn)
    steps = jax.tree.map(lambda ring, x: ring.at[at].set(x), stream.steps, new)
    head, newest = (stream.head + length) % rows, (stream.newest + written[-1]) % turn

    # The oldest rows whose frames have been written over leave. A row took a frame, so no more rows than frames left.
    count = jnp.minimum(stream.count + length, rows)
    oldest = jnp.arange(min((stack + 1) * length, rows), dtype=jnp.int32)
    row = (head - count + oldest) % rows
    held = ((newest[None] - steps.slot[row]) % turn <= room - stack).all(-1)
    gone = ~held & (oldest < count)
    return Stream(frames, steps, head, count - gone.sum(dtype=jnp.int32), newest), Left(row, gone)


def item(stream: Stream, index: Array, n: int, gamma: float | Array, stack: int = 1) -> tuple[Rollout, jax.Array]:
    """The items ``index`` [N] = row * B + environment: n steps, or up to an end. -> (batch [N, ...], discount [N]).

    reward = sum_{k < m} gamma^k r_{t+k},  discount = gamma^m (1 - terminated_{t+m-1}),  next_obs = o_{t+m}, with m the
    steps until the episode ends, until the newest step, or n.
    """
    steps = stream.steps
    rows, num_envs = steps.reward.shape
    index = jnp.asarray(index)
    row, env = index // num_envs, index % num_envs
    powers = jnp.power(jnp.asarray(gamma, jnp.float32), jnp.arange(n + 1, dtype=jnp.float32))
    if n == 1:
        last, reward, costs, taken = index, _at(steps.reward, index), _at(steps.costs, index), 1
    else:
        at, going = _ahead(stream, index, n)
        taken = going.sum(1, dtype=jnp.int32)  # m
        scale = jnp.where(going, powers[None, :n], 0.0)
        reward = (scale * _at(steps.reward, at)).sum(1)
        costs = (scale[..., None] * _at(steps.costs, at)).sum(1)
        last = (row + taken - 1) % rows * num_envs + env
    terminated = _at(steps.terminated, last)
    batch = Rollout(
        obs=_look(stream, env, _at(steps.slot, index), stack=stack),
        action=jax.tree.map(lambda x: _at(x, index), steps.action),
        reward=reward,
        terminated=terminated,
        truncated=_at(steps.truncated, last),
        next_obs=_look(stream, env, _at(steps.slot, last) + 1, stack=stack),
        first=_at(steps.first, index),
        costs=costs,
        extras=jax.tree.map(lambda x: _at(x, index), steps.extras),
    )
    return batch, powers[taken] * (1.0 - terminated.astype(jnp.float32))


def path(stream: Stream, index: Array, n: int, stack: int = 1) -> Rollout:
    """The single steps of the same items, [N, n, ...], as ``Sample.path`` has them."""
    at, going = _ahead(stream, jnp.asarray(index), n)
    left = going.sum(1, dtype=jnp.int32)[:, None] - 1 - jnp.arange(n, dtype=jnp.int32)[None]  # steps after this one
    at = jnp.take_along_axis(at, jnp.arange(n, dtype=jnp.int32)[None] + jnp.minimum(left, 0), axis=1)
    single, _ = item(stream, at.reshape(-1), 1, 1.0, stack)
    single = jax.tree.map(lambda x: x.reshape(*at.shape, *x.shape[1:]), single)
    return single._replace(truncated=single.truncated | ((left <= 0) & ~single.terminated))


def _ahead(stream: Stream, index: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """The n steps from each item on, as row * B + environment, and which of them it has: both [N, n]."""
    steps = stream.steps
    rows, num_envs = steps.reward.shape
    row, env = index // num_envs, index % num_envs
    ahead = jnp.arange(n, dtype=jnp.int32)[None]
    at = (row[:, None] + ahead) % rows * num_envs + env[:, None]
    ended = (_at(steps.terminated, at) | _at(steps.truncated, at)).astype(jnp.int32)
    before = jnp.cumsum(ended, axis=1) - ended  # ends before step k
    age = (stream.head - 1 - row) % rows  # 0: the newest
    return at, (before == 0) & (ahead <= age[:, None])


def successor(stream: Stream, row: Array, env: Array, stack: int = 1) -> PyTree:
    """The true observations [N, ...] after the transitions at ``row`` [N] of the environments ``env`` [N]."""
    return _look(stream, env, _at(stream.steps.slot, row * stream.newest.shape[0] + env) + 1, stack=stack)


def _look(stream: Stream, env: Array, slot: Array, *, stack: int) -> PyTree:
    """The observations [N, ...] whose newest frames are at ``slot`` [N]."""
    room, num_envs = jax.tree.leaves(stream.frames)[0].shape[:2]

    def read(ring: Any) -> jax.Array:
        if not _is_stack(ring):
            return _at(ring, slot % room * num_envs + env)
        past = slot[:, None] + jnp.arange(1 - stack, 1, dtype=jnp.int32)[None]
        stacked = _at(ring.frame, past % room * num_envs + env[:, None])  # [N, S, ...]
        return jnp.moveaxis(stacked, 1, -1) if isinstance(ring, Last) else stacked

    return jax.tree.map(read, stream.frames, is_leaf=_is_stack)


def _at(x: Array, index: Array) -> jax.Array:
    """Entries of ``[L, B, ...]`` by row * B + environment. One axis of indices is faster than two."""
    return jnp.asarray(x).reshape(x.shape[0] * x.shape[1], *x.shape[2:])[index]


def _is_stack(x: Any) -> bool:
    return isinstance(x, First | Last)


def _ring(x: Any) -> jax.Array:
    return x.frame if _is_stack(x) else x


def _split(ring: Any, obs: jax.Array) -> jax.Array:
    """An observation ``[T, B, ...]`` as its frames ``[S, T, B, ...]``, oldest first; one that is no stack is one."""
    return jnp.moveaxis(obs, -1 if isinstance(ring, Last) else 2, 0) if _is_stack(ring) else obs[None]


def _turn(room: int) -> int:
    """Slots are counted modulo this: a multiple of the ring, far larger, so that differences of slots are exact."""
    return room * (2**29 // room)
