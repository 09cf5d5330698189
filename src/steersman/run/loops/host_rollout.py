"""Rollouts of host environments: a Python loop that fills rows of bytes (``steersman.unroll`` is the compiled scan)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from steersman.episodes import Episodes, episodes_of, logged_names, numbers_of
from steersman.run.loops.packing import Packing
from steersman.types import Array, HostEnvs, Key, PyTree, Rollout
from steersman.unroll import Acting

_ONE = b"\1"  # in the bytes of flags: 0.1 us, where .any() takes 1.3


class Seen(NamedTuple):
    """What a host agent acts on at one step."""

    obs: PyTree
    first: Any
    key: Array  # the bits of the key to act with


class HostRollout:
    """A rollout of host environments: one row of bytes a step, ``[T + 1, ...]``, filled by a Python loop.

    A row holds what the agent saw, what it did and what came of it; the last row only what it sees next. So a step
    hands one array to the compiled program that acts and reads one back, and an update is given one for all. log:
    entries of ``info`` that are counted of episodes too.
    """

    def __init__(self, obs: PyTree, acted: tuple[PyTree, PyTree], costs: Any, length: int, log: Sequence[str] = ()):
        num, self._log = costs.shape[0], log
        self.no_episodes = episodes_of([], costs.shape[1], logged_names(log))
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
        self.carry: PyTree = ()  # the acting memory before the first row

    def begin(self, acting: Acting, keys: Array, following: Array | None = None) -> np.ndarray:
        """Start anew, with the bits of a key for each step ``[T, ...]``; -> the first row of Seen.

        following: the bits for the next rollout, if its first action is to be chosen from this one's last row.
        """
        self._key[:-1] = keys
        if following is not None:
            self._key[-1] = following[0]
        self.carry = acting.carry
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
        ended: list[dict[str, Any]] = []
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
                numbers = numbers_of(envs.spec, step, self._log)
                ended += [{name: x[i] for name, x in numbers.items()} for i in np.flatnonzero(step.over)]
            if t == last:
                if cut:
                    truncated[t] |= ~step.terminated
                self._see(t + 1, step.obs, first)
                episodes = episodes_of(ended, envs.spec.num_costs, logged_names(self._log)) if ended else None
                return Acting((), step.obs, first, carry), episodes or self.no_episodes
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

    @property
    def played(self) -> tuple[np.ndarray, PyTree]:
        """What ``rollout`` is given."""
        return self.rows, self.carry

    # In compiled code.

    def next_seen(self, rows: jax.Array) -> jax.Array:
        """The row of Seen that follows the rollout."""
        return rows[-1, : self._act]

    def rollout(self, rows: jax.Array, carry: PyTree) -> Rollout:
        """``rows``, and the ``carry`` before the first -> the rollout [T, B, ...]."""
        rows = rows[:-1]
        seen = self.seen.unpack(rows[:, : self._act])
        action, extras = self.acted.unpack(rows[:, self._act : self._out])
        reward, terminated, truncated, final_obs, costs = self.outcome.unpack(rows[:, self._out :])
        return Rollout(seen.obs, action, reward, terminated, truncated, final_obs, seen.first, costs, extras, carry)


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
        return acting, programs["rollout"](*buffer.played)

    return play
