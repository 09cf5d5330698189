"""What a policy is worth, where it goes, and how its worth changes with it: exact, by linear algebra.

The oracle of the sampled policy gradients. Policies are [S, A] probabilities (or [S] actions).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP, check_policy
from steersman.tabular.planning.dynamic_programming import evaluate


def advantages(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    """A_pi(s, a) = Q_pi(s, a) - V_pi(s), [S, A]; its mean under pi is zero in every state."""
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

    Solved from d (I - P) = 0 where the chain has one recurrent class, else summed by repeated squaring.
    """
    matrix, _ = mdp.policy_matrix(policy)
    p = matrix.toarray()
    # Cesaro averages by doubling: mean of 2n steps = mean of n, and the same n steps later.
    mean, ahead = 0.5 * (np.eye(len(p)) + p), p @ p
    for _ in range(60):
        mean, ahead = 0.5 * (mean + mean @ ahead), ahead @ ahead
        ahead /= ahead.sum(-1, keepdims=True)
        mean /= mean.sum(-1, keepdims=True)
    return mdp.start @ mean


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

    sum over visits: n(s) pi(a | s) A_pi(s, a), with n the discounted visits. (Sutton et al. 2000, theorem 1.)
    """
    theta = np.asarray(theta, np.float64)
    if theta.shape != (mdp.num_states, mdp.num_actions):
        raise UsageError(f"theta must be [S, A] = ({mdp.num_states}, {mdp.num_actions}); got {theta.shape}.")
    pi = softmax_policy(theta)
    return visitation(mdp, pi, normalise=False)[:, None] * pi * advantages(mdp, pi)


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
