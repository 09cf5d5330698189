"""How far a value can be from the truth: certificates computed from the value itself, rounding included."""

from __future__ import annotations

import numpy as np

from steersman.tabular.mdp import MDP

EPS = float(np.finfo(np.float64).eps)


def size(x: np.ndarray) -> float:
    """The largest finite |x|: -inf stands for an action that is not available."""
    return float(np.abs(x, where=x > -np.inf, out=np.zeros_like(x)).max(initial=0.0))


def rounding(mdp: MDP, scale: float) -> float:
    """A bound on the rounding error of one backup in float64, for values and rewards up to ``scale`` in size."""
    return (mdp.successors.shape[-1] + 4) * EPS * scale


def bracket(mdp: MDP, low: float, high: float, scale: float) -> tuple[float, float]:
    """(shift, bound): from w = T v with low <= w - v <= high, |V* - (w + shift)| <= bound; for gamma < 1.

    V* lies in w + gamma / (1 - gamma) [low, high], so the middle is at most half the width away (MacQueen 1966;
    Puterman 1994, theorem 6.6.3). Terminal states stay at zero and count as one more difference of 0.
    """
    if mdp.terminal.any():
        low, high = min(low, 0.0), max(high, 0.0)
    gain = mdp.gamma / (1 - mdp.gamma)
    slack = rounding(mdp, scale) / (1 - mdp.gamma)
    return gain * (low + high) / 2, gain * (high - low) / 2 + slack


def certify(mdp: MDP, value: np.ndarray, q: np.ndarray) -> float:
    """A bound on max_s |value(s) - V*(s)| from its one-step lookahead ``q`` [S, A].

    gamma < 1: max |T v - v| / (1 - gamma). gamma = 1: max |T v - v| times the longest expected number of steps that
    matters (see :func:`longest_episode`); infinite when no such number can be shown.
    """
    scale = size(q) + float(np.abs(value).max())
    error = np.abs(q.max(-1) - value)[~mdp.terminal].max(initial=0.0) + rounding(mdp, scale)
    horizon = 1 / (1 - mdp.gamma) if mdp.gamma < 1 else longest_episode(mdp, value, error)
    return float(error * horizon) if horizon < np.inf else float("inf")


def longest_episode(mdp: MDP, value: np.ndarray, error: float, max_sweeps: int = 5000) -> float:
    """With gamma = 1: expected steps to the end that no relevant policy exceeds, or infinity.

    Two ways to show one. If every step costs at least c > 0, but for a payment of at most g for ending, a policy near
    ``value`` cannot last longer than (g + c + max |v|) / c. Otherwise, if every policy ends, the longest expected
    episode is the fixed point of m = 1 + max_a P_a m; an m that falls short of it by e is still a bound, m / (1 - e).
    (Bertsekas & Tsitsiklis 1991.)
    """
    going = ~mdp.terminal
    there = mdp.available & going[:, None]
    ending = (mdp.probabilities * mdp.terminal[mdp.successors]).sum(-1)[there]
    reward = mdp.reward[there]
    cost = -float(reward[ending == 0].max(initial=-1.0 if (ending > 0).all() else -np.inf))
    if cost > 2 * error:
        ends = ending > 0
        bonus = max(float(((reward[ends] + cost) / ending[ends]).max(initial=0.0)), 0.0)
        return (bonus + float(np.abs(value).max())) / (cost - error)
    steps = np.zeros(mdp.num_states)
    for _ in range(max_sweeps):
        ahead = (mdp.matrix @ steps).reshape(mdp.available.shape)
        new = np.where(going, 1 + ahead.max(-1, where=mdp.available, initial=0.0), 0.0)
        short = float((new - steps).max())
        if short < 1e-3:
            return float(new.max()) / (1 - short)
        steps = new
    return float("inf")
