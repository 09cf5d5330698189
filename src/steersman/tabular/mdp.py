"""The finite Markov decision process: validated arrays, exact one-step lookahead, and an environment.

Axes: ``S`` states, ``A`` actions, ``K`` successors stored per state and action.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from gymnasium import spaces
from numpy.typing import ArrayLike

from steersman.errors import UsageError
from steersman.types import Array, EnvSpec, Key, TimeStep

ROW_SUM_TOLERANCE = 1e-8


class Grid(NamedTuple):
    """Where the states of a gridworld lie, for its pictures."""

    rows: tuple[str, ...]  # the map's lines
    cells: np.ndarray  # int32 [S, 2]: row and column of each state
    moves: np.ndarray  # int32 [A, 2]: the step (row, column) each action means to take


@dataclass(frozen=True, eq=False)
class MDP:
    """A finite MDP (S, A, P, R, rho_0, gamma); also an :class:`steersman.types.Env`.

    P(s' | s, a) = sum of ``probabilities[s, a, k]`` over the k with ``successors[s, a, k] = s'``. A successor may be
    listed twice, with different rewards. One layout serves dense and sparse problems: a dense one has K = S.
    Terminal states are absorbing, loop on themselves and pay nothing: their value is 0. An action that is not available
    in a state has the reward -inf there: no planner or tabular learner takes it, a policy that does is refused, and as
    an environment it stays where it is and pays -inf, which agents that see no q cannot know. Rows in float32 or
    coarser are scaled to sum to one where they miss it by no more than rounding.

    Raises UsageError when an array has the wrong shape, a row is not a distribution, a reward is NaN or +inf, a state
    that is not terminal has no available action, gamma is outside [0, 1], or gamma = 1 and some state can never reach a
    terminal one. Make one with :func:`from_arrays`, :func:`from_successors`, :func:`from_pairs`,
    :func:`from_gymnasium`, :func:`from_text`, or a function of ``classics``. (Puterman 1994, chapter 2; Sutton & Barto
    2018, chapter 3.)
    """

    successors: np.ndarray  # int32 [S, A, K]
    probabilities: np.ndarray  # float64 [S, A, K]
    reward: np.ndarray  # float64 [S, A]: expected over the successor; -inf: not available
    start: np.ndarray  # float64 [S]: rho_0
    gamma: float
    terminal: np.ndarray  # bool [S]
    outcome_rewards: np.ndarray | None = None  # float64 [S, A, K], when the reward depends on the successor
    name: str = "mdp"
    action_names: tuple[str, ...] = ()
    grid: Grid | None = field(default=None, repr=False)
    max_episode_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("probabilities", "start"):
            object.__setattr__(self, name, as_distributions(getattr(self, name)))
        _check(self)
        for name in ("successors", "probabilities", "reward", "start", "terminal"):
            frozen = getattr(self, name).view()
            frozen.flags.writeable = False
            object.__setattr__(self, name, frozen)

    @property
    def num_states(self) -> int:
        return self.successors.shape[0]

    @property
    def num_actions(self) -> int:
        return self.successors.shape[1]

    @cached_property
    def available(self) -> np.ndarray:
        """Which actions there are, bool [S, A]."""
        return self.reward > -np.inf

    @cached_property
    def paid(self) -> np.ndarray:
        """The rewards of what can be done, float64 [S, A]: 0 for an action that is not available."""
        return self.reward if self.available.all() else np.where(self.available, self.reward, 0.0)

    @cached_property
    def possible(self) -> np.ndarray:
        """Which listed outcomes can happen, bool [S, A, K]."""
        happens = self.probabilities > 0
        return happens if self.available.all() else happens & self.available[..., None]

    @cached_property
    def is_dense(self) -> bool:
        """Whether every row lists all the states in order, so that a product with a matrix does the lookahead."""
        s, _, k = self.successors.shape
        return k == s and (self.successors.strides[:2] == (0, 0) or bool((self.successors == np.arange(s)).all()))

    @cached_property
    def on_device(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Successors int32, probabilities and reward float64 on the device: copied once, for compiled planning."""
        with jax.enable_x64(True):
            return jnp.asarray(self.successors), jnp.asarray(self.probabilities), jnp.asarray(self.reward)

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """P as a sparse matrix [S * A, S], row s * A + a; repeated successors stay apart (products do not mind)."""
        s, a, k = self.successors.shape
        entries = (self.probabilities.ravel(), self.successors.ravel(), np.arange(0, s * a * k + 1, k, dtype=np.int64))
        return sp.csr_matrix(entries, shape=(s * a, s))

    def dense(self) -> np.ndarray:
        """P as an array [S, A, S]."""
        s, a, _ = self.successors.shape
        return self.matrix.toarray().reshape(s, a, s)

    def policy_matrix(self, policy: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray]:
        """(P_pi [S, S], r_pi [S]) of a deterministic policy [S] or a stochastic one [S, A]."""
        policy = np.asarray(policy)
        s, a = self.num_states, self.num_actions
        if policy.shape == (s,):
            rows = np.arange(s) * a + policy
            reward = self.reward[np.arange(s), policy]
            _check_available(reward > -np.inf, policy)
            return self.matrix[rows], reward
        pi = check_policy(self, policy)
        mix = sp.csr_matrix((pi.ravel(), np.arange(s * a), np.arange(0, s * a + 1, a)), shape=(s, s * a))
        return sp.csr_matrix(mix @ self.matrix), (pi * self.paid).sum(-1)

    def lookahead(self, value: np.ndarray, gamma: float | None = None) -> np.ndarray:
        """q(s, a) = r(s, a) + gamma sum_s' P(s' | s, a) v(s'), shape [S, A], in float64; -inf where not available."""
        g = self.gamma if gamma is None else gamma
        s, a, k = self.successors.shape
        expected = self.probabilities.reshape(s * a, k) @ value if self.is_dense else self.matrix @ value
        return self.reward + g * expected.reshape(s, a)

    # --- the environment -------------------------------------------------------------------------------------------

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Start and successor distributions summed up, rewards and ends, in the dtypes of compiled code."""
        rewards = self.reward[..., None] if self.outcome_rewards is None else self.outcome_rewards
        cumulative = np.cumsum(self.probabilities, -1)
        # Entries past the last possible outcome exceed any draw, so rounding can never pick an impossible one.
        last = self.probabilities.shape[-1] - 1 - np.argmax(self.probabilities[..., ::-1] > 0, -1)
        cumulative = np.where(np.arange(cumulative.shape[-1]) >= last[..., None], 2.0, cumulative)
        rho = np.cumsum(self.start)
        rho = np.where(np.arange(self.num_states) >= np.flatnonzero(self.start)[-1], 2.0, rho)
        return rho.astype(np.float32), cumulative.astype(np.float32), rewards.astype(np.float32), self.terminal

    @property
    def spec(self) -> EnvSpec:
        """Observations are the state's number, Discrete(S); actions Discrete(A)."""
        actions = spaces.Discrete(self.num_actions)
        return EnvSpec(self.name, spaces.Discrete(self.num_states), actions, actions, self.max_episode_steps)

    def reset(self, key: Key) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """Draw s_0 from rho_0 -> ((s, steps so far), s), int32 scalars."""
        rho, *_ = self._tables
        if np.count_nonzero(self.start) == 1:  # nothing to draw
            s = jnp.int32(np.argmax(self.start))
            return (s, jnp.int32(0)), s
        s = jnp.searchsorted(jnp.asarray(rho), jax.random.uniform(key), side="right").astype(jnp.int32)
        return (s, jnp.int32(0)), s

    def step(self, state: tuple[Array, Array], action: Array, key: Key):
        """Draw the successor -> (state, TimeStep); past ``max_episode_steps`` the step is also truncated."""
        s, steps = state
        _, cumulative, rewards, terminal = self._tables
        k = jnp.int32(0)
        if cumulative.shape[-1] > 1:
            k = jnp.sum(jax.random.uniform(key) >= jnp.asarray(cumulative)[s, action]).astype(jnp.int32)
        successor = jnp.asarray(self.successors)[s, action, k]
        reward = jnp.asarray(rewards)[s, action, 0 if rewards.shape[-1] == 1 else k]
        ended = jnp.asarray(terminal)[successor]
        steps = jnp.asarray(steps) + jnp.int32(1)
        limit = self.max_episode_steps
        late = jnp.zeros((), bool) if limit is None else (steps >= limit)
        costs = jnp.zeros((0,), jnp.float32)
        return (successor, steps), TimeStep(successor, reward, ended, late & ~ended, successor, costs, {})


def check_policy(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    """The policy as probabilities, float64 [S, A]; takes [S] of actions too.

    Raises UsageError when it is neither, or takes an action that is not available.
    """
    policy = np.asarray(policy)
    s, a = mdp.num_states, mdp.num_actions
    if policy.shape == (s,) and np.issubdtype(policy.dtype, np.integer):
        if policy.min() < 0 or policy.max() >= a:
            raise UsageError(f"A policy names an action outside 0..{a - 1}: {policy.min()} to {policy.max()}.")
        _check_available(mdp.available[np.arange(s), policy], policy)
        return np.eye(a)[policy]
    if policy.shape != (s, a):
        raise UsageError(f"A policy is [S] = ({s},) of integer actions or [S, A] = ({s}, {a}); got {policy.shape}.")
    policy = as_distributions(policy)
    _check_rows(policy, "policy", ("s",))
    wrong = (policy > 0) & ~mdp.available
    if wrong.any():
        _check_available(np.asarray(~wrong.any(-1)), wrong.argmax(-1))
    return policy


def _check_available(fine: np.ndarray, actions: np.ndarray) -> None:
    if not fine.all():
        i = int(np.argmin(fine))
        raise UsageError(
            f"The policy takes action {int(actions[i])} in state {i}, which is not available there (its reward is "
            "-inf). A uniform policy is mdp.available / mdp.available.sum(-1, keepdims=True)."
        )


def as_distributions(rows: ArrayLike) -> np.ndarray:
    """Rows [..., K] in float64; those of a coarser dtype that miss one by no more than its rounding scaled to it."""
    given = np.asarray(rows)
    exact = given.astype(np.float64, copy=False)
    if given.ndim == 0 or given.dtype.itemsize >= 8 or not jnp.issubdtype(given.dtype, jnp.floating):
        return exact
    total = exact.sum(-1, keepdims=True)
    near = np.abs(total - 1) <= given.shape[-1] * float(jnp.finfo(given.dtype).eps)
    return np.where(near, exact / np.where(near, total, 1.0), exact)


def _check_rows(rows: np.ndarray, what: str, axes: tuple[str, ...]) -> None:
    """Every row along the last axis is a distribution, or a UsageError that names the worst one."""

    def where(bad: np.ndarray | np.bool) -> str:
        bad = np.asarray(bad)
        if not axes:
            return "all of it"
        return ", ".join(f"{n}={i}" for n, i in zip(axes, np.unravel_index(np.argmax(bad), bad.shape), strict=True))

    sums = (rows.reshape(-1, rows.shape[-1]) @ np.ones(rows.shape[-1])).reshape(rows.shape[:-1])
    if not np.isfinite(sums).all():
        bad = ~np.isfinite(rows).all(-1)
        raise UsageError(f"{what} has NaN or infinite entries, first at {where(bad)}.")
    if rows.min() < 0:
        low = rows.min(-1)
        worst = np.unravel_index(np.argmin(low), low.shape)
        raise UsageError(f"{what} has negative entries; the lowest, {low[worst]:.6g}, is at {where(low == low.min())}.")
    error = np.abs(sums - 1)
    if error.max() > ROW_SUM_TOLERANCE:
        worst = np.unravel_index(np.argmax(error), error.shape)
        count = int((error > ROW_SUM_TOLERANCE).sum())
        hint = ""
        if what == "transitions" and sums[worst] == 0:
            hint = " Is that action not available there? Then give it the reward -inf."
        elif error.max() < 1e-5:
            hint = " Were they computed in float32? Give them as that, and they are scaled to one."
        raise UsageError(
            f"{what}: {count} row{'s do' if count > 1 else ' does'} not sum to one; the worst, at "
            f"{where(error == error.max())}, sums to {sums[worst]:.10g} (off by {sums[worst] - 1:+.3g}).{hint}"
        )


def _check(m: MDP) -> None:
    if m.successors.ndim != 3 or m.probabilities.shape != m.successors.shape:
        shapes = f"{m.successors.shape} and {m.probabilities.shape}"
        raise UsageError(f"successors and probabilities must both be [S, A, K]; got {shapes}.")
    s, a, _ = m.successors.shape
    wanted = {"reward": (s, a), "start": (s,), "terminal": (s,)}
    for name, shape in wanted.items():
        if getattr(m, name).shape != shape:
            raise UsageError(
                f"{name} must have shape {shape} for {s} states and {a} actions; got {getattr(m, name).shape}."
            )
    if m.outcome_rewards is not None and m.outcome_rewards.shape != m.successors.shape:
        raise UsageError(f"outcome_rewards must be [S, A, K] = {m.successors.shape}; got {m.outcome_rewards.shape}.")
    if m.successors.min() < 0 or m.successors.max() >= s:
        raise UsageError(f"A successor is outside 0..{s - 1}: {m.successors.min()} to {m.successors.max()}.")
    _check_rows(m.probabilities, "transitions", ("s", "a"))
    _check_rows(m.start, "start (rho_0)", ())
    if not (m.reward < np.inf).all():
        i, j = np.argwhere(~(m.reward < np.inf))[0]
        raise UsageError(
            f"The reward at s={i}, a={j} is {m.reward[i, j]}: rewards must be finite, or -inf where an action is not "
            "available."
        )
    idle = ~m.terminal & (m.reward.max(-1) == -np.inf)
    if idle.any():
        i, more = int(np.argmax(idle)), int(idle.sum()) - 1
        raise UsageError(
            f"State {i} {f'(and {more} others) ' if more else ''}has no action: all its rewards are -inf, none is "
            f"available. Give it one, or mark it as an end: terminal=[{i}]."
        )
    if not 0 <= m.gamma <= 1:
        raise UsageError(f"gamma must lie in [0, 1]; got {m.gamma}.")
    if m.start[~m.terminal].sum() <= 0:
        raise UsageError("The start distribution (rho_0) lies on terminal states only: no episode could take a step.")
    if m.gamma == 1:
        _check_ends(m)


def _check_ends(m: MDP) -> None:
    """With gamma = 1 the return is finite only if every state can come to an end."""
    if not m.terminal.any():
        raise UsageError(
            "gamma = 1 needs a terminal (absorbing) state, and there is none: give terminal=..., or gamma < 1."
        )
    stuck = ~ends_reachable(m.successors, m.possible, m.terminal)
    if stuck.any():
        i = int(np.argmax(stuck))
        start = "the start state " if m.start[i] > 0 else "state "
        raise UsageError(
            f"gamma = 1, but no terminal state can be reached from {start}{i} (nor {int(stuck.sum()) - 1} others), "
            "so returns there are unbounded. Use gamma < 1 or mark the absorbing states as terminal."
        )


def state_name(mdp: MDP, state: int) -> str:
    """How a state is called: "(3, 0)", its row and column, on a grid; else its number."""
    if mdp.grid is None or state >= len(mdp.grid.cells):  # a restarted MDP has states off the map
        return str(state)
    row, column = mdp.grid.cells[state]
    return f"({row}, {column})"


def ends_reachable(successors: np.ndarray, probabilities: np.ndarray, terminal: np.ndarray) -> np.ndarray:
    """Which states can reach a terminal one under some policy, bool [S]."""
    reached = terminal.copy()
    possible = probabilities > 0
    while True:
        grown = reached | (possible & reached[successors]).any((1, 2))
        if (grown == reached).all():
            return reached
        reached = grown
