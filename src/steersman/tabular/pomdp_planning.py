"""Planning under partial observation: QMDP, the fast informed bound, and point-based value iteration with bounds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from steersman.errors import UsageError
from steersman.tabular.planning import value_iteration
from steersman.tabular.pomdp import POMDP


class AlphaPolicy(NamedTuple):
    """V(b) = max_i alpha_i . b, and the action of the best i: a lower bound on V* that its policy attains."""

    alphas: np.ndarray  # float64 [N, S]
    actions: np.ndarray  # int32 [N]
    lower: float  # V(b_0): what the policy is worth at least
    upper: float  # V*(b_0) is at most this
    iterations: int

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
    joint = m.dense()[..., None] * pomdp.observation.transpose(1, 0, 2)[None].transpose(0, 2, 1, 3)  # [S, A, S', O]
    q = qmdp(pomdp, tol=tol)
    for _ in range(max_sweeps):
        new = m.reward + m.gamma * np.einsum("sato,tb->saob", joint, q).max(-1).sum(-1)
        change, q = float(np.abs(new - q).max()), new
        if change * m.gamma / (1 - m.gamma) <= tol:
            break
    return q + tol


def pbvi(
    pomdp: POMDP, *, points: int = 200, tol: float = 1e-6, max_iterations: int = 2000, expand: int = 8, seed: int = 0
) -> AlphaPolicy:
    """Point-based value iteration: exact backups at a growing set of reachable beliefs, between two bounds.

    Lower: every backup makes vectors that a policy attains, from min r / (1 - gamma) up. Upper: a sawtooth over the
    same points, from the fast informed bound down. Beliefs are added where the two lie far apart, up to ``points``.
    Stops when they meet to ``tol`` at b_0, or when neither moves. Raises UsageError for gamma = 1.
    (Pineau, Gordon & Thrun 2003; Hauskrecht 2000; Smith & Simmons 2005 for the two bounds.)
    """
    m = pomdp.mdp
    _discounted(pomdp)
    start = m.start
    joint = m.dense()[..., None] * pomdp.observation.transpose(1, 0, 2)[None].transpose(0, 2, 1, 3)
    wander = np.unique(np.concatenate([start[None], _reachable(pomdp, start, expand, seed)]), axis=0)
    # The corners come first: the upper bound leans on them, so they must be able to fall too.
    beliefs = np.concatenate([np.eye(m.num_states), wander[wander.max(-1) < 1]])
    worst = float(m.reward[~m.terminal].min(initial=0.0 if m.terminal.any() else np.inf))
    alphas, actions = np.full((1, m.num_states), worst / (1 - m.gamma)), np.zeros(1, np.int32)
    corners = fast_informed_bound(pomdp).max(-1)
    ceiling = beliefs @ corners
    done, low, high = 0, -np.inf, np.inf
    for done in range(1, max_iterations + 1):
        before = beliefs @ alphas.T
        made, chosen = _backup(m.reward, m.gamma, joint, alphas, beliefs)
        keep = (made * beliefs).sum(-1) >= before.max(-1)  # never trade a better vector for a worse one
        every = np.concatenate([made[keep], alphas]), np.concatenate([chosen[keep], actions])
        best = np.unique((beliefs @ every[0].T).argmax(-1))
        moved = float(np.abs((beliefs @ every[0][best].T).max(-1) - before.max(-1)).max())
        alphas, actions = every[0][best], every[1][best]
        lowered = _upper_backup(m.reward, m.gamma, joint, beliefs, ceiling, corners)
        fell, ceiling = float((ceiling - lowered).max()), np.minimum(ceiling, lowered)
        corners = ceiling[: m.num_states]
        low, high = float((alphas @ start).max()), float(_sawtooth(start[None], beliefs, ceiling, corners)[0])
        if high - low <= tol:
            break
        if max(moved, fell) < 0.01 * tol:
            break
        if len(beliefs) < points and done % 5 == 0:
            beliefs, ceiling = _widen(pomdp, joint, beliefs, ceiling, corners, alphas, expand, points)
    return AlphaPolicy(alphas, actions, low, high, done)


def _discounted(pomdp: POMDP) -> None:
    if pomdp.mdp.gamma >= 1:
        raise UsageError("Point-based planning and its bounds need gamma < 1; give the POMDP a discount.")


def _reachable(pomdp: POMDP, belief: np.ndarray, depth: int, seed: int) -> np.ndarray:
    """Beliefs along a few random histories from ``belief``."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(4):
        b = belief
        for _ in range(depth):
            a = int(rng.integers(pomdp.mdp.num_actions))
            chances = pomdp.predict(b, a) @ pomdp.observation[a]
            b, _ = pomdp.update(b, a, int(rng.choice(len(chances), p=chances / chances.sum())))
            found.append(b.round(12))
    return np.array(found)


