"""Planning under partial observation: QMDP, the fast informed bound, and point-based value iteration with bounds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from steersman.errors import UsageError
from steersman.tabular.planning.dynamic_programming import value_iteration
from steersman.tabular.pomdp import POMDP

SWEEPS = 10  # backups of the lower bound at all beliefs met, at most, after each walk


class AlphaPolicy(NamedTuple):
    """V(b) = max_i alpha_i . b, a lower bound on V*, and the action of the best i.

    Vectors that are best at none of the beliefs met are dropped, so acting by it may lose a little at others.
    """

    alphas: np.ndarray  # float64 [N, S]
    actions: np.ndarray  # int32 [N]
    lower: float  # V(b_0): what the policy is worth at least
    upper: float  # V*(b_0) is at most this
    iterations: int
    history: np.ndarray  # float64 [iterations, 2]: both bounds after each

    def value(self, belief: np.ndarray) -> float:
        return float((self.alphas @ belief).max())

    def act(self, belief: np.ndarray) -> int:
        return int(self.actions[int(np.argmax(self.alphas @ belief))])

    @property
    def gap(self) -> float:
        return self.upper - self.lower


def qmdp(pomdp: POMDP, *, tol: float = 1e-9) -> np.ndarray:
    """Q*(s, a) of the underlying MDP, [S, A]: act by argmax_a b . Q(., a). An upper bound on the POMDP's value.

    It assumes that all will be known after one step, so it never acts to learn. (Littman, Cassandra & Kaelbling 1995.)
    """
    found = value_iteration(pomdp.mdp, tol=tol)
    return pomdp.mdp.lookahead(found.value) + found.bound


def fast_informed_bound(pomdp: POMDP, *, tol: float = 1e-9, max_sweeps: int = 100_000) -> np.ndarray:
    """Q(s, a) = r + gamma sum_o max_a' sum_s' P(s' | s, a) O(o | a, s') Q(s', a'), [S, A]: V* <= this <= QMDP.

    (Hauskrecht 2000.)
    """
    m = pomdp.mdp
    _discounted(pomdp)
    p = m.dense().transpose(1, 0, 2)  # [A, S, S']
    q = qmdp(pomdp, tol=tol)
    for _ in range(max_sweeps):
        ahead = pomdp.observation[..., None] * q[None, :, None]  # [A, S', O, A']
        informed = (p @ ahead.reshape(*p.shape[:2], -1)).reshape(*p.shape[:2], -1, m.num_actions).max(-1).sum(-1)
        new = m.reward + m.gamma * informed.T
        change, q = float(np.abs(new - q).max()), new
        if change * m.gamma / (1 - m.gamma) <= tol:
            break
    return q + tol


def pbvi(pomdp: POMDP, *, tol: float = 1e-3, max_iterations: int = 1000, depth: int = 200) -> AlphaPolicy:
    """Point-based value iteration between two bounds, at beliefs found by heuristic search.

    Lower: vectors that a policy attains, from the best that one action for ever gives up. Upper: a sawtooth over the
    beliefs met so far, from the fast informed bound down. An iteration walks from b_0 by the action that the upper
    bound likes and the observation that leaves most undecided, until the bounds are within ``tol`` / gamma^t; it backs
    both up on the way home, and then the lower one at all beliefs met. Stops when they meet to ``tol`` at b_0.
    ``depth`` cuts the walks. Raises UsageError for gamma = 1. (Pineau, Gordon & Thrun 2003; the search: Smith & Simmons
    2005, HSVI.)
    """
    m = pomdp.mdp
    _discounted(pomdp)
    p = m.dense().transpose(1, 0, 2)  # [A, S, S']
    blind = np.stack([np.linalg.solve(np.eye(m.num_states) - m.gamma * p[a], m.reward[:, a]) for a in range(len(p))])
    lower = _Lower(blind, np.arange(len(p), dtype=np.int32))
    upper = _Upper(fast_informed_bound(pomdp).max(-1))
    start, history, crowded = m.start, [], 100
    for _ in range(max_iterations):
        walked, belief, t = [], start, 0
        while t < depth:
            after, chance = _after(pomdp, p, belief)
            high = upper(after.reshape(-1, m.num_states)).reshape(chance.shape)
            low = (after @ lower.alphas.T).max(-1)
            walked.append((belief, after, chance))
            action = int((belief @ m.reward + m.gamma * (chance * high).sum(-1)).argmax())
            excess = chance[action] * (high[action] - low[action] - tol / m.gamma ** (t + 1))
            if excess.max() <= 0:
                break
            belief, t = after[action, int(excess.argmax())], t + 1
        for belief, after, chance in reversed(walked):
            high = upper(after.reshape(-1, m.num_states)).reshape(chance.shape)
            upper.add(belief, float((belief @ m.reward + m.gamma * (chance * high).sum(-1)).max()))
            lower.add(*_backup(pomdp, p, lower.alphas, belief[None]))
        points = np.concatenate([upper.beliefs, np.eye(m.num_states), start[None]])
        for _ in range(SWEEPS):
            before = (points @ lower.alphas.T).max(-1)
            lower.add(*_backup(pomdp, p, lower.alphas, points))
            lower.prune(points)
            if float(((points @ lower.alphas.T).max(-1) - before).max()) <= tol:
                break
        if len(upper.beliefs) > crowded:
            upper.prune()
            crowded = max(100, 3 * len(upper.beliefs) // 2)
        history.append((float((lower.alphas @ start).max()), float(upper(start[None])[0])))
        if history[-1][1] - history[-1][0] <= tol:
            break
    bounds = np.array(history)
    return AlphaPolicy(lower.alphas, lower.actions, float(bounds[-1, 0]), float(bounds[-1, 1]), len(bounds), bounds)


def _discounted(pomdp: POMDP) -> None:
    if pomdp.mdp.gamma >= 1:
        raise UsageError("Point-based planning and its bounds need gamma < 1; give the POMDP a discount.")


class _Lower:
    """max_i alpha_i . b, and the actions of the vectors."""

    def __init__(self, alphas: np.ndarray, actions: np.ndarray) -> None:
        self.alphas, self.actions = alphas, actions

    def add(self, alphas: np.ndarray, actions: np.ndarray) -> None:
        self.alphas = np.concatenate([self.alphas, alphas])
        self.actions = np.concatenate([self.actions, actions])

    def prune(self, beliefs: np.ndarray) -> None:
        """Keep the vectors that are best at some belief."""
        best = np.unique((beliefs @ self.alphas.T).argmax(-1))
        self.alphas, self.actions = self.alphas[best], self.actions[best]


class _Upper:
    """The sawtooth: the plane through the corners, pulled down by the known belief that helps most."""

    def __init__(self, corners: np.ndarray) -> None:
        self.corners = corners
        self.beliefs, self.values = np.zeros((0, len(corners))), np.zeros(0)

    def __call__(self, query: np.ndarray) -> np.ndarray:
        """The bound at query [N, S] -> [N]."""
        base = query @ self.corners
        if not len(self.beliefs):
            return base
        saved = self.values - self.beliefs @ self.corners  # at most 0
        share = np.full((len(query), len(self.beliefs)), np.inf)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for s, inverse in enumerate(1 / self.beliefs.T):  # min over s of query / belief where it is positive
                np.fmin(share, query[:, s, None] * inverse, out=share)  # elsewhere inf or NaN: passed over
        return base + np.minimum(share * saved, 0.0).min(-1)

    def add(self, belief: np.ndarray, value: float) -> None:
        if belief.max() == 1:
            corner = int(belief.argmax())
            self.corners = self.corners.copy()
            self.corners[corner] = min(self.corners[corner], value)
        elif value < self(belief[None])[0]:
            self.beliefs, self.values = np.concatenate([self.beliefs, belief[None]]), np.append(self.values, value)

    def prune(self) -> None:
        """Drop beliefs whose value the others give."""
        keep = np.ones(len(self.beliefs), bool)
        whole = self.beliefs, self.values
        for i in range(len(keep)):
            keep[i] = False
            self.beliefs, self.values = whole[0][keep], whole[1][keep]
            keep[i] = self(whole[0][i][None])[0] > whole[1][i] + 1e-12
        self.beliefs, self.values = whole[0][keep], whole[1][keep]


def _after(pomdp: POMDP, p: np.ndarray, belief: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(beliefs after every action and observation [A, O, S], their probabilities [A, O])."""
    mass = ((belief @ p)[..., None] * pomdp.observation).transpose(0, 2, 1)
    chance = mass.sum(-1)
    return mass / np.where(chance > 0, chance, 1.0)[..., None], chance


def _backup(pomdp: POMDP, p: np.ndarray, alphas: np.ndarray, beliefs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best vector at each belief [N, S], r_a + gamma P_a sum_o O(o | a, .) alpha_(a, o), and its action."""
    m, seen = pomdp.mdp, pomdp.observation
    made = []
    for part in np.array_split(beliefs, max(1, len(beliefs) * seen.size // 2**21)):  # 16 MB at a time
        mass = np.einsum("nat,ato->naot", np.einsum("ns,ast->nat", part, p, optimize=True), seen)
        best = (mass @ alphas.T).argmax(-1)  # [N, A, O]
        ahead = np.einsum("ato,naot->nat", seen, alphas[best])
        vectors = m.reward.T + m.gamma * np.einsum("ast,nat->nas", p, ahead, optimize=True)
        chosen = np.einsum("nas,ns->na", vectors, part).argmax(-1)
        made.append((vectors[np.arange(len(part)), chosen], chosen.astype(np.int32)))
    return np.concatenate([v for v, _ in made]), np.concatenate([a for _, a in made])
