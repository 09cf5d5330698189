"""Learning V_pi from episodes: Monte Carlo, TD(0), n-step TD, the lambda-return, TD(lambda) with its traces.

Each method is a pure function ``(episodes [E, T], value [S], alpha, gamma, ...) -> [E, S]``, the value after every
episode; ``jax.vmap`` it over seeds, step sizes and lambdas, and ``jax.jit`` the whole. S states, E episodes, T steps.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.tabular.learning.episodes import Episodes
from steersman.theory.returns import discounts, lambda_returns
from steersman.types import Array

TRACES = ("accumulating", "replacing", "dutch")
Scalar = float | Array


def _returns(e: Episodes, gamma: Scalar, lambda_: Scalar, value: Array) -> jax.Array:
    """G_t of one episode [T]; zeros past its end. A cut episode bootstraps from V of its last state."""
    discount = jnp.where(e.valid, discounts(e.terminated, gamma), 0.0)
    after = jnp.concatenate([e.valid[1:], jnp.zeros((1,), bool)])
    decay = jnp.where(after, jnp.asarray(lambda_, jnp.float32), 0.0)
    return lambda_returns(jnp.asarray(e.reward), discount, jnp.asarray(value)[e.state[1:]], decay)


def monte_carlo(
    episodes: Episodes, value: Array, alpha: Scalar | None, gamma: Scalar, *, first_visit: bool = True
) -> jax.Array:
    """V(s) <- V(s) + alpha (G - V(s)) after each episode; ``alpha`` = None averages all returns (1 / N(s)).

    ``first_visit`` counts each state once an episode. (Sutton & Barto 2018, section 5.1 and eq. 6.1.)
    """

    def episode(carry, e: Episodes):
        v, n = carry
        g = _returns(e, gamma, 1.0, jnp.zeros_like(v))
        s = jnp.asarray(e.state)[:-1]
        counts = e.valid & _first_visits(s, e.valid, v.shape[0]) if first_visit else e.valid

        def visit(c, x):
            v, n = c
            s_t, g_t, use = x
            n = n.at[s_t].add(jnp.where(use, 1.0, 0.0))
            rate = 1.0 / jnp.maximum(n[s_t], 1.0) if alpha is None else alpha
            return (v.at[s_t].add(jnp.where(use, rate * (g_t - v[s_t]), 0.0)), n), None

        (v, n), _ = jax.lax.scan(visit, (v, n), (s, g, counts))
        return (v, n), v

    value = jnp.asarray(value, jnp.float32)
    return jax.lax.scan(episode, (value, jnp.zeros_like(value)), episodes)[1]


def _first_visits(s: Array, valid: Array, states: int) -> jax.Array:
    """Which steps [T] see their state for the first time."""
    t = jnp.arange(s.shape[0], dtype=jnp.int32)
    earliest = jnp.full(states, s.shape[0], jnp.int32).at[s].min(jnp.where(valid, t, s.shape[0]))
    return earliest[s] == t


def importance_sampling(
    episodes: Episodes, target: Array, behaviour: Array, gamma: Scalar, *, weighted: bool = True
) -> jax.Array:
    """Off-policy every-visit Monte Carlo: V(s) = sum rho G / sum rho (weighted) or sum rho G / N (ordinary), [E, S].

    rho is the product of target / behaviour [S, A] from the visit to the episode's end. Weighted is biased and of
    bounded variance, ordinary unbiased and possibly of infinite variance. Unvisited states stay 0. (Sutton & Barto
    2018, 5.5.)
    """
    target, behaviour = jnp.asarray(target, jnp.float32), jnp.asarray(behaviour, jnp.float32)

    def episode(carry, e: Episodes):
        total, weight = carry
        s = jnp.asarray(e.state)[:-1]
        g = _returns(e, gamma, 1.0, jnp.zeros(total.shape[0]))
        ratio = jnp.where(e.valid, target[s, e.action] / behaviour[s, e.action], 1.0)
        rho = jnp.where(e.valid, jnp.flip(jnp.cumprod(jnp.flip(ratio))), 0.0)
        total = total.at[s].add(rho * g)
        weight = weight.at[s].add(rho if weighted else jnp.where(e.valid, 1.0, 0.0))
        return (total, weight), jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), 0.0)

    zeros = jnp.zeros(target.shape[0])
    return jax.lax.scan(episode, (zeros, zeros), episodes)[1]


def td0(episodes: Episodes, value: Array, alpha: Scalar, gamma: Scalar) -> jax.Array:
    """V(s) <- V(s) + alpha [r + gamma V(s') - V(s)] at every step. (Sutton & Barto 2018, section 6.1.)"""
    return n_step_td(episodes, value, alpha, gamma, n=1)


def n_step_td(episodes: Episodes, value: Array, alpha: Scalar, gamma: Scalar, *, n: int | Array) -> jax.Array:
    """V(s_t) <- V(s_t) + alpha [r_{t+1} + ... + gamma^n V(s_{t+n}) - V(s_t)], made as soon as s_{t+n} is seen.

    Near an end the return is what is left. n >= 1; it may be traced. (Sutton & Barto 2018, section 7.1.)
    """
    if isinstance(n, int) and n < 1:
        raise UsageError(f"n-step methods need n >= 1; got {n}.")
    g = jnp.asarray(gamma, jnp.float32)

    def episode(v, e: Episodes):
        steps = e.reward.shape[0]
        t = jnp.arange(steps, dtype=jnp.int32)
        length = jnp.sum(e.valid, dtype=jnp.int32)
        padded = jnp.concatenate([jnp.where(e.valid, e.reward, 0.0), jnp.zeros(steps)])
        reach = jnp.minimum(jnp.asarray(n, jnp.int32), steps)
        add = lambda i, total: total + g ** i.astype(jnp.float32) * jax.lax.dynamic_slice(padded, (i,), (steps,))
        partial_sum = jax.lax.fori_loop(0, reach, add, jnp.zeros(steps))
        last = jnp.minimum(t + reach, length)
        ended = jnp.any(e.terminated) & (last == length)
        weight = jnp.where(ended, 0.0, g ** (last - t).astype(jnp.float32))

        def update(v, x):
            s_t, sum_t, s_n, weight_t, use = x
            error = sum_t + weight_t * v[s_n] - v[s_t]
            return v.at[s_t].add(jnp.where(use, alpha * error, 0.0)), None

        states = jnp.asarray(e.state)
        v, _ = jax.lax.scan(update, v, (states[:-1], partial_sum, states[last], weight, e.valid))
        return v, v

    return jax.lax.scan(episode, jnp.asarray(value, jnp.float32), episodes)[1]


def lambda_return(
    episodes: Episodes, value: Array, alpha: Scalar, gamma: Scalar, lambda_: Scalar, *, batch: bool = False
) -> jax.Array:
    """The offline lambda-return: at an episode's end, V(s_t) <- V(s_t) + alpha [G_t^lambda - V(s_t)] for every t.

    The returns use the values from before the episode. The steps are made one after the other, each from the value the
    last has left; ``batch`` adds them all up from the old value first, the form whose sum the backward view equals.
    (Sutton & Barto 2018, section 12.1.)
    """

    def episode(v, e: Episodes):
        target = _returns(e, gamma, lambda_, v)
        s = jnp.asarray(e.state)[:-1]
        if batch:
            v = v.at[s].add(jnp.where(e.valid, alpha * (target - v[s]), 0.0))
            return v, v
        update = lambda v, x: (v.at[x[0]].add(jnp.where(x[2], alpha * (x[1] - v[x[0]]), 0.0)), None)
        v, _ = jax.lax.scan(update, v, (s, target, e.valid))
        return v, v

    return jax.lax.scan(episode, jnp.asarray(value, jnp.float32), episodes)[1]


def td_lambda(
    episodes: Episodes,
    value: Array,
    alpha: Scalar,
    gamma: Scalar,
    lambda_: Scalar,
    *,
    trace: str = "accumulating",
    offline: bool = False,
) -> jax.Array:
    """TD(lambda), the backward view: z decays by gamma lambda and grows at s_t; V <- V + alpha delta_t z.

    ``trace`` at s_t: "accumulating" z + 1, "replacing" 1, "dutch" (1 - alpha) z + 1 (after the decay). ``offline``
    adds the changes up and makes them at the episode's end. (Sutton & Barto 2018, sections 12.2, 12.5; van Seijen &
    Sutton 2014 for dutch traces.)
    """
    grow = _grower(trace)

    def step(carry, x):
        v, z, change = carry
        s, reward, s_next, discount, valid, first = x
        z = grow(jnp.where(first, 0.0, gamma * lambda_ * z), jax.nn.one_hot(s, z.shape[0]), alpha)
        delta = jnp.where(valid, reward + discount * v[s_next] - v[s], 0.0)
        if offline:
            return (v, z, change + alpha * delta * z), None
        return (v + alpha * delta * z, z, change), None

    return _by_steps(step, episodes, value, gamma)


def true_online_td_lambda(episodes: Episodes, value: Array, alpha: Scalar, gamma: Scalar, lambda_: Scalar) -> jax.Array:
    """True online TD(lambda): dutch traces and the correction that makes it equal the online lambda-return algorithm.

    V <- V + alpha (delta + V(s) - V_old) z - alpha (V(s) - V_old) x(s), with V_old the value of s when it was the
    successor. (van Seijen et al. 2016; Sutton & Barto 2018, section 12.5.)
    """

    def step(carry, x):
        v, z, old = carry
        s, reward, s_next, discount, valid, first = x
        here = jax.nn.one_hot(s, v.shape[0])
        z = _grower("dutch")(jnp.where(first, 0.0, gamma * lambda_ * z), here, alpha)
        before = jnp.where(first, v[s], old[0])
        delta = reward + discount * v[s_next] - v[s]
        correction = v[s] - before
        new = v + alpha * (delta + correction) * z - alpha * correction * here
        return (jnp.where(valid, new, v), z, jnp.full_like(old, v[s_next])), None

    return _by_steps(step, episodes, value, gamma, corrected=True)


def _grower(trace: str) -> Callable[[Array, Array, Scalar], jax.Array]:
    """(z decayed, x(s) one-hot, alpha) -> the new trace."""
    if trace not in TRACES:
        raise UsageError(f"No trace is called {trace!r}; there are {', '.join(TRACES)}.")
    return {
        "accumulating": lambda z, x, alpha: z + x,
        "replacing": lambda z, x, alpha: jnp.where(x > 0, x, z),
        "dutch": lambda z, x, alpha: z + x * (1.0 - alpha * z),
    }[trace]


def _by_steps(step, episodes: Episodes, value: Array, gamma: Scalar, corrected: bool = False) -> jax.Array:
    def episode(v, e: Episodes):
        first = jnp.arange(e.reward.shape[0]) == 0
        states = jnp.asarray(e.state)
        xs = (states[:-1], jnp.asarray(e.reward), states[1:], discounts(e.terminated, gamma), e.valid, first)
        (v, _, change), _ = jax.lax.scan(step, (v, jnp.zeros_like(v), jnp.zeros_like(v)), xs)
        v = v if corrected else v + change
        return v, v

    return jax.lax.scan(episode, jnp.asarray(value, jnp.float32), episodes)[1]
