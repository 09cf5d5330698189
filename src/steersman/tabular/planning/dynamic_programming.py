"""Planning in a known MDP: policies evaluated, improved and optimised, each answer with its error bound.

Every function takes an :class:`~steersman.tabular.mdp.MDP` and works in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP, check_policy, ends_reachable
from steersman.tabular.planning.bounds import bracket, certify, rounding, size
from steersman.tabular.planning.sweeps import backups

LEAVE_BETWEEN = 1e-3, 0.3  # the share of a correction's spread at which following ends: the policy still changes
DIRECT_UP_TO = 3000  # states: a sparse factorisation of a random chain fills in, so larger ones are iterated


class Evaluation(NamedTuple):
    """V_pi and Q_pi, and how far they can be off."""

    value: np.ndarray  # float64 [S]
    q: np.ndarray  # float64 [S, A]
    bound: float  # max_s |value - V_pi| is at most this
    iterations: int


class Solution(NamedTuple):
    """An (almost) optimal value and policy, and how far they can be off."""

    value: np.ndarray  # float64 [S]
    policy: np.ndarray  # int32 [S]
    bound: float  # max_s |value - V*| is at most this
    loss: float  # max_s V* - V_policy is at most this
    iterations: int  # sweeps over all states, or policies
    converged: bool  # bound <= tol
    method: str


def evaluate(
    mdp: MDP, policy: np.ndarray, *, method: str = "auto", tol: float = 1e-10, max_sweeps: int = 1_000_000
) -> Evaluation:
    """V_pi = r_pi + gamma P_pi V_pi, solved directly or by iteration; the policy is [S] (actions) or [S, A].

    ``method``: "direct" (one linear solve), "iterative" (sweeps until the bound is below ``tol``), "auto" (direct up to
    3000 states). Raises UsageError for gamma = 1 when the policy never ends from some state.
    (Sutton & Barto 2018, section 4.1; Puterman 1994, section 6.1.)
    """
    matrix, reward = mdp.policy_matrix(policy)
    going = ~mdp.terminal
    if mdp.gamma == 1:
        pi = check_policy(mdp, policy)
        stuck = ~ends_reachable(mdp.successors, mdp.probabilities * pi[..., None], mdp.terminal)
        if stuck.any():
            raise UsageError(
                f"gamma = 1, and this policy never reaches an end from state {int(np.argmax(stuck))}: its value is "
                "unbounded. Use gamma < 1, or a policy that ends."
            )
    if method == "auto":
        method = "direct" if mdp.num_states <= DIRECT_UP_TO else "iterative"
    if method == "direct":
        value, steps = _solve(mdp, matrix, np.stack([reward, going.astype(np.float64)], -1)).T
        iterations, horizon = 1, float(np.abs(steps).max()) * (1 + 1e-6)
        residual = reward + mdp.gamma * (matrix @ value) - value
        error = np.abs(residual).max() + rounding(mdp, 2 * np.abs(value).max() + np.abs(reward).max())
        return Evaluation(value, mdp.lookahead(value), float(error * horizon), iterations)
    if method != "iterative":
        raise UsageError(f"evaluate knows the methods direct, iterative and auto; got {method!r}.")
    value, bound, iterations = _iterate(mdp, matrix, reward, tol, max_sweeps)
    return Evaluation(value, mdp.lookahead(value), bound, iterations)


def _solve(mdp: MDP, matrix: sp.csr_matrix, right: np.ndarray) -> np.ndarray:
    """(I - gamma P_pi) x = right, with the terminal states' x held at 0."""
    keep = sp.diags((~mdp.terminal).astype(np.float64))
    system = sp.identity(mdp.num_states, format="csr") - mdp.gamma * (keep @ matrix @ keep)
    if mdp.is_dense or matrix.nnz > 0.2 * mdp.num_states**2:
        return np.linalg.solve(system.toarray(), right)
    return spla.splu(sp.csc_matrix(system)).solve(right)


