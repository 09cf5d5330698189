"""The two ways to collect a rollout: a scan over compiled environments, a Python loop over host ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from steersman.run.packing import Packing
from steersman.types import Agent, Array, DeviceEnvs, HostEnvs, Key, PyTree, Rollout, TimeStep

_ONE = b"\1"  # in the bytes of flags: 0.1 us, where .any() takes 1.3


class Acting(NamedTuple):
    """Where the environments and the acting agent stand between two unrolls. Every leading axis is ``[B]``."""

    envs: PyTree  # the state of compiled environments; of host ones, what their loop keeps between two updates
    obs: PyTree
    first: Array  # bool: obs opens an episode
    carry: PyTree  # the agent's acting memory


class Seen(NamedTuple):
    """What a host agent acts on at one step."""

    obs: PyTree
    first: Any
    key: Array  # the bits of the key to act with


class Episodes(NamedTuple):
    """Episodes that ended during an unroll, as sums, so that they add up over unrolls and shards."""

    count: Any
    returns: Any
    lengths: Any

    def plus(self, other: Episodes) -> Episodes:
        return Episodes(self.count + other.count, self.returns + other.returns, self.lengths + other.lengths)


def begin(agent: Agent, envs: DeviceEnvs, key: Key, **reset: Any) -> Acting:
    """Reset compiled environments and the acting memory."""
    state, obs = envs.reset(key, **reset)
    num = jax.tree.leaves(obs)[0].shape[0]
    return Acting(state, obs, jnp.ones((num,), bool), agent.begin(num))


Act = Callable[[PyTree, PyTree, Array, Key], tuple[PyTree, PyTree, dict[str, Any]]]  # (carry, obs, first, key)


def unroll(act: Act, envs: DeviceEnvs, acting: Acting, key: Key, length: int) -> tuple[Acting, Rollout, Episodes]:
    """Let ``act`` (an agent's, its state bound) play ``length`` steps: a scan, to be compiled with what uses it.

    -> (where things stand now, the rollout [T, B, ...], the episodes that ended)
    """

    def step(now: Acting, t: jax.Array):
        action, carry, extras = act(now.carry, now.obs, now.first, jax.random.fold_in(key, t))
        state, seen = envs.step(now.envs, action)
        ended = seen.terminated | seen.truncated
        taken = Rollout(
            now.obs, action, seen.reward, seen.terminated, seen.truncated, seen.final_obs, now.first, seen.costs, extras
        )
        return Acting(state, seen.obs, ended, carry), (taken, finished(seen, jnp))

    acting, (rollout, episodes) = jax.lax.scan(step, acting, jnp.arange(length, dtype=jnp.int32))
    return acting, rollout, jax.tree.map(lambda x: x.sum(0), episodes)


def finished(seen: TimeStep, xp: Any) -> Episodes:
    """Sums over the members whose episode ended at this step."""
    ended = seen.over
    returns, lengths = seen.info["episode_return"], seen.info["episode_length"]
    zero = xp.zeros((), returns.dtype)
    return Episodes(
        ended.sum(dtype=xp.int32),
        xp.where(ended, returns, zero).sum(),
        xp.where(ended, lengths, xp.zeros((), lengths.dtype)).sum(dtype=xp.int32),
    )


class HostRollout:
    """A rollout of host environments: one row of bytes a step, ``[T + 1, ...]``, filled by a Python loop.

    A row holds what the agent saw, what it did and what came of it; the last row only what it sees next. So a step
    hands one array to the compiled program that acts and reads one back, and an update is given one for all.
    """

    def __init__(self, obs: PyTree, acted: tuple[PyTree, PyTree], costs: Any, length: int):
        num = costs.shape[0]
        number, flag = jax.ShapeDtypeStruct((num,), np.float32), jax.ShapeDtypeStruct((num,), np.bool_)
        seen = Seen(obs, flag, jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))))
        self.length, self.seen, self.acted, self._action = length, Packing(seen), Packing(acted), Packing(acted[0])
        self.outcome = Packing((number, flag, flag, obs, costs))
        self._act = self.seen.size
        self._out = self._act + self.acted.size
        self.rows = np.zeros((length + 1, self._out + self.outcome.size), np.uint8)
        *self._obs, self._first, self._key = self.seen.views(self.rows[:, : self._act])
        self._outcome = self.outcome.views(self.rows[:, self._out :])
        self._leaves = jax.tree.leaves if isinstance(obs, dict | tuple) else lambda obs: (obs,)

    def begin(self, acting: Acting, keys: Array, following: Array | None = None) -> np.ndarray:
        """Start anew, with the bits of a key for each step ``[T, ...]``; -> the first row of Seen.

        following: the bits for the next rollout, if its first action is to be chosen from this one's last row.
        """
        self._key[:-1] = keys
        if following is not None:
            self._key[-1] = following[0]
        self._see(0, acting.obs, acting.first)
        return self.first_seen

    def unroll(
        self, choose: Callable[..., Any], envs: HostEnvs, acting: Acting, chosen: Any, *, cut: bool = False
    ) -> tuple[Acting, Episodes]:
        """Play one unroll, as ``unroll`` does, after ``begin``.

        choose: ``(row of Seen, carry) -> (row of acted, carry)``, compiled; chosen: what it gave for the first row.
        cut: end every episode at the last step as a truncation, because the environments are about to be reset (a
        checkpoint).
        """
        count, total_return, total_length = 0, 0.0, 0
        step, first, carry, action = None, acting.first, acting.carry, self._action
        rows, act, out, last = self.rows, self._act, self._out, self.length - 1
        reward, terminated, truncated, *final_obs, costs = self._outcome
        for t in range(self.length):
            acted, carry = chosen
            rows[t, act:out] = acted = np.asarray(acted)
            step = envs.step(action.tree(action.views(acted)))
            first = step.terminated | step.truncated
            reward[t], terminated[t], truncated[t], costs[t] = step.reward, step.terminated, step.truncated, step.costs
            for view, leaf in zip(final_obs, self._leaves(step.final_obs), strict=True):
                view[t] = leaf
            if _ONE in first.tobytes():
                episodes = finished(step, np)
                count += int(episodes.count)
                total_return += float(episodes.returns)
                total_length += int(episodes.lengths)
            if t == last:
                if cut:
                    truncated[t] |= ~step.terminated
                self._see(t + 1, step.obs, first)
                return Acting((), step.obs, first, carry), Episodes(count, total_return, total_length)
            self._see(t + 1, step.obs, first)
            chosen = choose(rows[t + 1, :act], carry)
        raise ValueError("an unroll has at least one step")

    def _see(self, t: int, obs: PyTree, first: Array) -> None:
        for view, leaf in zip(self._obs, self._leaves(obs), strict=True):
            view[t] = leaf
        self._first[t] = first

    @property
    def first_seen(self) -> np.ndarray:
        """The row of Seen that the rollout begins with."""
        return self.rows[0, : self._act]

    # In compiled code.

    def next_seen(self, rows: jax.Array) -> jax.Array:
        """The row of Seen that follows the rollout."""
        return rows[-1, : self._act]

    def rollout(self, rows: jax.Array) -> Rollout:
        """``rows`` -> the rollout [T, B, ...]."""
        rows = rows[:-1]
        seen = self.seen.unpack(rows[:, : self._act])
        action, extras = self.acted.unpack(rows[:, self._act : self._out])
        reward, terminated, truncated, final_obs, costs = self.outcome.unpack(rows[:, self._out :])
        return Rollout(seen.obs, action, reward, terminated, truncated, final_obs, seen.first, costs, extras)


def unroll_host(act: Callable[..., Any], envs: HostEnvs, length: int) -> Callable[..., tuple[Acting, Rollout]]:
    """As ``unroll``, over host environments, for a policy that does not learn meanwhile.

    act: ``(state, carry, obs, first, key) -> (action, carry, extras)``. -> ``play(state, acting, key)``, which gives
    where things stand then and the rollout [length, B, ...]; each call writes over the rows of the last rollout.
    """
    buffer: HostRollout | None = None
    programs: dict[str, Any] = {}

    def play(state: PyTree, acting: Acting, key: Key) -> tuple[Acting, Rollout]:
        nonlocal buffer
        if buffer is None:
            action, _, extras = jax.eval_shape(act, state, acting.carry, acting.obs, acting.first, key)
            costs = np.zeros((envs.num_envs, envs.spec.num_costs), np.float32)
            buffer = made = HostRollout(acting.obs, (action, extras), costs, length)

            def choose(state: PyTree, row: jax.Array, carry: PyTree):
                seen = made.seen.unpack(row)
                action, carry, extras = act(state, carry, seen.obs, seen.first, jax.random.wrap_key_data(seen.key))
                return made.acted.pack((action, extras)), carry

            programs.update(choose=jax.jit(choose), rollout=jax.jit(made.rollout))
        steps = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(length, dtype=jnp.int32))
        choose = partial(programs["choose"], state)
        row = buffer.begin(acting, np.asarray(jax.random.key_data(steps)))
        acting, _ = buffer.unroll(choose, envs, acting, choose(row, acting.carry))
        return acting, programs["rollout"](buffer.rows)

    return play
