"""Control over several steps: n-step SARSA, tree backup, SARSA(lambda), Watkins's Q(lambda)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from steersman.errors import UsageError
from steersman.tabular.learning.control import Learner, Transition
from steersman.tabular.learning.prediction import TRACES, _grower
from steersman.types import Key


class Window(NamedTuple):
    """The table and the last n transitions of the running episode, as a ring."""

    q: Array  # float32 [S, A]
    s: Array  # int32 [n]
    a: Array  # int32 [n]
    reward: Array  # float32 [n]
    length: Array  # int32: transitions of this episode so far


def n_step_sarsa(n: int) -> Learner:
    """Q(s_t, a_t) moves to r_{t+1} + ... + gamma^n Q(s_{t+n}, a_{t+n}); n = 1 is SARSA. (Sutton & Barto 2018, 7.2.)"""
    return _windowed(f"{n}-step SARSA", n, tree=False)


def tree_backup(n: int) -> Learner:
    """n-step without importance sampling: actions not taken count by their value and the behaviour's probability.

    G = r + gamma [sum_{b != a'} pi(b | s') Q(s', b) + pi(a' | s') G']; n = 1 is expected SARSA.
    (Precup, Sutton & Singh 2000; Sutton & Barto 2018, section 7.5.)
    """
    return _windowed(f"{n}-step tree backup", n, tree=True)


def _windowed(name: str, n: int, tree: bool) -> Learner:
    if n < 1:
        raise UsageError(f"n-step methods need n >= 1; got {n}.")

    def init(initial: Array) -> Window:
        zeros = jnp.zeros(n, jnp.int32)
        return Window(initial, zeros, zeros, jnp.zeros(n), jnp.int32(0))

    def target(q: Array, w: Window, t: Transition, gamma: Array, oldest: Array) -> Array:
        """The return of transition number ``oldest``, summed from the newest backwards."""

        def back(j, carry):
            g, s_after, a_after = carry
            at = (w.length - 1 - j) % n
            taken = jnp.ones(())
            rest = jnp.zeros(())
            if tree:
                policy = t.policy(s_after)
                taken = policy[a_after]
                others = jnp.where(policy > 0, policy, 0.0).at[a_after].set(0.0)
                rest = jnp.dot(others, jnp.where(others > 0, q[s_after], 0.0))
            discount = jnp.where(j == 0, t.discount, gamma)
            new = w.reward[at] + discount * (rest + taken * g)
            use = w.length - 1 - j >= oldest
            keep = lambda x, y: jnp.where(use, x, y)
            return keep(new, g), keep(w.s[at], s_after), keep(w.a[at], a_after)

        start = (q[t.s_next, t.a_next], t.s_next, t.a_next)
        return jax.lax.fori_loop(0, n, back, start)[0]

    def update(w: Window, t: Transition, key: Key) -> Window:
        at = w.length % n
        w = Window(w.q, w.s.at[at].set(t.s), w.a.at[at].set(t.a), w.reward.at[at].set(t.reward), w.length + 1)
        gamma = t.gamma
        oldest = w.length - n
        due = jnp.where(t.ended, n, 1)  # at the end, everything still waiting

        def one(i, q):
            number = oldest + i
            slot = number % n
            g = target(q, w, t, gamma, number)
            return q.at[w.s[slot], w.a[slot]].add(jnp.where(number >= 0, t.alpha * (g - q[w.s[slot], w.a[slot]]), 0.0))

        q = jax.lax.fori_loop(0, due, one, w.q)
        return w._replace(q=q, length=jnp.where(t.ended, 0, w.length))

    return Learner(name, init, lambda w: w.q, update, acts_first=True)


class Traced(NamedTuple):
    q: Array  # float32 [S, A]
    z: Array  # float32 [S, A]: eligibility


def sarsa_lambda(lambda_: float | Array, trace: str = "accumulating") -> Learner:
    """SARSA's error given to every pair by its trace, which decays by gamma lambda; lambda = 0 is SARSA.

    ``trace``: accumulating, replacing or dutch. (Sutton & Barto 2018, section 12.7.)
    """
    grow = _trace(trace)

    def update(m: Traced, t: Transition, key: Key) -> Traced:
        z = grow(m.z, _pair(m.z, t), t.alpha)
        delta = t.reward + t.discount * m.q[t.s_next, t.a_next] - m.q[t.s, t.a]
        return Traced(m.q + t.alpha * delta * z, jnp.where(t.ended, 0.0, t.discount * lambda_ * z))

    return _traced(f"SARSA({lambda_})", update)


def watkins_q_lambda(lambda_: float | Array, trace: str = "accumulating") -> Learner:
    """Q-learning's error by traces that are cut when an exploratory action is taken; lambda = 0 is Q-learning.

    (Watkins 1989; Sutton & Barto 2018, section 12.10.)
    """
    grow = _trace(trace)

    def update(m: Traced, t: Transition, key: Key) -> Traced:
        z = grow(m.z, _pair(m.z, t), t.alpha)
        best = m.q[t.s_next].max()
        delta = t.reward + t.discount * best - m.q[t.s, t.a]
        cut = t.ended | (m.q[t.s_next, t.a_next] < best)
        return Traced(m.q + t.alpha * delta * z, jnp.where(cut, 0.0, t.discount * lambda_ * z))

    return _traced(f"Watkins Q({lambda_})", update)


def _trace(trace: str):
    if trace not in TRACES:
        raise UsageError(f"No trace is called {trace!r}; there are {', '.join(TRACES)}.")
    return _grower(trace)


def _pair(z: Array, t: Transition) -> Array:
    return jnp.zeros_like(z).at[t.s, t.a].set(1.0)


def _traced(name: str, update) -> Learner:
    init = lambda initial: Traced(initial, jnp.zeros_like(initial))
    return Learner(name, init, lambda m: m.q, update, acts_first=True)
