"""The Bellman backups that every planner is made of, over blocks of states that the cores share.

Sparse tables keep the layout [S, A, K]: the backup of one state reads one contiguous run of memory and K * A entries of
the value. A block is a scipy matrix that looks into the table (no copy, nothing to compile), and scipy and numpy let
go of the interpreter while they work, so that threads take blocks side by side. A block's action values stay in cache.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import scipy.sparse as sp

from steersman.tabular.mdp import MDP

BLOCK = 600_000  # table entries: larger blocks leave the cache, smaller ones wait for the interpreter
NARROW_BLOCK = 500_000  # of one policy's table

T = TypeVar("T")
U = TypeVar("U")
Step = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float, float]]


class Backups(NamedTuple):
    """Backups of one MDP; values are float64 [S]."""

    best: Callable[[np.ndarray], np.ndarray]  # v -> max_a q(., a)
    improve: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # (v, policy) -> (max_a q, a better one)
    follow: Callable[[np.ndarray], Step]  # policy [S] -> ((r, x) -> y = r + gamma P_pi x, and min and max of y - x)


def backups(mdp: MDP) -> Backups:
    """The backups of ``mdp``."""
    return _dense(mdp) if mdp.is_dense else _sparse(mdp)


def best_of(q: np.ndarray, out: np.ndarray) -> None:
    """Maximum over the actions of q [n, A]: by columns, as numpy is slow along a short axis."""
    np.copyto(out, q[:, 0])
    for a in range(1, q.shape[1]):
        np.maximum(out, q[:, a], out=out)


def improve_on(policy: np.ndarray, q: np.ndarray, best: np.ndarray) -> None:
    """Change the actions [n] that are not the best of q [n, A]; ties keep theirs."""
    mine = q.reshape(-1).take(np.arange(0, q.size, q.shape[1]) + policy)
    behind = np.flatnonzero(best > mine)
    policy[behind] = q[behind].argmax(-1)


def spread(w: np.ndarray, v: np.ndarray) -> tuple[float, float]:
    """Least and greatest of w - v."""
    change = w - v
    return float(change.min()), float(change.max())


def _dense(mdp: MDP) -> Backups:
    def improve(v: np.ndarray, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = mdp.lookahead(v)
        w, policy = q.max(-1), policy.copy()
        improve_on(policy, q, w)
        return w, policy

    def follow(policy: np.ndarray) -> Step:
        matrix = mdp.probabilities[np.arange(mdp.num_states), policy]

        def step(r: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, float, float]:
            y = r + mdp.gamma * (matrix @ x)
            return y, *spread(y, x)

        return step

    return Backups(lambda v: mdp.lookahead(v).max(-1), improve, follow)


def _sparse(mdp: MDP) -> Backups:
    s, a, k = mdp.successors.shape
    successors, probabilities = mdp.successors.reshape(s * a, k), mdp.probabilities.reshape(s * a, k)
    blocks = [
        (part, _matrix(successors[rows], probabilities[rows], s))
        for part in _parts(s, a * k, BLOCK)
        for rows in [slice(part.start * a, part.stop * a)]
    ]

    def action_values(part: slice, matrix: sp.csr_matrix, v: np.ndarray) -> np.ndarray:
        q = (matrix @ v).reshape(-1, a)
        q *= mdp.gamma
        q += mdp.reward[part]
        return q

    def best(v: np.ndarray) -> np.ndarray:
        w = np.empty(s)

        def one(block: tuple[slice, sp.csr_matrix]) -> None:
            part, matrix = block
            best_of(action_values(part, matrix, v), w[part])

        _together(one, blocks)
        return w

    def improve(v: np.ndarray, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w, policy = np.empty(s), policy.copy()

        def one(block: tuple[slice, sp.csr_matrix]) -> None:
            part, matrix = block
            q = action_values(part, matrix, v)
            best_of(q, w[part])
            improve_on(policy[part], q, w[part])

        _together(one, blocks)
        return w, policy

    # The table of the policy that is followed: 1/A of the memory to read, in half the digits, which do for corrections.
    index, chances = np.empty((s, k), np.int32), np.empty((s, k), np.float32)
    narrow = [(part, _matrix(index[part], chances[part], s)) for part in _parts(s, k, NARROW_BLOCK)]
    followed = np.full(s, -1, np.int32)

    def follow(policy: np.ndarray) -> Step:
        def select(part: slice) -> None:
            new = part.start + np.flatnonzero(policy[part] != followed[part])
            rows = new * a + policy[new]
            index[new], chances[new], followed[new] = successors[rows], probabilities[rows], policy[new]

        _together(select, list(_parts(s, k, NARROW_BLOCK // 8)))
        gamma = np.float32(mdp.gamma)

        def step(r: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, float, float]:
            y = np.empty(s, np.float32)

            def one(block: tuple[slice, sp.csr_matrix]) -> tuple[float, float]:
                part, matrix = block
                new = matrix @ x
                new *= gamma
                np.add(new, r[part], out=y[part])
                return spread(y[part], x[part])

            ends = _together(one, narrow)
            return y, min(low for low, _ in ends), max(high for _, high in ends)

        return lambda r, x: step(r.astype(np.float32, copy=False), x.astype(np.float32, copy=False))

    return Backups(best, improve, follow)


def _matrix(successors: np.ndarray, probabilities: np.ndarray, states: int) -> sp.csr_matrix:
    """Rows of the table as a matrix that looks into it; scipy's constructor would copy them."""
    rows, k = successors.shape
    matrix = sp.csr_matrix((rows, states), dtype=probabilities.dtype)
    matrix.data, matrix.indices = probabilities.reshape(-1), successors.reshape(-1)
    matrix.indptr = np.arange(0, rows * k + 1, k, dtype=np.int32)
    return matrix


def _parts(states: int, width: int, entries: int) -> Iterable[slice]:
    size = max(entries // width, 1)
    return (slice(i, min(i + size, states)) for i in range(0, states, size))


@functools.cache
def _threads() -> tuple[int, ThreadPoolExecutor]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores, ThreadPoolExecutor(cores, "steersman-tabular")


def _together(f: Callable[[T], U], items: list[T]) -> list[U]:
    """[f(x) for x in items], by all cores when there is more than one item."""
    if len(items) == 1:
        return [f(items[0])]
    cores, pool = _threads()
    return list(pool.map(f, items)) if cores > 1 else [f(x) for x in items]