def _iterate(
    mdp: MDP, matrix: sp.csr_matrix, reward: np.ndarray, tol: float, max_sweeps: int
) -> tuple[np.ndarray, float, int]:
    value, steps = np.zeros(mdp.num_states), np.zeros(mdp.num_states)
    going = (~mdp.terminal).astype(np.float64)
    bound, sweep = float("inf"), 0
    for sweep in range(1, max_sweeps + 1):
        new = reward + mdp.gamma * (matrix @ value)
        change = new - value
        scale = float(np.abs(new).max() + np.abs(reward).max())
        if mdp.gamma < 1:
            shift, bound = bracket(mdp, float(change.min()), float(change.max()), scale)
            value = new
            floor = rounding(mdp, scale) / (1 - mdp.gamma)
            if bound <= max(tol, 2 * floor):
                return value + shift * going, bound, sweep
        else:
            # |v - V| <= |change| max_s E[steps]. The steps are iterated alongside: an m short by e bounds them by
            # m / (1 - e).
            more = going * (1 + matrix @ steps)
            short = float((more - steps).max())
            value, steps = new, more
            if short < 0.5:
                bound = (float(np.abs(change).max()) + rounding(mdp, scale)) * float(steps.max()) / (1 - short)
            if bound <= tol or float(np.abs(change).max()) <= rounding(mdp, scale):
                break
    return value, bound, sweep


def _finish(mdp: MDP, value: np.ndarray, iterations: int, tol: float, method: str) -> Solution:
    """The greedy policy of ``value`` and a certificate made from its lookahead."""
    q = mdp.lookahead(value)
    bound = certify(mdp, value, q)
    policy = q.argmax(-1).astype(np.int32)
    return Solution(value, policy, bound, 2 * bound, iterations, bound <= tol, method)


def value_iteration(
    mdp: MDP, *, tol: float = 1e-8, max_sweeps: int = 1_000_000, initial: np.ndarray | None = None
) -> Solution:
    """v <- max_a [r(s, a) + gamma sum_s' P(s' | s, a) v(s')], synchronously, until the bound is below ``tol``.

    Stops by MacQueen's bracket, which is far sooner than the largest change allows when the chain mixes well, and
    returns the bracket's middle. With gamma = 1 the answer is the best of the policies that end (:func:`ending`).
    (Puterman 1994, sections 6.3 and 6.6.)
    """
    return modified_policy_iteration(mdp, tol=tol, sweeps=0, max_sweeps=max_sweeps, initial=initial)


def modified_policy_iteration(
    mdp: MDP, *, tol: float = 1e-8, sweeps: int = 50, max_sweeps: int = 1_000_000, initial: np.ndarray | None = None
) -> Solution:
    """Improve the policy, then follow it for at most ``sweeps`` backups, until the bound is below ``tol``.

    ``sweeps`` = 0 is value iteration; many is policy iteration. What is followed is the correction that is still
    missing, x = (T v - v) + gamma P_pi x: its size shrinks, so that on large sparse problems float32 is enough for it
    and a following backup costs a fifth of an improving one. It is followed for longer the fewer states have changed
    their action, as less is then left to the next improvement.
    (Puterman & Shin 1978; Puterman 1994, section 6.5; iterative refinement: Higham 2002, chapter 12.)
    """
    ops = backups(mdp)
    v = np.zeros(mdp.num_states) if initial is None else np.where(mdp.terminal, 0.0, initial)
    rewards = size(mdp.reward)
    # Where nothing ends, a constant c in v is one of c (1 - gamma) in T v - v, and needs no sweeps.
    horizon = 1 / (1 - mdp.gamma) if mdp.gamma < 1 and not mdp.terminal.any() else 0.0
    shift, bound, done = 0.0, float("inf"), 0
    w, policy, threshold, changed = v, np.zeros(mdp.num_states, np.int32), tol / 100, 1.0
    while done < max_sweeps:
        if sweeps:
            before = policy
            w, policy = ops.improve(v, policy)
            changed = float(np.mean(before != policy))
        else:
            w = ops.best(v)
        done += 1
        if done % patience(mdp) == 0 and endless(mdp, mdp.lookahead(w).argmax(-1)):
            break
        change = w - v
        low, high = float(change.min()), float(change.max())
        if mdp.gamma < 1:
            # Rounding is reckoned once the bracket itself is narrow, from the values found by then.
            shift, width = bracket(mdp, low, high, 0.0)
            if width <= tol:
                shift, bound = bracket(mdp, low, high, rewards + 2 * float(np.abs(w + shift).max()))
                if bound <= tol or width <= bound - width:
                    break
        elif max(-low, high) <= threshold:  # a guess; the certificate decides
            bound = certify(mdp, w, mdp.lookahead(w))
            floor = rounding(mdp, float(np.abs(w).max()))
            if bound <= tol or max(-low, high) <= floor:
                break
            threshold = max(floor, max(-low, high) * (tol / bound / 2))  # nothing to show: on to rounding
        if not sweeps:
            v = w
            continue
        step, middle = ops.follow(policy), (low + high) / 2 * (horizon > 0)
        change -= middle
        x, target = change, float(np.clip(changed, *LEAVE_BETWEEN)) * (high - low)
        for _ in range(sweeps):
            x, low, high = step(change, x)
            if high - low <= target:
                break
        v = v + x + horizon * (middle + mdp.gamma * (low + high) / 2)
    value = w + shift * ~mdp.terminal
    if not sweeps:
        policy = ops.improve(v, policy)[1]
    name = f"modified policy iteration ({sweeps} sweeps)" if sweeps else "value iteration"
    found = Solution(value, policy, bound, 2 * bound, done, bound <= tol, name)
    return ending(mdp, found, tol) if done < max_sweeps else found


