"""Making an MDP: from dense or sparse arrays, from successor lists, from a Gymnasium table, from a text map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP, Grid, as_distributions, ends_reachable

MAX_ENTRIES = 2**31 - 1
MOVES = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}


def from_successors(
    successors: np.ndarray,
    probabilities: np.ndarray,
    rewards: np.ndarray,
    *,
    gamma: float,
    start: np.ndarray | int | None = None,
    terminal: np.ndarray | Sequence[int] | None = None,
    **labels: Any,
) -> MDP:
    """An MDP from successor lists [S, A, K] and their probabilities; rewards [S], [S, A] or [S, A, K].

    A reward of -inf marks an action that is not available; what the lists say of it does not matter.
    The layout for large problems: no search, no dense matrix, and no copy of arrays already int32 and float64.
    ``start`` is a distribution [S], one state, or None (uniform over the states that are not terminal); ``terminal`` a
    mask [S] or a list of states. ``labels``: MDP's name, action_names, grid, max_episode_steps. Raises UsageError as
    :class:`MDP` does, and for a reward in a terminal state.
    """
    successors = np.asarray(successors, np.int32)
    probabilities = as_distributions(probabilities)
    if successors.ndim != 3 or successors.shape != probabilities.shape:
        raise UsageError(
            f"successors and probabilities must be [S, A, K]; got {successors.shape}, {probabilities.shape}."
        )
    s, a, k = successors.shape
    ends = _mask(terminal, s)
    rewards = np.asarray(rewards, np.float64)
    if rewards.shape not in ((s,), (s, a), (s, a, k)):
        raise UsageError(f"rewards must be [S], [S, A] or one per listed outcome {(s, a, k)}; got {rewards.shape}.")
    if rewards.ndim < 3:
        given = rewards.reshape(s, -1)
        late = np.argwhere(ends[:, None] & (given != 0) & (given > -np.inf))
        if len(late):
            i, j = late[0]
            raise UsageError(
                f"State {i} is terminal but has reward {given[i, j]:g}: nothing is collected after the end. "
                f"Put it on the transition into it: rewards[s, a, {i}]."
            )
    outcome = None
    if rewards.ndim == 3:
        outcome = np.where(probabilities > 0, rewards, 0.0)
        expected = np.where((rewards == -np.inf).all(-1), -np.inf, (probabilities * outcome).sum(-1))
    else:
        expected = np.repeat(rewards[:, None], a, 1) if rewards.ndim == 1 else rewards.copy()
    expected[ends] = 0.0
    missing = expected == -np.inf
    loops = missing | ends[:, None]
    if outcome is not None:
        outcome[loops] = expected[loops, None]
    if loops.any():
        probabilities, at = probabilities.copy(), np.nonzero(loops)
        if successors.strides[:2] == (0, 0) and not ends.any():  # all states in order, written down once
            probabilities[loops], slot = 0.0, at[0]
        else:
            successors, slot = np.array(successors), 0
            successors[loops], probabilities[loops] = at[0][:, None], 0.0
        probabilities[(*at, slot)] = 1.0
    return MDP(successors, probabilities, expected, _start(start, ends), float(gamma), ends, outcome, **labels)


def from_arrays(
    transitions: Any,
    rewards: Any,
    *,
    gamma: float,
    start: np.ndarray | int | None = None,
    terminal: np.ndarray | Sequence[int] | None = None,
    **labels: Any,
) -> MDP:
    """An MDP from P and R.

    ``transitions``: an array [S, A, S], a scipy sparse matrix [S * A, S] (row s * A + a), or one sparse [S, S] per
    action. ``rewards``: [S], [S, A], [S, A, S], or sparse in the form of the transitions; -inf for an action that is
    not available, whose transitions do not matter.

    >>> chain = from_arrays([[[0.0, 1.0]], [[0.0, 1.0]]], [1.0, 0.0], gamma=0.9, terminal=[1])
    >>> chain.num_states, chain.num_actions
    (2, 1)
    """
    if isinstance(transitions, (list, tuple)) and transitions and sp.issparse(transitions[0]):
        transitions = _interleave(transitions)
        if isinstance(rewards, (list, tuple)) and sp.issparse(rewards[0]):
            rewards = _interleave(rewards)
    common = {"gamma": gamma, "start": start, "terminal": terminal, **labels}
    if sp.issparse(transitions):
        return _from_sparse(sp.csr_matrix(transitions), rewards, common)
    p = np.array(as_distributions(transitions))  # a copy: the caller keeps theirs
    if p.ndim != 3 or p.shape[0] != p.shape[2]:
        hint = (
            " It looks like [A, S, S]: use transitions.transpose(1, 0, 2)."
            if p.ndim == 3 and p.shape[1] == p.shape[2]
            else ""
        )
        raise UsageError(f"transitions must be [S, A, S] (or scipy sparse); got {p.shape}.{hint}")
    s, a, _ = p.shape
    ends = _mask(terminal, s)
    r = np.asarray(rewards, np.float64)
    width = int((p != 0).sum(-1).max())  # NaN counts as an entry, so the check sees it
    if width > s // 2 and not ends.any():
        states = np.broadcast_to(np.arange(s, dtype=np.int32), (s, a, s))
        return from_successors(states, p, r, **common)
    full = r.ndim == 3 and r.shape == p.shape
    order = np.argsort(p == 0, axis=-1, kind="stable")[..., : max(width, 1)]
    taken = np.take_along_axis(r, order, -1) if full else r
    return from_successors(order, np.take_along_axis(p, order, -1), taken, **common)


def _interleave(per_action: Sequence[Any]) -> sp.csr_matrix:
    """One [S, S] matrix per action -> [S * A, S] with rows s * A + a."""
    a, s = len(per_action), per_action[0].shape[0]
    stacked = sp.csr_matrix(sp.vstack([sp.csr_matrix(m) for m in per_action], format="csr"))
    return stacked[np.arange(a * s).reshape(a, s).T.ravel()]


def _from_sparse(p: sp.csr_matrix, rewards: Any, common: dict[str, Any]) -> MDP:
    rows, s = int(p.shape[0]), int(p.shape[1])  # pyright: ignore[reportOptionalSubscript]
    if s == 0 or rows % s:
        raise UsageError(
            f"Sparse transitions must be [S * A, S] (row s * A + a); got {p.shape}, not a multiple of {s}."
        )
    a, counts = rows // s, np.diff(p.indptr)
    k = max(int(counts.max()), 1)
    if rows * k > MAX_ENTRIES:
        raise UsageError(
            f"A row has {k} successors, so {s} states x {a} actions x {k} is too large a table; split such rows "
            "into two steps, or merge rare successors."
        )
    if sp.issparse(rewards):
        rewards = sp.csr_matrix(rewards)
        if rewards.shape != p.shape:
            raise UsageError(f"Sparse rewards must be shaped like the transitions, {p.shape}; got {rewards.shape}.")
        pattern = sp.csr_matrix((np.ones_like(p.data), p.indices, p.indptr), shape=p.shape)
        # Same sparsity as P: look each reward up at P's entries (a missing one is 0).
        positions = np.repeat(np.arange(rows), counts), pattern.indices
        rewards = np.asarray(rewards[positions]).ravel()
    at = np.repeat(np.arange(rows) * k - p.indptr[:-1], counts) + np.arange(p.nnz)
    successors = np.repeat(np.arange(s, dtype=np.int32), a * k)  # padding: the state itself, with probability 0
    probabilities = np.zeros(rows * k, p.dtype)
    successors[at], probabilities[at] = p.indices, p.data
    r = np.asarray(rewards, np.float64)
    if r.shape == (p.nnz,) and r.shape != (s,):
        padded = np.zeros(rows * k)
        padded[at] = r
        r = padded.reshape(s, a, k)
    elif r.shape == (s, a, s):
        r = np.take_along_axis(r, successors.reshape(s, a, k).astype(np.int64), -1)
    return from_successors(successors.reshape(s, a, k), probabilities.reshape(s, a, k), r, **common)


def _mask(terminal: np.ndarray | Sequence[int] | None, s: int) -> np.ndarray:
    if terminal is None:
        return np.zeros(s, bool)
    given = np.asarray(terminal)
    if given.dtype == bool:
        if given.shape != (s,):
            raise UsageError(f"terminal, as a mask, must have shape ({s},); got {given.shape}.")
        return given.copy()
    if given.size and (given.min() < 0 or given.max() >= s):
        raise UsageError(f"terminal names a state outside 0..{s - 1}: {given.tolist()}.")
    mask = np.zeros(s, bool)
    mask[given.astype(np.int64)] = True
    return mask


def _start(start: np.ndarray | int | None, ends: np.ndarray) -> np.ndarray:
    s = ends.shape[0]
    if start is None:
        return np.where(ends, 0.0, 1.0) / max(int((~ends).sum()), 1)
    if np.ndim(start) == 0:
        if not 0 <= int(start) < s:
            raise UsageError(f"The start state {start} is outside 0..{s - 1}.")
        return np.eye(1, s, int(start))[0]
    return np.array(as_distributions(np.asarray(start)))


def from_table(
    table: Mapping[int, Mapping[int, Sequence[tuple]]], *, gamma: float, start: np.ndarray, **labels: Any
) -> MDP:
    """An MDP from ``table[s][a] = [(probability, successor, reward, terminated), ...]``, the form of toy-text.

    A state is terminal when it is entered with ``terminated``. Where a table ends some entries into a state and not
    others, the ends go to one extra absorbing state, the last. An action that ``table[s]`` does not have, or has no
    entries for, is not available there.
    """
    s, a = len(table), 1 + max(j for row in table.values() for j in row)
    k = max(len(entries) for row in table.values() for entries in row.values())
    successors = np.repeat(np.arange(s, dtype=np.int32), a * k).reshape(s, a, k)
    probabilities, rewards, done = np.zeros((s, a, k)), np.full((s, a, k), -np.inf), np.zeros((s, a, k), bool)
    for i in range(s):
        for j, entries in table[i].items():
            rewards[i, j, : k if entries else 0] = 0.0
            for n, (p, successor, r, end) in enumerate(entries):
                successors[i, j, n], probabilities[i, j, n] = successor, p
                rewards[i, j, n], done[i, j, n] = float(r), bool(end)
    possible = probabilities > 0
    ends, goes_on = np.zeros(s, bool), np.zeros(s, bool)
    ends[successors[possible & done]] = True
    # A terminal state's own rows (a self-loop in these tables) say nothing about how it is entered.
    outside = possible & ~done & (successors != np.arange(s)[:, None, None])
    goes_on[successors[outside & ~ends[:, None, None]]] = True
    rho = np.asarray(start, np.float64)
    goes_on |= rho > 0
    if (ends & goes_on).any():  # the same number both ends and goes on (a terminal flag on the transition)
        extra = s
        successors = np.concatenate([successors, np.full((1, a, k), extra, np.int32)])
        successors[:s][done] = extra
        probabilities = np.concatenate([probabilities, np.broadcast_to(np.eye(1, k), (1, a, k))])
        rewards = np.concatenate([rewards, np.zeros((1, a, k))])
        rho, ends = np.append(rho, 0.0), np.arange(s + 1) == extra
    return from_successors(successors, probabilities, rewards, gamma=gamma, start=rho, terminal=ends, **labels)


def from_gymnasium(env: Any, *, gamma: float = 0.99, **kwargs: Any) -> MDP:
    """The exact MDP of a Gymnasium toy-text environment, from its table ``P``: FrozenLake, CliffWalking, Taxi.

    ``env``: an id ("FrozenLake-v1") or an environment. Raises UsageError for one without a table (Blackjack keeps
    none).
    """
    import gymnasium

    try:
        made = gymnasium.make(env, **kwargs) if isinstance(env, str) else env
    except gymnasium.error.Error as error:
        raise UsageError(f"{env} is none of Gymnasium's toy-text environments: {error}") from None
    inner: Any = made.unwrapped
    table = getattr(inner, "P", None)
    name = made.spec.id if made.spec else type(inner).__name__
    if not isinstance(table, dict):
        raise UsageError(f"{name} keeps no transition table (P). With one: FrozenLake-v1, CliffWalking-v1, Taxi-v4.")
    rho = np.asarray(inner.initial_state_distrib, np.float64)
    limit = made.spec.max_episode_steps if made.spec else None
    mdp = from_table(table, gamma=gamma, start=rho / rho.sum(), name=name, max_episode_steps=limit)
    if isinstance(env, str):
        made.close()
    return mdp


def from_text(
    text: str,
    *,
    gamma: float = 0.99,
    step_reward: float = 0.0,
    goal_reward: float = 1.0,
    pit_reward: float = -1.0,
    slip: float = 0.0,
    actions: Mapping[str, tuple[int, int]] | None = None,
    name: str = "gridworld",
    max_episode_steps: int | None = None,
) -> MDP:
    """A gridworld from a map: ``S`` start, ``G`` goal (ends), ``X`` pit (ends), ``#`` wall, ``.`` or blank floor.

    Entering G or X pays ``step_reward`` + its own; bumping into a wall or the edge stays. With probability ``slip``
    the move goes to one of the two sides (half each). Raises UsageError for an unknown sign, no start, or a start that
    cannot reach a goal.

    >>> from_text("S.G").num_states
    3
    """
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    width = max((len(line) for line in lines), default=0)
    rows = tuple(line.ljust(width, ".").replace(" ", ".") for line in lines)
    for i, row in enumerate(rows):
        for j, sign in enumerate(row):
            if sign not in ".SGX#":
                raise UsageError(
                    f"Map line {i + 1}, column {j + 1}: unknown sign {sign!r}; use S G X # and . for floor."
                )
    cells = np.array([(i, j) for i in range(len(rows)) for j in range(width) if rows[i][j] != "#"], np.int32).reshape(
        -1, 2
    )
    signs = np.array([rows[i][j] for i, j in cells])
    if not (signs == "S").any():
        raise UsageError("The map has no start: mark at least one cell with S.")
    moves = np.array(list((actions or MOVES).values()), np.int32)
    number = {(int(i), int(j)): n for n, (i, j) in enumerate(cells)}

    def arrive(cell: np.ndarray, move: np.ndarray) -> int:
        return number.get((int(cell[0] + move[0]), int(cell[1] + move[1])), number[int(cell[0]), int(cell[1])])

    s, a, k = len(cells), len(moves), 3 if slip > 0 else 1
    successors, chances = np.zeros((s, a, k), np.int32), np.array([1 - slip, slip / 2, slip / 2])[:k]
    for i, cell in enumerate(cells):
        for j, (dy, dx) in enumerate(moves):
            ways = np.array([(dy, dx), (dx, dy), (-dx, -dy)])[:k]
            successors[i, j] = [arrive(cell, way) for way in ways]
    ends = (signs == "G") | (signs == "X")
    pay = step_reward + goal_reward * (signs == "G") + pit_reward * (signs == "X")
    rho = (signs == "S") / (signs == "S").sum()
    probabilities = np.broadcast_to(chances, (s, a, k))
    if (signs == "G").any():
        lost = (rho > 0) & ~ends_reachable(successors, probabilities, signs == "G")
        if lost.any():
            i, j = cells[int(np.argmax(lost))]
            raise UsageError(f"Map line {i + 1}, column {j + 1}: no goal can be reached from this start.")
    labels = {"name": name, "action_names": tuple(actions or MOVES), "max_episode_steps": max_episode_steps}
    grid = Grid(rows, cells, moves)
    return from_successors(
        successors, probabilities, pay[successors], gamma=gamma, start=rho, terminal=ends, grid=grid, **labels
    )
