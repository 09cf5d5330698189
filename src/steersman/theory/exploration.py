"""From action values to behaviour: greedy, epsilon-greedy, Boltzmann, UCB, and schedules over steps; noise for actions.

Action values are q ``[..., A]``; the policies come back as ``Categorical``, to sample, to mix, or to take expectations
with. ``mask [..., A]``, true = allowed, restricts them to legal actions. Actions that tie share the probability.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from steersman.theory.distributions import Categorical, masked
from steersman.types import Array, Key

Scalar = float | Array

# Decays phi_k of ``noise_step``, by the name of the noise they make.
NOISES: dict[str, tuple[float, ...]] = {
    "gaussian": (0.0,),  # white: every step on its own
    "ou": (0.85,),  # Ornstein and Uhlenbeck's, theta = 0.15 at dt = 1: Lillicrap et al. (2016)
    "pink": tuple(math.exp(-1.0 / 4.0**k) for k in range(6)),  # time constants 1, 4, ... 1024 steps
}


def greedy(q: Array, mask: Array | None = None) -> Categorical:
    """All probability on argmax_a q, shared equally by the actions that tie.

    >>> greedy(jnp.array([1.0, 3.0, 3.0])).probabilities()
    Array([0. , 0.5, 0.5], dtype=float32)
    """
    return Categorical.of(_best(q, mask))


def epsilon_greedy(q: Array, epsilon: Scalar, mask: Array | None = None) -> Categorical:
    """(1 - epsilon) greedy + epsilon uniform over the (legal) actions. epsilon in [0, 1], scalar or [...].

    epsilon = 0 is greedy, 1 is uniform. Sutton and Barto (2018), 2.2.
    """
    best = _best(q, mask)
    allowed = jnp.ones(best.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
    uniform = allowed.astype(best.dtype) / jnp.sum(allowed, axis=-1, keepdims=True, dtype=best.dtype)
    epsilon = _per_row(epsilon, best)
    return Categorical.of((1.0 - epsilon) * best + epsilon * uniform)


def ladder(level: Scalar, num: int, steepness: float = 7.0) -> jax.Array:
    """level^(1 + steepness i / (num - 1)) for i = 0 ... num - 1, [num]: some explore much and some hardly, for good.

    Horgan et al. (2018), arXiv:1803.00933, section 4.1, with a level of 0.4.

    >>> ladder(0.5, 3, steepness=2.0).tolist()
    [0.5, 0.25, 0.125]
    """
    rung = jnp.arange(num, dtype=jnp.float32) / max(1, num - 1)
    return jnp.power(jnp.asarray(level, jnp.float32), 1.0 + steepness * rung)


def boltzmann(q: Array, temperature: Scalar, mask: Array | None = None) -> Categorical:
    """P(a) proportional to exp(q_a / T). temperature T >= 0, scalar or [...], in the units of q.

    T -> inf is uniform; T -> 0, and T = 0 itself, is greedy with ties shared. Sutton and Barto (2018), 2.8 and 13.1.
    """
    q = _values(q, mask)
    temperature = _per_row(temperature, q)
    cold = temperature < jnp.finfo(q.dtype).tiny
    scaled = (q - jnp.max(q, axis=-1, keepdims=True)) / jnp.where(cold, 1.0, temperature)
    scaled = scaled if mask is None else masked(scaled, mask)  # so that a high temperature brings nothing illegal back
    return Categorical(jnp.where(cold, greedy(q).logits, scaled))


def ucb(counts: Array, step: Array, c: Scalar) -> jax.Array:
    """The exploration bonus c sqrt(ln step / N(a)), inf for an action never tried; act greedily on q + bonus.

    counts N [..., A]; step: how many actions were taken so far, scalar or [...], at least 1. In the dtype of floating
    counts, else float32. Sutton and Barto (2018), eq. 2.10.
    """
    counts = jnp.asarray(counts)
    counts = counts if jnp.issubdtype(counts.dtype, jnp.floating) else counts.astype(jnp.float32)
    log_step = jnp.log(jnp.maximum(_per_row(jnp.asarray(step).astype(counts.dtype), counts), 1.0))
    return jnp.where(counts > 0, c * jnp.sqrt(log_step / jnp.maximum(counts, 1.0)), jnp.inf)


def noise_step(state: Array, key: Key, decay: Array) -> tuple[jax.Array, jax.Array]:
    """One step of noise for actions: a normalised sum of K first-order autoregressions, standard normal at any time.

        x_k <- phi_k x_k + sqrt(1 - phi_k^2) eps_k,    z = sum_k x_k / sqrt(K)

    state x [..., K], decay phi [..., K] or [K] in [0, 1) -> (state, z [...]). phi = 0 forgets: it makes white noise,
    and at an episode's first step a draw from the stationary law. One phi makes an Ornstein-Uhlenbeck process seen at
    equal intervals. Time constants -1 / log phi_k in geometric progression make pink noise: a spectrum of 1 / f between
    the inverse of the longest and of the shortest. ``NOISES`` has the three. Scale z by the standard deviation wanted.
    Uhlenbeck and Ornstein (1930); McWhorter (1957) for the sum; Eberhard et al. (2023) for pink noise as exploration.
    """
    state = jnp.asarray(state)
    decay = jnp.broadcast_to(jnp.asarray(decay, state.dtype), state.shape)
    state = decay * state + jnp.sqrt(1.0 - decay * decay) * jax.random.normal(key, state.shape, state.dtype)
    return state, jnp.sum(state, axis=-1) / math.sqrt(state.shape[-1])


def smoothed(action: Array, noise: Array, std: Scalar, clip: Scalar) -> jax.Array:
    """clip(a + clip(std z, -c, c), -1, 1): canonical actions [..., A] beside the policy's, z standard normal [..., A].

    Target policy smoothing, Fujimoto et al. (2018), eq. 14. std = 0 gives the action itself.

    >>> smoothed(jnp.array([0.0, 0.9]), jnp.array([-1.0, 9.0]), 0.2, 0.5)
    Array([-0.2,  1. ], dtype=float32)
    """
    return jnp.clip(jnp.asarray(action) + jnp.clip(std * jnp.asarray(noise), -clip, clip), -1.0, 1.0)


def constant(step: Array, value: Scalar) -> jax.Array:
    """value, whatever the step. step int32 [...] -> float32 [...]."""
    return jnp.broadcast_to(jnp.asarray(value, jnp.float32), jnp.shape(step))


def linear(step: Array, start: Scalar, end: Scalar, steps: Scalar) -> jax.Array:
    """From start to end in a straight line over ``steps`` steps, then end. step int32 [...] -> float32 [...].

    Fix all but the step with ``functools.partial`` to make a schedule.

    >>> linear(jnp.int32(25), 1.0, 0.0, 100)
    Array(0.75, dtype=float32)
    """
    fraction = _progress(step, steps)
    return (1.0 - fraction) * jnp.asarray(start, jnp.float32) + fraction * jnp.asarray(end, jnp.float32)


def exponential(step: Array, start: Scalar, end: Scalar, steps: Scalar) -> jax.Array:
    """start (end / start)^(step / steps), the same factor every step, then end. start and end positive.

    step int32 [...] -> float32 [...].
    """
    start, end = jnp.asarray(start, jnp.float32), jnp.asarray(end, jnp.float32)
    return jnp.exp(linear(step, jnp.log(start), jnp.log(end), steps))


def _progress(step: Array, steps: Scalar) -> jax.Array:
    """step / steps within [0, 1]; 1 when steps is 0."""
    steps = jnp.asarray(steps).astype(jnp.float32)
    fraction = jnp.asarray(step).astype(jnp.float32) / jnp.where(steps > 0, steps, 1.0)
    return jnp.where(steps > 0, jnp.clip(fraction, 0.0, 1.0), 1.0)


def _values(q: Array, mask: Array | None) -> jax.Array:
    return jnp.asarray(q) if mask is None else masked(q, mask)


def _best(q: Array, mask: Array | None) -> jax.Array:
    """Probabilities [..., A] of the greedy policy."""
    q = _values(q, mask)
    best = (q >= jnp.max(q, axis=-1, keepdims=True)).astype(q.dtype)
    return best / jnp.sum(best, axis=-1, keepdims=True)


def _per_row(x: Scalar, q: jax.Array) -> jax.Array:
    """A scalar or [...] as [..., 1], to stand beside q [..., A]."""
    x = jnp.asarray(x, q.dtype)
    return jnp.broadcast_to(x if x.ndim == 0 else x[..., None], (*q.shape[:-1], 1))
