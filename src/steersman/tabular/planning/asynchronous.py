"""Value iteration one state at a time: Gauss-Seidel sweeps and prioritized sweeping."""

from __future__ import annotations

import heapq
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from steersman.tabular.mdp import MDP
from steersman.tabular.planning.bounds import certify, rounding, size
from steersman.tabular.planning.dynamic_programming import Solution, ending, endless, patience


def gauss_seidel(mdp: MDP, *, tol: float = 1e-8, block: int | None = None, max_sweeps: int = 100_000) -> Solution:
    """Value iteration in place: each block of states uses what the blocks before it have just become.

    ``block`` states are backed up together: 1 is the textbook's Gauss-Seidel; the default grows with the problem, so
    that a sweep has at most about 1000 sequential steps. Stops when the certificate of the value is below ``tol``.
    (Puterman 1994, section 6.3.3; Bertsekas 2012, volume II, section 2.2.)
    """
    s = mdp.num_states
    width = max(1, s // 1000) if block is None else block
    blocks = -(-s // width)
    with jax.enable_x64(True):
        table = mdp.on_device
        value, gamma = jnp.zeros(s, jnp.float64), jnp.asarray(mdp.gamma, jnp.float64)
    target = tol * (1 - mdp.gamma) if mdp.gamma < 1 else tol
    done, bound, now = 0, float("inf"), np.zeros(s)
    for _ in range(max_sweeps):
        done += 1
        with jax.enable_x64(True):
            value, change = _sweep(value, *table, gamma, size=width, blocks=blocks)
        if done % patience(mdp) == 0 and endless(mdp, mdp.lookahead(np.array(value)).argmax(-1)):
            break
        small = float(change)
        floor = rounding(mdp, 2 * float(np.abs(now).max()) + size(mdp.reward))
        if small <= max(target, floor):
            now = np.array(value)
            bound = certify(mdp, now, mdp.lookahead(now))
            if bound <= tol or small <= floor:
                break
            target = small * min(tol / bound, 0.5)
    now = np.array(value)
    q = mdp.lookahead(now)
    bound = certify(mdp, now, q)
    policy = q.argmax(-1).astype(np.int32)
    found = Solution(now, policy, bound, 2 * bound, done, bound <= tol, "Gauss-Seidel value iteration")
    return ending(mdp, found, tol) if done < max_sweeps else found


@partial(jax.jit, static_argnames=("size", "blocks"))
def _sweep(value, succ, prob, reward, gamma, *, size: int, blocks: int):
    s = value.shape[0]

    def one(i, carry):
        v, change = carry
        rows = jnp.minimum(i * size, s - size) + jnp.arange(size)  # the last block overlaps the one before it
        new = jnp.max(reward[rows] + gamma * jnp.sum(prob[rows] * v[succ[rows]], -1), -1)
        return v.at[rows].set(new), jnp.maximum(change, jnp.max(jnp.abs(new - v[rows])))

    return jax.lax.fori_loop(0, blocks, one, (value, jnp.zeros((), value.dtype)))


def prioritized_sweeping(mdp: MDP, *, tol: float = 1e-8, max_backups: int = 10_000_000) -> Solution:
    """Back up the state whose Bellman error is largest, then look again at its predecessors.

    Good where changes travel from a few places (a goal): states with no error are never touched. ``iterations`` counts
    single-state backups. (Moore & Atkeson 1993; Sutton & Barto 2018, section 8.4, with a known model.)
    """
    s, a, k = mdp.successors.shape
    rows = np.repeat(np.arange(s), a * k)
    keep = mdp.probabilities.ravel() > 0
    links = sp.csc_matrix((np.ones(int(keep.sum())), (rows[keep], mdp.successors.ravel()[keep])), shape=(s, s))
    links.sum_duplicates()
    value = np.zeros(s)
    error = mdp.lookahead(value).max(-1) - value
    priority = np.abs(error)
    threshold = 0.5 * tol * (1 - mdp.gamma) if mdp.gamma < 1 else 1e-3 * tol
    heap = [(-p, i) for i, p in enumerate(priority) if p > threshold]
    heapq.heapify(heap)
    count = 0
    while heap and count < max_backups:
        p, i = heapq.heappop(heap)
        if -p != priority[i]:  # an older entry: the state has been looked at since
            continue
        value[i] = _state_backup(mdp, value, np.array([i]))[0]
        count += 1
        if count % (patience(mdp) * s) == 0 and endless(mdp, mdp.lookahead(value).argmax(-1)):
            break
        touched = np.union1d(links.indices[links.indptr[i] : links.indptr[i + 1]], [i])
        priority[touched] = np.abs(_state_backup(mdp, value, touched) - value[touched])
        for j in touched:
            if priority[j] > threshold:
                heapq.heappush(heap, (-priority[j], int(j)))
    q = mdp.lookahead(value)
    bound = certify(mdp, value, q)
    policy = q.argmax(-1).astype(np.int32)
    found = Solution(value, policy, bound, 2 * bound, count, bound <= tol, "prioritized sweeping")
    return ending(mdp, found, tol) if count < max_backups else found


def _state_backup(mdp: MDP, value: np.ndarray, states: np.ndarray) -> np.ndarray:
    expected = (mdp.probabilities[states] * value[mdp.successors[states]]).sum(-1)
    return (mdp.reward[states] + mdp.gamma * expected).max(-1)
