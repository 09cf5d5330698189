"""Temporal-difference errors: target minus estimate, for a state's value and for an action's; soft and truncated ones.

Batched over any leading axes ``[...]``; q arrays carry the actions last, ``[..., A]``. Every discount_t is gamma (1 -
terminated): a truncated step bootstraps like any other, from its true successor. The gradient flows through
everything; a semi-gradient method stops it at the bootstrap (``jax.lax.stop_gradient(v_t)``), which is left to the
caller. Where discount_t is 0 a NaN or an infinity of the bootstrap does not count. Raises UsageError for shapes that
would broadcast to a larger one, as [3] and [3, 1] do (``trees.aligned``).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from steersman.theory.trees import aligned, kept, take
from steersman.types import Array


def td_error(v_tm1: Array, r_t: Array, discount_t: Array, v_t: Array) -> jax.Array:
    """delta = r_t + discount_t v_t - v_tm1, all [...]. Sutton and Barto (2018), eq. 6.5.

    >>> td_error(jnp.float32(1.0), jnp.float32(2.0), jnp.float32(0.5), jnp.float32(4.0))
    Array(3., dtype=float32)
    """
    v_tm1, r_t, discount_t, v_t = aligned(v_tm1=v_tm1, r_t=r_t, discount_t=discount_t, v_t=v_t)
    return r_t + discount_t * kept(discount_t, v_t) - v_tm1


def sarsa(q_tm1: Array, a_tm1: Array, r_t: Array, discount_t: Array, q_t: Array, a_t: Array) -> jax.Array:
    """r_t + discount_t q_t[a_t] - q_tm1[a_tm1]: on-policy, with the action taken next.

    q [..., A], a int [...], r and discount [...] -> [...]. Sutton and Barto (2018), eq. 6.7.
    """
    return td_error(take(q_tm1, a_tm1), r_t, discount_t, take(q_t, a_t))


def expected_sarsa(
    q_tm1: Array, a_tm1: Array, r_t: Array, discount_t: Array, q_t: Array, probabilities_t: Array
) -> jax.Array:
    """r_t + discount_t sum_a pi(a) q_t[a] - q_tm1[a_tm1]: the next action averaged out.

    probabilities_t [..., A] is pi(. | next_obs), or any weights. Where it is zero the action's q, even if infinite,
    does not count. Sutton and Barto (2018), eq. 6.9.
    """
    p, q = jnp.asarray(probabilities_t), jnp.asarray(q_t)
    v_t = jnp.sum(p * jnp.where(p != 0, q, jnp.zeros((), q.dtype)), axis=-1)
    return td_error(take(q_tm1, a_tm1), r_t, discount_t, v_t)


def q_learning(q_tm1: Array, a_tm1: Array, r_t: Array, discount_t: Array, q_t: Array) -> jax.Array:
    """r_t + discount_t max_a q_t[a] - q_tm1[a_tm1]: off-policy, greedy next.

    In DQN q_t is the target network's; mask illegal actions with ``distributions.masked``. Sutton and Barto (2018),
    eq. 6.8.
    """
    return td_error(take(q_tm1, a_tm1), r_t, discount_t, jnp.max(jnp.asarray(q_t), axis=-1))


def double_q_learning(
    q_tm1: Array, a_tm1: Array, r_t: Array, discount_t: Array, q_t: Array, q_t_selector: Array
) -> jax.Array:
    """r_t + discount_t q_t[argmax_a q_t_selector[a]] - q_tm1[a_tm1]: one estimate selects, the other evaluates.

    In double DQN q_t is the target network's and q_t_selector the online network's, both at next_obs. With the two
    equal it is Q-learning. van Hasselt et al. (2016), eq. 4.
    """
    return td_error(take(q_tm1, a_tm1), r_t, discount_t, take(q_t, jnp.argmax(jnp.asarray(q_t_selector), axis=-1)))


def soft_value(q: Array, log_prob: Array, temperature: Array) -> jax.Array:
    """V = q - alpha log pi(a | s) of a sampled action, all [...]: the return with the entropy bonus yet to come.

    Haarnoja et al. (2018), eq. 3. temperature alpha = 0 is q itself.
    """
    return jnp.asarray(q) - temperature * jnp.asarray(log_prob)


def expected_soft_value(q: Array, log_probabilities: Array, temperature: Array) -> jax.Array:
    """V = sum_a pi(a) (q[a] - alpha log pi(a)): the same, a discrete action averaged out. q, log pi [..., A] -> [...].

    Its maximum over policies is alpha logsumexp(q / alpha). Christodoulou (2019), eq. 10.

    >>> expected_soft_value(jnp.array([1.0, 3.0]), jnp.log(jnp.array([0.5, 0.5])), 0.0)
    Array(2., dtype=float32)
    """
    log_p = jnp.asarray(log_probabilities)
    return jnp.sum(jnp.exp(log_p) * soft_value(q, log_p, temperature), axis=-1)


def rescaled(x: Array, epsilon: float = 1e-3) -> jax.Array:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x: large returns brought near each other, order kept, [...].

    Pohlen et al. (2018), arXiv:1805.11593, proposition A.2.

    >>> rescaled(jnp.array([-8.0, 0.0, 8.0]), 0.0)
    Array([-2.,  0.,  2.], dtype=float32)
    """
    x = jnp.asarray(x)
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1.0) - 1.0) + epsilon * x


