"""The two ways to collect a rollout: a scan over compiled environments, a Python loop over host ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from steersman.types import Agent, Array, DeviceEnvs, HostEnvs, Key, PyTree, Rollout, TimeStep


class Acting(NamedTuple):
    """Where the environments and the acting agent stand between two unrolls. Every leading axis is ``[B]``."""

    envs: PyTree  # the state of compiled environments; () for host ones
    obs: PyTree
    first: Array  # bool: obs opens an episode
    carry: PyTree  # the agent's acting memory


class Episodes(NamedTuple):
    """Episodes that ended during an unroll, as sums, so that they add up over unrolls and shards."""

    count: Any
    returns: Any
    lengths: Any


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
    """Buffers ``[T, B, ...]`` filled by a Python loop; one set is reused by every unroll of the same length."""

    def __init__(self) -> None:
        self._store: list[np.ndarray] = []

    def unroll(
        self, act: Callable[..., Any], envs: HostEnvs, acting: Acting, length: int, *, cut: bool = False
    ) -> tuple[Acting, Rollout, Episodes]:
        """As ``unroll``, on host environments.

        act: ``(carry, obs, first, t) -> (action, carry, extras)``, compiled. cut: end every episode at the last step
        as a truncation, because the environments are about to be reset (a checkpoint).
        """
        count, total_return, total_length = 0, 0.0, 0
        obs, first, carry = acting.obs, acting.first, acting.carry
        structure = None
        for t in range(length):
            action, carry, extras = act(carry, obs, first, t)
            native = jax.tree.map(np.asarray, action)
            seen = envs.step(native)
            ended = seen.terminated | seen.truncated
            truncated = seen.truncated
            if ended.any():
                episodes = finished(seen, np)
                count += int(episodes.count)
                total_return += float(episodes.returns)
                total_length += int(episodes.lengths)
            if cut and t == length - 1:
                truncated = truncated | ~seen.terminated
            taken = Rollout(
                obs, native, seen.reward, seen.terminated, truncated, seen.final_obs, first, seen.costs, extras
            )
            self._write(t, length, taken)
            obs, first = seen.obs, ended
            structure = jax.tree.structure(taken) if structure is None else structure
        assert structure is not None, "an unroll has at least one step"
        rollout = jax.tree.unflatten(structure, self._store)
        return Acting((), obs, first, carry), rollout, Episodes(count, total_return, total_length)

    def _write(self, t: int, length: int, taken: Rollout) -> None:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(taken)]
        if not self._store or self._store[0].shape[0] != length:
            self._store = [np.empty((length, *leaf.shape), leaf.dtype) for leaf in leaves]
        for store, leaf in zip(self._store, leaves, strict=True):
            store[t] = leaf
