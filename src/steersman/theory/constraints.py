"""Limits on expected costs: what moves their multipliers, the advantage that they mix, CPO's step in closed form.

    max_pi J_r(pi)   subject to   J_i(pi) <= d_i,  i = 1 .. C

and its Lagrangian, min_{lambda >= 0} max_pi J_r - sum_i lambda_i (J_i - d_i). (Altman 1999.) Axes: ``C`` costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.types import Array

Scalar = float | Array


def limit_scales(limit: Array) -> jax.Array:
    """What costs are counted in, [C]: their limit, or 1 where that is 0."""
    limit = jnp.asarray(limit, jnp.float32)
    return jnp.where(limit > 0, limit, jnp.float32(1.0))


def limit_errors(cost: Array, limit: Array) -> jax.Array:
    """e = (J - d) / d, cut to [-1, 1], [C]: by how much of its limit a cost is over it. d = 0: e = J.

    A cost that is far over counts as twice the limit does: what a multiplier takes on while a policy is being brought
    down, it can give back as fast (no windup).

    >>> limit_errors(jnp.array([30.0, 0.0, 900.0]), jnp.array([25.0, 25.0, 25.0])).tolist()
    [0.20000000298023224, -1.0, 1.0]
    """
    return jnp.clip((jnp.asarray(cost) - jnp.asarray(limit)) / limit_scales(limit), -1.0, 1.0)


def dual_step(multiplier: Array, error: Array, rate: Scalar, cap: Scalar) -> jax.Array:
    """lambda + rate e, kept in [0, cap], [C]: gradient descent on the dual, whose gradient is d - J.

    >>> dual_step(jnp.array([0.5, 0.0]), jnp.array([0.2, -1.0]), 0.5, 10.0).tolist()
    [0.6000000238418579, 0.0]
    """
    return jnp.clip(jnp.asarray(multiplier) + rate * jnp.asarray(error), 0.0, cap)


class PID(NamedTuple):
    """What a PID controller of multipliers remembers, each [C]."""

    integral: jax.Array
    error: jax.Array  # the last one; infinite before the first, so that nothing has risen

    @classmethod
    def init(cls, size: int) -> PID:
        return cls(jnp.zeros((size,)), jnp.full((size,), jnp.inf, jnp.float32))


def pid_step(state: PID, error: Array, gains: Sequence[Scalar], cap: Scalar) -> tuple[jax.Array, PID]:
    """-> (multipliers [C], the controller's state), of errors [C] and gains (k_p, k_i, k_d).

        I <- clip(I + k_i e, 0, cap),   lambda = clip(k_p e + I + k_d max(0, e - e_before), 0, cap)

    k_p = k_d = 0 is ``dual_step``. The proportional term answers at once and so damps the swings that the integral
    alone, a step behind, gives rise to; I is what the limit costs in the long run. Stooke et al. (2020), algorithm 2.
    """
    error = jnp.asarray(error)
    proportional, slow, derivative = gains
    integral = jnp.clip(state.integral + slow * error, 0.0, cap)
    rise = jnp.maximum(0.0, error - state.error)
    return jnp.clip(proportional * error + integral + derivative * rise, 0.0, cap), PID(integral, error)


def mixed(signals: Array, multiplier: Array) -> jax.Array:
    """(A_r - sum_i lambda_i A_i) / (1 + sum_i lambda_i): advantages [..., 1 + C], the reward's first -> [...].

    The division keeps the mix of one size, whatever the multipliers. Standardise what comes out, not what goes in:
    with each advantage standardised by itself, lambda would not be a price of cost in reward any more. Raises
    UsageError where there is not one multiplier for each cost.

    >>> mixed(jnp.array([[2.0, 1.0], [0.0, -2.0]]), jnp.array([1.0])).tolist()
    [0.5, 1.0]
    """
    signals, multiplier = jnp.asarray(signals), jnp.asarray(multiplier)
    if multiplier.shape != (signals.shape[-1] - 1,):
        raise UsageError(
            f"mixed: signals {list(signals.shape)} are a reward's and {signals.shape[-1] - 1} costs'; the multipliers "
            f"have shape {list(multiplier.shape)}."
        )
    weights = jnp.concatenate([jnp.ones_like(multiplier, shape=(1,)), -multiplier]) / (1.0 + multiplier.sum())
    return (signals * jnp.broadcast_to(weights, signals.shape)).sum(-1)


class ConstrainedStep(NamedTuple):
    """What ``constrained_step`` gives, scalars: the step is reward_weight H^-1 g + cost_weight H^-1 b."""

    reward_weight: jax.Array  # 1 / lambda, of the trust region's multiplier; 0 in recovery
    cost_weight: jax.Array  # -nu / lambda, of the limit's; in recovery -sqrt(2 delta / s)
    case: jax.Array  # int32: FREE, BOTH or RECOVERY


FREE, BOTH, RECOVERY = 0, 1, 2


def constrained_step(q: Scalar, r: Scalar, s: Scalar, c: Scalar, delta: Scalar) -> ConstrainedStep:
    """CPO's step, in closed form: max_x g.x subject to c + b.x <= 0 and x^T H x / 2 <= delta.

    Given q = g.H^-1 g, r = g.H^-1 b, s = b.H^-1 b: g the gradient of the reward's surrogate, b that of the cost's, c
    how much of the limit is exceeded, in b's unit. Three cases:

        FREE       the trust region's own best step keeps the limit:    x = sqrt(2 delta / q) H^-1 g
        BOTH       both limits bind, with A = q - r^2 / s, B = 2 delta - c^2 / s:
                   x = sqrt(B / A) (H^-1 g - (r / s) H^-1 b) - (c / s) H^-1 b
        RECOVERY   c > 0 and B < 0, the limit is out of reach: the cost alone falls,  x = -sqrt(2 delta / s) H^-1 b

    Achiam et al. (2017), section 6.1 and appendix 10.2, whose two-sided dual in lambda this is the answer of: where the
    free step breaks the limit and some step keeps it, the best one lies on both borders.

    >>> step = constrained_step(1.0, 1.0, 2.0, 0.0, 0.5)  # g = (1, 0), b = (1, 1), H = 1: along the border
    >>> round(float(step.reward_weight), 4), round(float(step.cost_weight), 4), int(step.case)
    (1.4142, -0.7071, 1)
    """
    q, r, s, c = (jnp.asarray(x, jnp.float32) for x in (q, r, s, c))
    tiny = jnp.finfo(jnp.float32).tiny
    some = jnp.maximum(s, tiny)
    free = jnp.sqrt(2.0 * delta / jnp.maximum(q, tiny))
    room = 2.0 * delta - jnp.square(c) / some  # B
    along = jnp.maximum(q - jnp.square(r) / some, 1e-6 * jnp.maximum(q, tiny))  # A; rounding where g and b are parallel
    both = jnp.sqrt(jnp.maximum(room, 0.0) / along)
    case = jnp.where((c > 0) & (room < 0), RECOVERY, jnp.where(free * r + c <= 0, FREE, BOTH)).astype(jnp.int32)
    of = lambda *each: jnp.select([case == FREE, case == BOTH], each[:2], each[2])
    nothing, down = jnp.zeros(()), -jnp.sqrt(2.0 * delta / some)
    return ConstrainedStep(of(free, both, nothing), of(nothing, -(c + both * r) / some, down), case)