def unscaled(y: Array, epsilon: float = 1e-3) -> jax.Array:
    """The inverse of ``rescaled``, for epsilon above 0: sign(y) (z^2 - 1), z the root of epsilon z^2 + z = |y| + 1 +
    epsilon.

    Written without the difference of a root near 1 and 1, of which float32 would keep few digits.

    >>> unscaled(rescaled(jnp.array([-8.0, 0.0, 300.0]))).round(3).tolist()
    [-8.0, 0.0, 300.0]
    """
    y = jnp.asarray(y)
    c = jnp.abs(y) + 1.0 + epsilon
    z = 2.0 * c / (1.0 + jnp.sqrt(1.0 + 4.0 * epsilon * c))
    return jnp.sign(y) * (jnp.square(z) - 1.0)


def expectile_loss(error: Array, expectile: float | Array) -> jax.Array:
    """|tau - 1(u < 0)| u^2 of u = target - estimate, [...]; tau = expectile in (0, 1).

    The estimate that minimises its mean is the tau-expectile of the target: the mean at tau = 1/2 (half the square),
    towards its maximum as tau -> 1. Kostrikov et al. (2021), eq. 3.

    >>> expectile_loss(jnp.array([2.0, -2.0]), 0.75)
    Array([3., 1.], dtype=float32)
    """
    error = jnp.asarray(error)
    return jnp.where(error < 0, 1.0 - expectile, expectile) * jnp.square(error)


def truncated_atoms(z: Array, drop: int) -> jax.Array:
    """The atoms of K return distributions pooled and sorted, without the ``drop * K`` largest.

    z [K, ..., M] -> [..., K (M - drop)], ascending. drop = 0 keeps all; K = M = 1 is the value itself. Dropping more
    atoms lowers the mean: a finer control of overestimation than the minimum of two. Kuznetsov et al. (2020), eq. 11.

    >>> truncated_atoms(jnp.array([[1.0, 9.0], [2.0, 3.0]]), 1)
    Array([1., 2.], dtype=float32)
    """
    z = jnp.moveaxis(jnp.asarray(z), 0, -2)
    pooled = jnp.sort(z.reshape(*z.shape[:-2], z.shape[-2] * z.shape[-1]), axis=-1)  # -1 cannot say it of no rows
    return pooled[..., : pooled.shape[-1] - drop * z.shape[-2]]
