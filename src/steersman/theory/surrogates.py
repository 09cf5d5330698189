"""Objectives of policy-gradient methods and their diagnostics.

Every function works element by element and returns *per-sample* values ``[...]``: the caller takes the mean (or a
weighted one) and divides the batch as it likes. What is named a loss is to be minimised. Log-ratios are log pi(a|s) -
log pi_old(a|s), and pi_old's part, like the advantage, should carry no gradient (``jax.lax.stop_gradient`` is left to
the caller).

The ratio, exp(log_ratio), is exact up to e^20 = 4.9e8 and stays there: further out exp would overflow, and infinity
times the 0 of a clipped branch, or of an advantage, is NaN. No gradient comes from out there. Functions of several
arrays raise UsageError for shapes that would broadcast to a larger one (``trees.aligned``).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from steersman.theory.trees import aligned
from steersman.types import Array

Scalar = float | Array
LARGEST_LOG_RATIO = 20.0


def ratios(log_ratio: Array) -> jax.Array:
    """exp(log_ratio), at most e^20."""
    return jnp.exp(jnp.minimum(jnp.asarray(log_ratio), LARGEST_LOG_RATIO))


def policy_gradient_loss(log_prob: Array, advantage: Array) -> jax.Array:
    """-log pi(a | s) A: its gradient is the score-function estimate. Any return or advantage serves as A.

    Sutton and Barto (2018), eq. 13.8 and 13.11.
    """
    log_prob, advantage = aligned(log_prob=log_prob, advantage=advantage)
    return -log_prob * advantage


def ppo_clip_loss(log_ratio: Array, advantage: Array, clip: Scalar, clip_high: Scalar | None = None) -> jax.Array:
    """-min(ratio A, clip(ratio, 1 - eps, 1 + eps) A), ratio = exp(log_ratio).

    The minimum is over the two *products*: over the ratios, then times A, would be wrong for A < 0. clip is eps > 0,
    a scalar; with clip_high that is how far up, and clip how far down. Schulman et al. (2017), eq. 7; Yu et al. (2025),
    eq. 10, for the two.

    >>> ppo_clip_loss(jnp.log(jnp.array([1.5, 1.5])), jnp.array([1.0, -1.0]), 0.2)
    Array([-1.2,  1.5], dtype=float32)
    """
    log_ratio, advantage = aligned(log_ratio=log_ratio, advantage=advantage)
    ratio = ratios(log_ratio)
    high = clip if clip_high is None else clip_high
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + high) * advantage)


def ppo_penalty_loss(log_ratio: Array, advantage: Array, kl: Array, coefficient: Scalar) -> jax.Array:
    """-(ratio A - beta KL(pi_old || pi)). kl [...] per state, from ``distributions`` or ``approximate_kl``.

    Schulman et al. (2017), eq. 8.
    """
    log_ratio, advantage, kl = aligned(log_ratio=log_ratio, advantage=advantage, kl=kl)
    return -ratios(log_ratio) * advantage + coefficient * kl


def advantage_weight(advantage: Array, inverse_temperature: Scalar, largest: Scalar) -> jax.Array:
    """min(exp(beta A), largest), [...]: how much a policy that is cloned from data imitates an action.

    beta = inverse_temperature: 0 imitates all alike, a large one only the best. With -w log pi(a|s) as the loss, the
    policy that results is proportional to that of the data times w. Peng et al. (2019); Kostrikov et al. (2021), eq. 7.

    >>> advantage_weight(jnp.array([0.0, 9.0]), 3.0, 100.0)
    Array([  1., 100.], dtype=float32)
    """
    return jnp.minimum(jnp.exp(inverse_temperature * jnp.asarray(advantage)), largest)


def adapt_kl_coefficient(coefficient: Scalar, kl: Scalar, target: Scalar) -> jax.Array:
    """beta for the next update: halved when kl < target / 1.5, doubled when kl > 1.5 target, else kept. Scalars.

    Schulman et al. (2017), section 4.

    >>> [float(adapt_kl_coefficient(1.0, kl, 0.01)) for kl in (0.001, 0.01, 0.1)]
    [0.5, 1.0, 2.0]
    """
    coefficient, kl = jnp.asarray(coefficient, jnp.float32), jnp.asarray(kl, jnp.float32)
    factor = jnp.where(kl > 1.5 * target, 2.0, jnp.where(kl < target / 1.5, 0.5, 1.0))
    return coefficient * factor.astype(jnp.float32)


def value_loss(v: Array, target: Array) -> jax.Array:
    """(v - target)^2 / 2."""
    v, target = aligned(v=v, target=target)
    return 0.5 * jnp.square(v - target)


def clipped_value_loss(v: Array, v_old: Array, target: Array, clip: Scalar | None) -> jax.Array:
    """max((v - target)^2, (v_old + clip(v - v_old, -eps, eps) - target)^2) / 2; clip is eps in the units of v.

    Pessimistic as the policy's clip is: no credit for a step beyond eps. Without a clip it is ``value_loss``. Huang et
    al. (2022), detail 9.
    """
    if clip is None:
        return value_loss(v, target)
    v, v_old = aligned(v=v, v_old=v_old)
    return jnp.maximum(value_loss(v, target), value_loss(v_old + jnp.clip(v - v_old, -clip, clip), target))


def approximate_kl(log_ratio: Array) -> jax.Array:
    """The k3 estimator of KL(pi_old || pi) from actions of pi_old: (ratio - 1) - log_ratio.

    Never negative, unbiased, and of less variance than k1 = -log_ratio near zero. Schulman, "Approximating KL
    divergence".
    """
    log_ratio = jnp.asarray(log_ratio)
    return jnp.expm1(jnp.minimum(log_ratio, LARGEST_LOG_RATIO)) - log_ratio


def clip_fraction(log_ratio: Array, clip: Scalar, clip_high: Scalar | None = None) -> jax.Array:
    """1 where |ratio - 1| > eps, else 0, in log_ratio's dtype: its mean is the share of samples outside the clip.

    With clip_high, as ``ppo_clip_loss`` has it: 1 where ratio - 1 > clip_high or < -clip.
    """
    log_ratio = jnp.asarray(log_ratio)
    apart = jnp.expm1(log_ratio)
    outside = jnp.abs(apart) > clip if clip_high is None else (apart > clip_high) | (apart < -jnp.asarray(clip))
    return outside.astype(log_ratio.dtype)


def temperature_loss(log_temperature: Array, log_prob: Array, target_entropy: Scalar) -> jax.Array:
    """-log alpha (log pi(a | s) + target): its gradient raises alpha while the entropy -log pi is below the target.

    log_temperature a scalar, log_prob [...] without gradient -> [...]. Haarnoja et al. (2018b), eq. 18, in log alpha.
    """
    return -(jnp.asarray(log_temperature) * (jnp.asarray(log_prob) + target_entropy))