def policy_iteration(
    mdp: MDP, *, tol: float = 1e-8, max_policies: int = 1000, initial: np.ndarray | None = None
) -> Solution:
    """Evaluate exactly, improve greedily, until the policy is stable. (Howard 1960; Sutton & Barto 2018, section 4.3.)

    An action is replaced only by one that is better beyond rounding, so ties cannot cycle; with gamma = 1 the first
    policy is one that ends from everywhere.
    """
    if initial is not None:
        policy = np.asarray(initial, np.int32)
    else:
        policy = ending_policy(mdp) if mdp.gamma == 1 else mdp.reward.argmax(-1).astype(np.int32)
    everyone = np.arange(mdp.num_states)
    count = 0
    value = np.zeros(mdp.num_states)
    for _ in range(max_policies):
        count += 1
        answer = evaluate(mdp, policy, tol=0.1 * tol)
        value, q = answer.value, answer.q
        margin = max(1e-12 * (1 + float(np.abs(value).max())), 2 * answer.bound)
        better = q.max(-1) > q[everyone, policy] + margin
        if not better.any():
            break
        policy = np.where(better, q.argmax(-1), policy).astype(np.int32)
    solution = _finish(mdp, value, count, tol, "policy iteration")
    return solution._replace(policy=policy)


def ending(mdp: MDP, found: Solution, tol: float) -> Solution:
    """What a planner that iterates values has found; with gamma = 1, of the policies that end.

    Where a loop pays nothing in all, values that come from above stop too high, at what never ending is worth, or go
    round with it, and a greedy policy may take the loop though its ties do not. So a policy that does not end from
    everywhere goes on to policy iteration, from the best actions that do end if there are such: its answer is that of
    all planners here. Raises UsageError where a loop pays. (Bertsekas & Yu 2016.)
    """
    if not endless(mdp, found.policy):
        return found
    q = mdp.lookahead(found.value)
    best = q >= q.max(-1, keepdims=True) - max(tol, 1e-9 * size(q))
    policy, ends = _towards_ends(mdp, best)
    better = policy_iteration(mdp, tol=tol, initial=policy if ends.all() else ending_policy(mdp))
    return better._replace(iterations=found.iterations + better.iterations, method=found.method)


def patience(mdp: MDP) -> int:
    """Sweeps after which a greedy policy that does not end is taken to stay in a loop, not to be short of news."""
    return 1000 + 10 * mdp.num_states


def endless(mdp: MDP, policy: np.ndarray) -> bool:
    """Whether gamma = 1 and a policy [S] does not end from everywhere."""
    if mdp.gamma < 1:
        return False
    everyone = np.arange(mdp.num_states)
    after, chances = mdp.successors[everyone, policy][:, None], mdp.probabilities[everyone, policy][:, None]
    return not ends_reachable(after, chances, mdp.terminal).all()


def ending_policy(mdp: MDP) -> np.ndarray:
    """A policy, int32 [S], under which every state that can reach a terminal state does so with probability 1."""
    return _towards_ends(mdp, mdp.available)[0]


def _towards_ends(mdp: MDP, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(such a policy of the allowed actions [S, A], the states from which it ends, bool [S])."""
    policy, reached = allowed.argmax(-1).astype(np.int32), mdp.terminal.copy()
    possible = mdp.possible & allowed[..., None]
    while True:
        leads = np.any(possible & reached[mdp.successors], -1)
        new = leads.any(-1) & ~reached
        if not new.any():
            return policy, reached
        policy[new] = leads[new].argmax(-1)
        reached = reached | new
