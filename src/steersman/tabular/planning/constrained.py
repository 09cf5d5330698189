"""Constrained MDPs: the linear program over occupancy measures, and Lagrangian dual ascent to the same answer.

Axes: ``S`` states, ``A`` actions, ``C`` constraints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.optimize as opt

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP
from steersman.tabular.planning.criteria import flow_matrix
from steersman.tabular.planning.dynamic_programming import policy_iteration
from steersman.tabular.planning.objectives import visitation


@dataclass(frozen=True, eq=False)
class ConstrainedMDP:
    """max_pi E[sum gamma^t r] with E[sum gamma^t c_i] <= limit_i, both from rho_0. (Altman 1999.)

    Raises UsageError for costs that are not [C, S, A] finite, or limits that are not [C].
    """

    mdp: MDP
    costs: np.ndarray  # float64 [C, S, A]
    limits: np.ndarray  # float64 [C]

    def __post_init__(self) -> None:
        wanted = (self.mdp.num_states, self.mdp.num_actions)
        if self.costs.ndim != 3 or self.costs.shape[1:] != wanted:
            raise UsageError(f"costs must be [C, S, A] = {('C', *wanted)}; got {self.costs.shape}.")
        if self.limits.shape != self.costs.shape[:1]:
            raise UsageError(f"limits must be [C] = {self.costs.shape[:1]}; got {self.limits.shape}.")
        if not np.isfinite(self.costs).all() or not np.isfinite(self.limits).all():
            raise UsageError("Costs and limits must be finite.")
        if (self.costs[:, self.mdp.terminal] != 0).any():
            raise UsageError("A terminal state has a cost: nothing is incurred after the end.")


class ConstrainedSolution(NamedTuple):
    """A stochastic policy, what it is worth and costs, and how far from optimal it can be."""

    policy: np.ndarray  # float64 [S, A]
    occupancy: np.ndarray  # float64 [S, A]: expected discounted visits
    value: float
    costs: np.ndarray  # float64 [C]
    multipliers: np.ndarray  # float64 [C]: what one unit of each limit is worth
    dual: float  # an upper bound on the optimal value
    violation: float  # how much the worst constraint is exceeded
    iterations: int

    @property
    def gap(self) -> float:
        """dual - value, at least 0 when nothing is violated: how far from optimal."""
        return self.dual - self.value


def policy_of(mdp: MDP, occupancy: np.ndarray) -> np.ndarray:
    """pi(a | s) = x(s, a) / sum_b x(s, b), uniform over what is available where the occupancy never goes."""
    total = occupancy.sum(-1, keepdims=True)
    uniform = mdp.available / mdp.available.sum(-1, keepdims=True)
    return np.where(total > 1e-12, occupancy / np.where(total > 1e-12, total, 1.0), uniform)


def solve_constrained(problem: ConstrainedMDP) -> ConstrainedSolution:
    """max x . r over occupancy measures x with c_i . x <= limit_i, by HiGHS: the optimal stochastic policy.

    Raises UsageError when no policy meets the limits, with the least cost that can be had. (Altman 1999, chapter 3.)
    """
    m = problem.mdp
    balance, rho, columns = flow_matrix(m, m.gamma)
    costs = problem.costs.reshape(len(problem.limits), -1)[:, columns]
    result = opt.linprog(
        -m.reward.ravel()[columns], A_ub=costs, b_ub=problem.limits, A_eq=balance, b_eq=rho, method="highs-ds"
    )
    if result.status == 2:
        raise UsageError(_infeasible(problem, balance, rho, costs))
    if result.x is None:
        raise UsageError(f"The linear program has no answer: {result.message}")
    occupancy = np.zeros((m.num_states, m.num_actions))
    occupancy.flat[columns] = np.maximum(result.x, 0)
    multipliers = -np.asarray(result.ineqlin.marginals)
    dual = float(-(result.eqlin.marginals @ rho) + multipliers @ problem.limits)
    return _solution(problem, occupancy, multipliers, dual, int(result.nit))


def _infeasible(problem: ConstrainedMDP, balance, rho: np.ndarray, costs: np.ndarray) -> str:
    least = [float(opt.linprog(c, A_eq=balance, b_eq=rho, method="highs").fun) for c in costs]
    for i, (low, limit) in enumerate(zip(least, problem.limits, strict=True)):
        if low > limit:
            return (
                f"Infeasible: cost {i} must stay below {limit:g}, but the least that any policy can have is {low:.6g}."
            )
    each = ", ".join(
        f"cost {i} at least {low:.6g} (limit {limit:g})"
        for i, (low, limit) in enumerate(zip(least, problem.limits, strict=True))
    )
    return f"Infeasible: each limit alone can be met, but not all of them together: {each}."


def _solution(
    p: ConstrainedMDP, occupancy: np.ndarray, multipliers: np.ndarray, dual: float, count: int
) -> ConstrainedSolution:
    costs = (p.costs * occupancy).sum((1, 2))
    violation = float(max((costs - p.limits).max(initial=0.0), 0.0))
    value = float((p.mdp.paid * occupancy).sum())
    return ConstrainedSolution(
        policy_of(p.mdp, occupancy), occupancy, value, costs, multipliers, dual, violation, count
    )


def lagrangian(
    problem: ConstrainedMDP, *, iterations: int = 200, tol: float = 1e-6, max_multiplier: float = 1e4
) -> ConstrainedSolution:
    """min_{lambda >= 0} max_pi J_r - lambda . (J_c - limit): dual ascent on the multipliers, planning inside.

    Each planning step gives a deterministic policy, its occupancy, and a cutting plane of the dual; the next
    multipliers minimise the planes found so far (Kelley's method), and the mixture of occupancies with the same
    weights is the primal answer, which a single deterministic policy could not be. Stops when dual - primal <=
    ``tol``. Raises UsageError when the multipliers run off to ``max_multiplier``: the constraint cannot be met.
    (Altman 1999, chapter 4.)
    """
    m, count = problem.mdp, len(problem.limits)
    occupancies: list[np.ndarray] = []
    multipliers, weights, done, best = np.zeros(count), np.ones(1), 0, float("inf")
    mixed = np.zeros_like(m.reward)
    for done in range(1, iterations + 1):
        priced = replace(m, reward=m.reward - np.tensordot(multipliers, problem.costs, 1), outcome_rewards=None)
        policy = policy_iteration(priced).policy
        x = visitation(m, policy, normalise=False)[:, None] * np.eye(m.num_actions)[policy]
        best = min(best, float((priced.paid * x).sum() + multipliers @ problem.limits))
        occupancies.append(x)
        values = np.array([(m.paid * o).sum() for o in occupancies])
        slack = np.array([problem.limits - (problem.costs * o).sum((1, 2)) for o in occupancies])
        # min z with z >= value_k + lambda . slack_k: its marginals are the weights of the mixture.
        master = opt.linprog(
            np.append(np.zeros(count), 1.0), A_ub=np.column_stack([slack, -np.ones(done)]), b_ub=-values,
            bounds=[(0, max_multiplier)] * count + [(None, None)], method="highs",
        )  # fmt: skip
        multipliers, weights = master.x[:count], -np.asarray(master.ineqlin.marginals)
        mixed = np.tensordot(weights / weights.sum(), np.stack(occupancies), 1)
        if best - float(master.fun) <= tol:
            break
    if (multipliers >= 0.999 * max_multiplier).any():
        least = float((problem.costs * mixed).sum((1, 2))[int(np.argmax(multipliers))])
        i = int(np.argmax(multipliers))
        raise UsageError(
            f"Infeasible: the multiplier of cost {i} grew to {max_multiplier:g} and the cost stayed at {least:.6g}, "
            f"above its limit {problem.limits[i]:g}."
        )
    return _solution(problem, mixed, multipliers, best, done)
