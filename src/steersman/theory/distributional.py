"""Returns as distributions: C51's projection onto fixed atoms, and the quantile Huber loss.

Batched over any leading axes ``[...]``; the atoms or quantiles come last. ``discount_t`` is gamma (1 - terminated), or
gamma^n (1 - terminated) with an n-step reward.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from steersman.types import Array


def atoms(v_min: float | Array, v_max: float | Array, num: int) -> jax.Array:
    """The support z_i = v_min + i (v_max - v_min) / (num - 1), float32 [num]. Bellemare et al. (2017), section 4.

    >>> atoms(-1.0, 1.0, 5)
    Array([-1. , -0.5,  0. ,  0.5,  1. ], dtype=float32)
    """
    low, high = jnp.asarray(v_min, jnp.float32), jnp.asarray(v_max, jnp.float32)
    return low + (high - low) * (jnp.arange(num, dtype=jnp.float32) / (num - 1))


def categorical_projection(z: Array, probabilities_t: Array, r_t: Array, discount_t: Array) -> jax.Array:
    """The distribution of r_t + discount_t Z, Z on the atoms z, brought back onto the atoms.

        m_i = sum_j [1 - |clip(r_t + discount_t z_j, z_1, z_K) - z_i| / dz]_0^1  p_j

    z [K], evenly spaced; probabilities_t [..., K]; r_t, discount_t [...] -> [..., K], which sums to 1. Inside the
    support the mean is kept. Bellemare et al. (2017), eq. 7.

    >>> categorical_projection(jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, 1.0, 0.0]), jnp.array(0.25), jnp.array(1.0))
    Array([0.  , 0.75, 0.25], dtype=float32)
    """
    z, p, discount_t = jnp.asarray(z), jnp.asarray(probabilities_t), jnp.asarray(discount_t)
    nothing = (discount_t == 0)[..., None] & ~jnp.isfinite(p)  # all atoms fall on r_t: any distribution will do
    p = jnp.where(nothing, 1.0 / p.shape[-1], p)
    support = z.reshape((1,) * (p.ndim - 1) + z.shape)
    moved = jnp.asarray(r_t)[..., None] + discount_t[..., None] * support
    moved = jnp.clip(moved, z[0], z[-1])
    share = 1.0 - jnp.abs(moved[..., None, :] - support[..., :, None]) / (z[1] - z[0])  # [..., K (i), K (j)]
    return (jnp.clip(share, 0.0, 1.0) * p[..., None, :]).sum(-1)


def cross_entropy(target: Array, logits: Array) -> jax.Array:
    """-sum_i m_i log softmax(logits)_i: C51's loss. target m [..., K], logits [..., K] -> [...].

    Less ``entropy(target)`` it is KL(m, p), 0 where they agree: Rainbow's priority (Hessel et al. 2018).
    """
    return -(jnp.asarray(target) * jax.nn.log_softmax(logits, axis=-1)).sum(-1)


def entropy(probabilities: Array) -> jax.Array:
    """-sum_i p_i log p_i, with 0 log 0 = 0. [..., K] -> [...]."""
    p = jnp.asarray(probabilities)
    return -(p * jnp.log(jnp.where(p > 0, p, 1.0))).sum(-1)


def quantile_fractions(num: int) -> jax.Array:
    """tau_i = (2 i + 1) / (2 num), i from 0: the middles of num equal shares. float32 [num]. Dabney et al. (2018)."""
    return (2.0 * jnp.arange(num, dtype=jnp.float32) + 1.0) / (2.0 * num)


def huber(x: Array, kappa: float | Array = 1.0) -> jax.Array:
    """x^2 / 2 where |x| <= kappa, kappa (|x| - kappa / 2) beyond: a squared error whose gradient is clipped to kappa.

    >>> huber(jnp.array([0.5, 2.0]))
    Array([0.125, 1.5  ], dtype=float32)
    """
    size = jnp.abs(jnp.asarray(x))
    inner = jnp.minimum(size, kappa)
    return 0.5 * jnp.square(inner) + kappa * (size - inner)


def quantile_huber_loss(
    theta_tm1: Array, target_t: Array, probabilities_t: Array | None = None, *, kappa: float | Array = 1.0
) -> jax.Array:
    """QR-DQN's loss: sum over quantiles i of the mean over target samples j of rho_{tau_i}(target_j - theta_i).

        rho_tau(u) = |tau - 1{u < 0}| huber(u) / kappa

    theta_tm1 [..., M], target_t [..., J], probabilities_t [..., J] (None: 1/J each) -> [...]. It is least where theta_i
    is the tau_i-quantile of the targets as kappa -> 0, and their tau_i-expectile where kappa is above their spread: the
    mean of the theta is then not the targets' mean. A reward of 1 with probability 0.02 is valued, with 51 quantiles,
    0.020 at kappa 0.01, 0.025 at 0.1 and 0.061 at 1. Dabney et al. (2018), eqs. 9 and 10.
    """
    theta, target = jnp.asarray(theta_tm1), jnp.asarray(target_t)
    tau = quantile_fractions(theta.shape[-1])
    tau = tau.reshape((1,) * (theta.ndim - 1) + (tau.shape[0], 1))
    u = target[..., None, :] - theta[..., :, None]  # [..., M, J]
    rho = jnp.abs(tau - (u < 0).astype(u.dtype)) * huber(u, kappa) / kappa
    if probabilities_t is None:
        return rho.mean(-1).sum(-1)
    return (rho * jnp.asarray(probabilities_t)[..., None, :]).sum((-2, -1))
