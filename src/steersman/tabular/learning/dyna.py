"""Learning, modelling and planning together: Dyna-Q and Dyna-Q+."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from steersman.tabular.learning.control import Learner, Transition
from steersman.types import Key


class Model(NamedTuple):
    """The table, and the last outcome seen of every pair; before any, a pair leads back to its state and pays 0."""

    q: Array  # float32 [S, A]
    reward: Array  # float32 [S, A]
    discount: Array  # float32 [S, A]
    s_next: Array  # int32 [S, A]
    last: Array  # int32 [S, A]: the step of the last try
    order: Array  # int32 [S * A] or [S]: what has been seen, in order of first sight
    seen: Array  # int32: how much of ``order`` is filled
    known: Array  # bool, like ``order`` but by number


def dyna_q(planning_steps: int) -> Learner:
    """Q-learning from each step, then from ``planning_steps`` remembered pairs drawn uniformly from those tried.

    The model keeps the latest outcome, so it is meant for deterministic tasks. (Sutton 1990; Sutton & Barto 2018, 8.2.)
    """
    return _dyna(f"Dyna-Q ({planning_steps})", planning_steps, 0.0, plus=False)


def dyna_q_plus(planning_steps: int, kappa: float | Array = 1e-3) -> Learner:
    """Dyna-Q whose remembered reward grows by kappa sqrt(steps since the pair was tried), untried actions included.

    Finds short cuts that Dyna-Q has no reason to look for. (Sutton & Barto 2018, section 8.3.)
    """
    return _dyna(f"Dyna-Q+ ({planning_steps})", planning_steps, kappa, plus=True)


def _dyna(name: str, planning_steps: int, kappa: float | Array, plus: bool) -> Learner:
    def init(initial: Array) -> Model:
        shape = states, actions = initial.shape
        size = states if plus else states * actions
        back = jnp.broadcast_to(jnp.arange(states, dtype=jnp.int32)[:, None], shape)
        return Model(
            initial, jnp.zeros(shape), jnp.ones(shape), back, jnp.zeros(shape, jnp.int32),
            jnp.zeros(size, jnp.int32), jnp.int32(0), jnp.zeros(size, bool),
        )  # fmt: skip

    def learn_from(q: Array, s: Array, a: Array, reward: Array, discount: Array, s_next: Array, alpha: Array) -> Array:
        step = alpha * (reward + discount * q[s_next].max() - q[s, a])
        return q.at[s, a].add(jnp.where(q[s, a] > -jnp.inf, step, 0.0))  # -inf: not available, Dyna-Q+ may draw it

    def update(m: Model, t: Transition, key: Key) -> Model:
        actions = m.q.shape[1]
        q = learn_from(m.q, t.s, t.a, t.reward, t.discount, t.s_next, t.alpha)
        number = t.s if plus else t.s * actions + t.a
        # A pair's model is true of itself only; untried pairs keep the discount 1 and need gamma when used.
        m = m._replace(
            reward=m.reward.at[t.s, t.a].set(t.reward),
            discount=m.discount.at[t.s, t.a].set(jnp.where(t.discount > 0, 1.0, 0.0)),
            s_next=m.s_next.at[t.s, t.a].set(t.s_next),
            last=m.last.at[t.s, t.a].set(t.step),
            order=m.order.at[jnp.where(m.known[number], m.order.shape[0], m.seen)].set(number, mode="drop"),
            seen=m.seen + jnp.where(m.known[number], 0, 1),
            known=m.known.at[number].set(True),
        )
        if planning_steps == 0:
            return m._replace(q=q)
        draws = jax.random.uniform(key, (planning_steps, 2))

        def plan(i, q):
            which = m.order[jnp.minimum((draws[i, 0] * m.seen.astype(jnp.float32)).astype(jnp.int32), m.seen - 1)]
            if plus:
                s, a = which, jnp.minimum((draws[i, 1] * actions).astype(jnp.int32), actions - 1)
                bonus = kappa * jnp.sqrt((t.step - m.last[s, a]).astype(jnp.float32))
            else:
                s, a, bonus = which // actions, which % actions, 0.0
            return learn_from(q, s, a, m.reward[s, a] + bonus, t.gamma * m.discount[s, a], m.s_next[s, a], t.alpha)

        return m._replace(q=jax.lax.fori_loop(0, planning_steps, plan, q))

    return Learner(name, init, lambda m: m.q, update)
