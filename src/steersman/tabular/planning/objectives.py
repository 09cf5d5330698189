"""What a policy is worth, where it goes, and how its worth changes with it: exact, by linear algebra.

The oracle of the sampled policy gradients. Policies are [S, A] probabilities (or [S] actions).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from scipy.sparse.csgraph import connected_components

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP, check_policy
from steersman.tabular.planning.dynamic_programming import evaluate


def advantages(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    """A_pi(s, a) = Q_pi(s, a) - V_pi(s), [S, A]; its mean under pi is zero in every state; -inf where not available."""
    answer = evaluate(mdp, policy, method="direct")
    return answer.q - answer.value[:, None]


def start_value(mdp: MDP, policy: np.ndarray) -> float:
    """J(pi) = sum_s rho_0(s) V_pi(s), the expected discounted return."""
    return float(mdp.start @ evaluate(mdp, policy, method="direct").value)


def visitation(mdp: MDP, policy: np.ndarray, *, normalise: bool = True) -> np.ndarray:
    """d(s) = (1 - gamma) sum_t gamma^t Pr(s_t = s), [S]; terminal states have none.

    ``normalise`` = False, or gamma = 1, gives the expected (discounted) number of visits instead. With terminal states
    the normalised d sums to one over the states visited before the end. (Sutton & Barto 2018, section 9.2.)
    """
    evaluate(mdp, policy, method="direct")  # refuses a policy that never ends when gamma = 1
    matrix, _ = mdp.policy_matrix(policy)
    keep = sp.diags((~mdp.terminal).astype(np.float64))
    system = sp.csc_matrix(sp.identity(mdp.num_states) - mdp.gamma * (keep @ matrix @ keep)).T
    visits = spla.spsolve(sp.csc_matrix(system), mdp.start * ~mdp.terminal)
    return visits / visits.sum() if normalise else visits


def stationary(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    """The long-run share of time in each state from rho_0, lim (1/T) sum_t Pr(s_t = s), [S].

    Each recurrent class by elimination, weighed by the probability of ending up in it: exact to rounding entry by
    entry, however rare a state is. (Grassmann, Taksar & Heyman 1985; Puterman 1994, appendix A.)
    """
    matrix, _ = mdp.policy_matrix(policy)
    p = matrix.toarray()
    count, part = connected_components(p > 0, connection="strong")
    leaves = np.zeros(count, bool)
    np.logical_or.at(leaves, part, (p * (part[:, None] != part)).any(-1))
    passing = leaves[part]
    arrive = np.where(passing, 0.0, mdp.start)
    if passing.any():
        visits = np.linalg.solve((np.eye(int(passing.sum())) - p[np.ix_(passing, passing)]).T, mdp.start[passing])
        arrive = arrive + np.where(passing, 0.0, visits @ p[passing])
    share = np.zeros(len(p))
    for c in np.flatnonzero(~leaves):
        member = part == c
        share[member] = arrive[member].sum() * _eliminated(p[np.ix_(member, member)])
    return share


def _eliminated(p: np.ndarray) -> np.ndarray:
    """The stationary distribution of an irreducible chain [n, n], by Gaussian elimination without subtractions."""
    p = p.copy()
    for k in range(len(p) - 1):  # take state k out: who went there goes on to where it leads
        p[k + 1 :, k] /= p[k, k + 1 :].sum()
        p[k + 1 :, k + 1 :] += np.outer(p[k + 1 :, k], p[k, k + 1 :])
    share = np.ones(len(p))
    for k in reversed(range(len(p) - 1)):
        share[k] = share[k + 1 :] @ p[k + 1 :, k]
    return share / share.sum()


def average_value(mdp: MDP, policy: np.ndarray) -> float:
    """J(pi) = sum_s d_pi(s) V_pi(s), with d_pi the normalised visitation."""
    return float(visitation(mdp, policy) @ evaluate(mdp, policy, method="direct").value)


def average_reward_of(mdp: MDP, policy: np.ndarray) -> float:
    """J(pi) = lim (1/T) E[sum_t r_t] from rho_0; 0 for a policy that ends (see ``criteria.restarting``)."""
    _, reward = mdp.policy_matrix(policy)
    return float(stationary(mdp, policy) @ reward)


def softmax_policy(theta: np.ndarray) -> np.ndarray:
    """pi(a | s) = exp theta(s, a) / sum_b exp theta(s, b), [S, A]."""
    weights = np.exp(theta - theta.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def policy_gradient(mdp: MDP, theta: np.ndarray) -> np.ndarray:
    """dJ / dtheta of the start value for the softmax policy of ``theta`` [S, A], exactly.

    sum over visits: n(s) pi(a | s) A_pi(s, a), with n the discounted visits; the policy is that of theta on the actions
    that are available, and 0 in the others' places. (Sutton et al. 2000, theorem 1.)
    """
    theta = np.asarray(theta, np.float64)
    if theta.shape != (mdp.num_states, mdp.num_actions):
        raise UsageError(f"theta must be [S, A] = ({mdp.num_states}, {mdp.num_actions}); got {theta.shape}.")
    pi = softmax_policy(np.where(mdp.available, theta, -np.inf))
    gained = np.where(mdp.available, advantages(mdp, pi), 0.0)
    return visitation(mdp, pi, normalise=False)[:, None] * pi * gained


def trajectory_log_prob(mdp: MDP, policy: np.ndarray, states: np.ndarray, actions: np.ndarray) -> float:
    """log P(tau | pi) = log rho_0(s_0) + sum_t [log pi(a_t | s_t) + log P(s_{t+1} | s_t, a_t)].

    ``states`` int [T + 1], ``actions`` int [T]; -inf for an impossible trajectory.
    """
    states, actions = np.asarray(states), np.asarray(actions)
    if len(states) != len(actions) + 1:
        raise UsageError(f"A trajectory has one more state than actions; got {len(states)} and {len(actions)}.")
    pi = check_policy(mdp, policy)
    s, a, after = states[:-1], actions, states[1:]
    moved = (mdp.probabilities[s, a] * (mdp.successors[s, a] == after[:, None])).sum(-1)
    with np.errstate(divide="ignore"):
        return float(np.log(mdp.start[states[0]]) + np.log(pi[s, a]).sum() + np.log(moved).sum())
