"""The natural gradient: products with the Fisher matrix of a policy, and the linear solver that needs only those.

Vectors are one-dimensional, ``[P]``: ravel a tree of parameters first (``jax.flatten_util.ravel_pytree``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman import shards

Vector = jax.Array


def fisher_product(policy: Callable[[Vector], Any], params: Vector) -> Callable[[Vector], Vector]:
    """v -> F v, with F = mean_s J(s)^T M(s) J(s) the Fisher matrix of a batch of distributions, never formed.

    policy: parameters [P] -> distributions with the batch axes in front of every leaf; J = d(distribution's own
    parameters) / d params, and M the Hessian of KL(p || q) in those of q at q = p. As KL and its gradient vanish
    there, F is the Hessian of the mean KL in params, exactly. The mean is over the batch and over all shards. The
    network is linearised once; each product costs one pass forward and one back. Amari (1998); Schulman et al. (2015),
    appendix C.
    """
    here, forward = jax.linearize(policy, params)
    backward = jax.linear_transpose(forward, params)

    def mean_kl(q: Any) -> jax.Array:
        return here.kl(q).mean()

    def product(v: Vector) -> Vector:
        _, pulled = jax.jvp(jax.grad(mean_kl), (here,), (forward(v),))
        return shards.cross_mean(backward(pulled)[0])

    return product


class Solution(NamedTuple):
    """What ``conjugate_gradient`` gives."""

    x: Vector  # [P]
    residual: jax.Array  # ||A x - b|| / ||b||, a scalar


def conjugate_gradient(
    product: Callable[[Vector], Vector], b: Vector, iterations: int, *, tolerance: float = 1e-5
) -> Solution:
    """x with A x = b for a symmetric positive A given by its product, from x = 0.

    Stops changing once the residual is below ``tolerance`` ||b||; exact after P iterations but for rounding. Hestenes
    and Stiefel (1952); Nocedal and Wright (2006), algorithm 5.2.
    """
    limit = tolerance * tolerance * jnp.vdot(b, b)

    def step(carry: tuple[Vector, Vector, Vector, jax.Array], _: None):
        x, r, p, rr = carry
        going = rr > limit
        ap = product(p)
        alpha = jnp.where(going, rr / jnp.where(going, jnp.vdot(p, ap), 1.0), 0.0)
        x, r = x + alpha * p, r - alpha * ap
        after = jnp.vdot(r, r)
        beta = jnp.where(going, after / jnp.where(going, rr, 1.0), 0.0)
        return (x, r, r + beta * p, after), None

    (x, _, _, rr), _ = jax.lax.scan(step, (jnp.zeros_like(b), b, b, jnp.vdot(b, b)), None, length=iterations)
    return Solution(x, jnp.sqrt(rr / jnp.maximum(jnp.vdot(b, b), jnp.finfo(b.dtype).tiny)))


class Searched(NamedTuple):
    """What ``line_search`` gives: scalars but for ``params``."""

    params: Vector  # the accepted ones, or those it started from
    accepted: jax.Array  # bool
    backtracks: jax.Array  # int32
    gain: jax.Array  # of the objective, at params
    kl: jax.Array  # at params


def line_search(
    gain_and_kl: Callable[[Vector], tuple[jax.Array, jax.Array]],
    params: Vector,
    step: Vector,
    max_kl: float | jax.Array,
    *,
    backtracks: int = 10,
    shrink: float | jax.Array = 0.8,
) -> Searched:
    """The first of params + shrink^k step, k = 0, 1 ... backtracks, that gains something and keeps KL <= max_kl.

    gain_and_kl: parameters -> (what the objective gains over the start, mean KL from the start), the same on all
    shards. If none will do, nothing moves. Schulman et al. (2015), appendix C.
    """
    zero = jnp.zeros(())

    def unfinished(found: Searched) -> jax.Array:
        return ~found.accepted & (found.backtracks <= backtracks)

    def attempt(found: Searched) -> Searched:
        candidate = params + jnp.power(shrink, found.backtracks.astype(params.dtype)) * step
        gain, kl = gain_and_kl(candidate)
        good = (gain > 0) & (kl <= max_kl)  # False for NaN
        chosen = jnp.where(good, candidate, params)
        tried = found.backtracks + jnp.where(good, 0, 1).astype(jnp.int32)
        return Searched(chosen, good, tried, jnp.where(good, gain, zero), jnp.where(good, kl, zero))

    start = Searched(params, jnp.zeros((), bool), jnp.zeros((), jnp.int32), zero, zero)
    found = jax.lax.while_loop(unfinished, attempt, start)
    return found._replace(backtracks=jnp.minimum(found.backtracks, backtracks))
