"""The Bellman backups that every planner is made of, small in numpy and large in compiled float64.

Large sparse tables keep the layout [S, A, K]: the backup of one state reads one contiguous run of memory and K * A
entries of the value, and all of it is one fused loop over the states.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from steersman.tabular.mdp import MDP

COMPILED_FROM = 200_000  # table entries; below this, numpy finishes before a compilation would
UNROLL_UP_TO = 64  # successors per state, A * K: beyond this the fused loop's code would grow too large


class Backups(NamedTuple):
    """Backups of one MDP. Values are arrays [S] of the backend's kind; ``host`` brings one back as float64 numpy."""

    best: Callable[[Any], Any]  # v -> max_a q(., a)
    greedy: Callable[[Any], np.ndarray]  # v -> argmax_a q(., a), int32 [S]
    follow: Callable[[np.ndarray], Callable[[Any], Any]]  # policy [S] -> (v -> r_pi + gamma P_pi v)
    spread: Callable[[Any, Any], tuple[float, float]]  # (w, v) -> min and max of w - v
    put: Callable[[np.ndarray], Any]
    host: Callable[[Any], np.ndarray]


def backups(mdp: MDP, gamma: float | None = None) -> Backups:
    """The backups of ``mdp`` with its own gamma, or another one."""
    gamma = mdp.gamma if gamma is None else gamma
    large = mdp.successors.size >= COMPILED_FROM and not mdp.is_dense
    return _compiled(mdp, gamma) if large else _plain(mdp, gamma)


def _plain(mdp: MDP, gamma: float) -> Backups:
    def follow(policy: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        matrix, reward = mdp.policy_matrix(policy)
        return lambda v: reward + gamma * (matrix @ v)

    return Backups(
        best=lambda v: mdp.lookahead(v, gamma).max(-1),
        greedy=lambda v: mdp.lookahead(v, gamma).argmax(-1).astype(np.int32),
        follow=follow,
        spread=lambda w, v: (float((w - v).min()), float((w - v).max())),
        put=lambda v: np.asarray(v, np.float64),
        host=lambda v: v,
    )


def _compiled(mdp: MDP, gamma: float) -> Backups:
    with jax.enable_x64(True):
        table = mdp.on_device
        g = jnp.asarray(gamma, jnp.float64)

    def wide(f: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with jax.enable_x64(True):
                return f(*args)

        return call

    def follow(policy: np.ndarray) -> Callable[[Any], Any]:
        narrow = wide(_narrow)(*table, jnp.asarray(policy, jnp.int32))
        return lambda v: wide(_best)(v, *narrow, g)

    def spread(w: Any, v: Any) -> tuple[float, float]:
        low, high = wide(_spread)(w, v)
        return float(low), float(high)

    return Backups(
        best=lambda v: wide(_best)(v, *table, g),
        greedy=lambda v: np.asarray(wide(_greedy)(v, *table, g)),
        follow=follow,
        spread=spread,
        put=lambda v: wide(jnp.asarray)(np.asarray(v, np.float64)),
        host=lambda v: np.array(v),
    )


def _action_values(
    v: jax.Array, succ: jax.Array, prob: jax.Array, reward: jax.Array, gamma: jax.Array
) -> list[jax.Array]:
    """One array [S] per action. Unrolled, so that the backend fuses gather, product, sum and maximum into one loop."""
    _, actions, width = succ.shape
    if actions * width > UNROLL_UP_TO:
        q = reward + gamma * jnp.sum(prob * v.at[succ].get(mode="promise_in_bounds"), -1)
        return [q[:, a] for a in range(actions)]
    values = []
    for a in range(actions):
        expected = prob[:, a, 0] * v.at[succ[:, a, 0]].get(mode="promise_in_bounds")
        for k in range(1, width):
            expected = expected + prob[:, a, k] * v.at[succ[:, a, k]].get(mode="promise_in_bounds")
        values.append(reward[:, a] + gamma * expected)
    return values


@jax.jit
def _best(v: jax.Array, succ: jax.Array, prob: jax.Array, reward: jax.Array, gamma: jax.Array) -> jax.Array:
    return functools.reduce(jnp.maximum, _action_values(v, succ, prob, reward, gamma))


@jax.jit
def _greedy(v: jax.Array, succ: jax.Array, prob: jax.Array, reward: jax.Array, gamma: jax.Array) -> jax.Array:
    values = _action_values(v, succ, prob, reward, gamma)
    best, chosen = values[0], jnp.zeros(v.shape, jnp.int32)
    for a, q in enumerate(values[1:], 1):
        chosen = jnp.where(q > best, jnp.int32(a), chosen)
        best = jnp.maximum(best, q)
    return chosen


@jax.jit
def _narrow(succ: jax.Array, prob: jax.Array, reward: jax.Array, policy: jax.Array) -> tuple[jax.Array, ...]:
    """The table of one policy, [S, 1, K]: 1/A of the memory to read. Selections stream; a gather of rows would not."""
    succ_pi, prob_pi, reward_pi = succ[:, 0], prob[:, 0], reward[:, 0]
    for a in range(1, succ.shape[1]):
        chosen = policy == a
        succ_pi = jnp.where(chosen[:, None], succ[:, a], succ_pi)
        prob_pi = jnp.where(chosen[:, None], prob[:, a], prob_pi)
        reward_pi = jnp.where(chosen, reward[:, a], reward_pi)
    return succ_pi[:, None], prob_pi[:, None], reward_pi[:, None]


@jax.jit
def _spread(w: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.min(w - v), jnp.max(w - v)
