"""Other criteria and the linear program: finite horizon, average reward, occupancy measures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.optimize as opt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP
from steersman.tabular.planning.bounds import rounding, size
from steersman.tabular.planning.dynamic_programming import Solution, _finish, evaluate


class FinitePlan(NamedTuple):
    """Optimal values with t steps still to go at index T - t, and the policy of each step."""

    value: np.ndarray  # float64 [T + 1, S]; value[T] is the value at the end
    policy: np.ndarray  # int32 [T, S]
    bound: float  # rounding only: backward induction is exact


class AveragePlan(NamedTuple):
    """The optimal average reward per step, and a policy that has it."""

    gain: float  # the middle of the bracket
    bias: np.ndarray  # float64 [S], relative to state 0
    policy: np.ndarray  # int32 [S]
    bound: float  # |gain - gain*| is at most this
    iterations: int
    converged: bool


def finite_horizon(mdp: MDP, steps: int, *, final: np.ndarray | None = None, gamma: float | None = None) -> FinitePlan:
    """v_t(s) = max_a r(s, a) + gamma sum P v_{t+1}, backwards from v_T = ``final`` (0).

    ``gamma`` defaults to the MDP's; 1 is fine here. (Puterman 1994, section 4.5.)
    """
    if steps < 1:
        raise UsageError(f"A finite horizon has at least one step; got {steps}.")
    value = np.zeros((steps + 1, mdp.num_states))
    if final is not None:
        value[-1] = final
    policy = np.zeros((steps, mdp.num_states), np.int32)
    slack = 0.0
    for t in reversed(range(steps)):
        q = mdp.lookahead(value[t + 1], gamma)
        if final is not None:
            q[mdp.terminal] = value[-1][mdp.terminal, None]
        value[t], policy[t] = q.max(-1), q.argmax(-1)
        slack += rounding(mdp, size(q) * 2)
    return FinitePlan(value, policy, slack)


def average_reward(mdp: MDP, *, tol: float = 1e-8, max_sweeps: int = 200_000, damping: float = 0.5) -> AveragePlan:
    """max_pi lim (1/T) E[sum r_t], by relative value iteration; the MDP's gamma plays no part.

    v <- (1 - d) v + d (T v - (T v)(0)); min(T v - v) <= gain* <= max(T v - v) at every sweep, so the bracket is the
    bound. The damping d makes periodic chains converge; one that mixes slowly may need more sweeps (``converged``).
    Raises UsageError for an MDP that ends (see :func:`restarting`), and where the bracket cannot close because parts of
    the MDP are apart, or may be left for good: gains then differ by the start. (Puterman 1994, sections 8.5 and 9.1.)
    """
    if mdp.terminal.any():
        raise UsageError(
            "This MDP ends, so its average reward is 0. For the reward per step over episodes: restarting(mdp)."
        )
    value = np.zeros(mdp.num_states)
    low, high, sweep, q = -np.inf, np.inf, 0, mdp.reward
    change = seen = np.full(mdp.num_states, np.inf)
    for _ in range(max_sweeps):
        sweep += 1
        q = mdp.lookahead(value, 1.0)
        change = q.max(-1) - value
        low, high = max(low, float(change.min())), min(high, float(change.max()))
        if high - low <= 2 * tol:
            break
        if sweep % 1000 == 0:  # T v - v has come to the gains, and they differ
            if np.abs(change - seen).max() <= tol and not weakly_communicating(mdp):
                break
            seen = change
        value = value + damping * change
        value = value - value[0]
    if high - low > 2 * tol and not weakly_communicating(mdp):
        worst, best = int(change.argmin()), int(change.argmax())
        raise UsageError(
            f"The average reward depends on where {mdp.name} starts: about {change[best]:.4g} a step from state "
            f"{best}, {change[worst]:.4g} from state {worst} (after {sweep} sweeps). Parts of it cannot reach each "
            "other, so there is no one optimal gain. Ask for each part alone, or for the discounted values."
        )
    bound = (high - low) / 2 + rounding(mdp, 2 * size(q))
    policy = q.argmax(-1).astype(np.int32)
    return AveragePlan((low + high) / 2, value, policy, bound, sweep, high - low <= 2 * tol)


def weakly_communicating(mdp: MDP) -> bool:
    """Whether some policy leads from anywhere to anywhere, but for states that no policy can stay among.

    Then the optimal gain is the same from every state. (Puterman 1994, section 8.3.1.)
    """
    s = mdp.num_states
    source, _, _ = np.nonzero(mdp.possible)
    target = mdp.successors[mdp.possible]
    links = sp.csr_matrix((np.ones(len(source), bool), (source, target)), shape=(s, s))
    count, part = connected_components(links, connection="strong")
    closed = np.ones(count, bool)
    closed[part[source][part[source] != part[target]]] = False
    if closed.sum() > 1:
        return False
    outside = ~closed[part]
    while True:  # of the states outside, those where some action never leaves them
        stays = mdp.available & ~(mdp.possible & ~outside[mdp.successors]).any(-1)
        fewer = outside & stays.any(-1)
        if (fewer == outside).all():
            return not outside.any()
        outside = fewer


def restarting(mdp: MDP) -> MDP:
    """The same task without an end: what would enter a terminal state starts again from rho_0 instead.

    The terminal states stay in the table, unreachable except from themselves, and lead to rho_0. gamma = 1 becomes
    0.999... only in name: use it for average rewards.
    """
    s, a, _ = mdp.successors.shape
    starts = np.flatnonzero(mdp.start > 0)
    n = len(starts)
    successors = np.concatenate([mdp.successors, np.broadcast_to(starts.astype(np.int32), (s, a, n))], -1)
    enters = mdp.terminal[mdp.successors]
    ending = (mdp.probabilities * enters).sum(-1)
    probabilities = np.concatenate(
        [np.where(enters, 0.0, mdp.probabilities), ending[..., None] * mdp.start[starts]], -1
    )
    gamma = mdp.gamma if mdp.gamma < 1 else 1 - 1e-9
    none = np.zeros(s, bool)
    labels = {"name": f"{mdp.name}, restarting", "action_names": mdp.action_names, "grid": mdp.grid}
    return MDP(successors, probabilities, mdp.reward.copy(), mdp.start.copy(), gamma, none, **labels)


def flow_matrix(mdp: MDP, gamma: float) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """The constraints of occupancy measures x(s, a) >= 0: E x = rho_0 on the states that are not terminal.

    (E x)(s') = sum_a x(s', a) - gamma sum_{s, a} P(s' | s, a) x(s, a) -> (E, rho_0, the columns that E has: s * A + a
    of the available actions in states that are not terminal).
    """
    going = np.flatnonzero(~mdp.terminal)
    s, a = mdp.num_states, mdp.num_actions
    columns = np.flatnonzero(mdp.available & ~mdp.terminal[:, None])
    leaving = sp.kron(sp.identity(s, format="csr"), np.ones((1, a)), format="csr")
    balance = sp.csr_matrix(leaving - gamma * mdp.matrix.T)
    return sp.csr_matrix(balance[going][:, columns]), mdp.start[going], columns


def linear_program(mdp: MDP, *, tol: float = 1e-8) -> Solution:
    """max sum x r over occupancy measures x (the dual of min sum v, v >= r + gamma P v), by HiGHS.

    rho is uniform here, so that every state is visited and the policy is optimal everywhere. The basic solution names
    one action per state; its value is then found by an exact solve, so the answer is not limited by the LP solver's
    tolerance. (Puterman 1994, section 6.9; d'Epenoux 1963.)
    """
    balance, _, columns = flow_matrix(mdp, mdp.gamma)
    going = int((~mdp.terminal).sum())
    result = opt.linprog(-mdp.reward.ravel()[columns], A_eq=balance, b_eq=np.full(going, 1 / going), method="highs-ds")
    if result.status == 3:
        raise UsageError("The linear program is unbounded: with gamma = 1, some loop pays a positive reward for ever.")
    if result.x is None:
        raise UsageError(f"The linear program has no answer: {result.message}")
    occupancy = np.full(mdp.reward.shape, -1.0)
    occupancy.flat[columns] = result.x
    policy = occupancy.argmax(-1).astype(np.int32)
    value = evaluate(mdp, policy).value
    return _finish(mdp, value, int(result.nit), tol, "linear program")._replace(policy=policy)
