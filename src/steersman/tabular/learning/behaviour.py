"""How a learner acts: each function makes a ``Behaviour``, (q [A], visits [A], step) -> Categorical over the actions.

An action whose value is -inf is not allowed and never taken. A setting may be a number, a traced number, or a schedule
of the step (``functools.partial(exploration.linear, ...)``).
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from steersman.theory import exploration
from steersman.theory.distributions import Categorical

Behaviour = Callable[[Array, Array, Array], Categorical]
Setting = float | Array | Callable[[Array], Array]


def at_step(setting: Setting, step: Array) -> Array:
    """The setting's value at a step, float32."""
    return jnp.asarray(setting(step) if callable(setting) else setting, jnp.float32)


def allowed(q: Array) -> Array:
    """Which actions may be taken, bool [A]."""
    return q > -jnp.inf


def greedy() -> Behaviour:
    """argmax_a q, ties shared."""
    return lambda q, visits, step: exploration.greedy(q)


def epsilon_greedy(epsilon: Setting = 0.1) -> Behaviour:
    """Uniform with probability epsilon, else greedy. (Sutton & Barto 2018, section 2.2.)"""
    return lambda q, visits, step: exploration.epsilon_greedy(q, at_step(epsilon, step), allowed(q))


def boltzmann(temperature: Setting = 1.0) -> Behaviour:
    """P(a) proportional to exp(q(a) / T); T -> 0 is greedy."""
    return lambda q, visits, step: exploration.boltzmann(q, at_step(temperature, step), allowed(q))


def ucb(c: Setting = 2.0) -> Behaviour:
    """Greedy in q + c sqrt(ln n / N(a)), n the visits to the state. (Sutton & Barto 2018, section 2.7.)"""

    def act(q: Array, visits: Array, step: Array) -> Categorical:
        seen = jnp.sum(visits).astype(jnp.int32) + jnp.int32(1)
        bonus = exploration.ucb(visits, seen, at_step(c, step))
        return exploration.greedy(jnp.where(allowed(q), q + bonus, -jnp.inf))

    return act


def fixed(policy: Array) -> Behaviour:
    """One distribution [A] whatever q says: for off-policy learning in a single state."""
    return lambda q, visits, step: Categorical.of(jnp.asarray(policy, jnp.float32))


def uniform() -> Behaviour:
    """Every action alike."""
    return lambda q, visits, step: Categorical.of(allowed(q).astype(q.dtype))