def _backup(reward, gamma, joint, alphas, beliefs) -> tuple[np.ndarray, np.ndarray]:
    """The best vector at each belief [N, S] and its action: alpha_a = r_a + gamma sum_o argmax_i b . g_aoi."""
    ahead = np.einsum("sato,it->aois", joint, alphas)  # [A, O, I, S]
    best = np.einsum("aois,ns->naoi", ahead, beliefs).argmax(-1)  # [N, A, O]
    a, o = np.arange(ahead.shape[0])[:, None], np.arange(ahead.shape[1])
    vectors = reward.T + gamma * ahead[a, o, best].sum(2)  # [N, A, S]
    chosen = np.einsum("nas,ns->na", vectors, beliefs).argmax(-1)
    return vectors[np.arange(len(beliefs)), chosen], chosen.astype(np.int32)


def _sawtooth(query: np.ndarray, beliefs: np.ndarray, ceiling: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The upper bound at ``query`` [N, S] by convexity: corners, pulled down by the point that helps most."""
    base, known = query @ corners, beliefs @ corners
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(beliefs[None] > 0, query[:, None] / beliefs[None], np.inf).min(-1)  # [N, points]
    return base + np.minimum(share * (ceiling - known)[None], 0.0).min(-1)


def _after(joint: np.ndarray, beliefs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(beliefs after every action and observation [N, A, O, S], their probabilities [N, A, O])."""
    mass = np.einsum("ns,sato->naot", beliefs, joint)
    chance = mass.sum(-1)
    return mass / np.where(chance > 0, chance, 1.0)[..., None], chance


def _upper_backup(reward, gamma, joint, beliefs, ceiling, corners) -> np.ndarray:
    after, chance = _after(joint, beliefs)
    ahead = _sawtooth(after.reshape(-1, after.shape[-1]), beliefs, ceiling, corners).reshape(chance.shape)
    return (beliefs @ reward + gamma * (chance * ahead).sum(-1)).max(-1)


def _widen(pomdp, joint, beliefs, ceiling, corners, alphas, count, points) -> tuple[np.ndarray, np.ndarray]:
    """Add the successors, under the actions the upper bound likes, whose bounds lie furthest apart."""
    m = pomdp.mdp
    after, chance = _after(joint, beliefs)
    flat = after.reshape(-1, after.shape[-1])
    high = _sawtooth(flat, beliefs, ceiling, corners).reshape(chance.shape)
    chosen = (beliefs @ m.reward + m.gamma * (chance * high).sum(-1)).argmax(-1)
    rows = np.arange(len(beliefs))
    low = (after @ alphas.T).max(-1)
    gap = (chance * (high - low))[rows, chosen]  # [N, O]
    order = np.argsort(-gap, axis=None)[: 4 * count]
    new = (
        after[rows[:, None], chosen[:, None], np.arange(chance.shape[-1])].reshape(-1, flat.shape[-1])[order].round(12)
    )
    new = new[new.sum(-1) > 0.5]
    fresh = [b for b in np.unique(new, axis=0) if np.abs(beliefs - b).sum(-1).min() > 1e-9]
    fresh = np.array(fresh[: min(count, points - len(beliefs))]).reshape(-1, flat.shape[-1])
    return np.concatenate([beliefs, fresh]), np.concatenate([ceiling, _sawtooth(fresh, beliefs, ceiling, corners)])
