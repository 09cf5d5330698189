"""Gradients of expectations, d/dtheta E_{x ~ p_theta}[f(x)], from samples: two estimators, and less variance for each.

    score function   f(x) d log p_theta(x) / d theta            any distribution, any f      ``score_function``
    pathwise         d f(x(theta, noise)) / d theta             reparameterised, smooth f    ``pathwise``

Both give one gradient per sample, a tree of theta's structure with leaves [N, ...]; their mean is the estimate, and
``summarise`` adds its standard error and variance. Two tools lower the variance and keep the mean:

    baseline         (f(x) - b) d log p / d theta, b independent of x           ``leave_one_out``, ``optimal_baseline``
    control variate  g - c (h - E h), h a random tree with a known mean         ``control_variate``

Mohamed et al. (2020), "Monte Carlo gradient estimation in machine learning".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.theory.distributions import Bernoulli, Categorical, Deterministic, MultiCategorical
from steersman.types import Array, Key, PyTree

Make = Callable[[PyTree], Any]  # theta -> a distribution of theory.distributions over one event (no batch axes)
Function = Callable[[jax.Array], Array]  # event -> a scalar


def score_function_surrogate(log_prob: Array, value: Array, baseline: Array | float = 0.0) -> jax.Array:
    """log p_theta(x) (f(x) - b), no gradient through f and b: its gradient is the score-function estimate.

    All [...]; minus it is ``surrogates.policy_gradient_loss``. Williams (1992).
    """
    return jnp.asarray(log_prob) * jax.lax.stop_gradient(jnp.asarray(value) - baseline)


def pathwise_surrogate(make: Make, theta: PyTree, f: Function, key: Key) -> jax.Array:
    """f(x(theta, noise)), with the noise drawn from ``key``: its gradient in theta is the pathwise estimate.

    Raises UsageError for a distribution whose samples do not move smoothly with its parameters. Kingma and Welling
    (2014).
    """
    distribution = make(theta)
    if isinstance(distribution, Categorical | MultiCategorical | Bernoulli):
        raise UsageError(
            f"The samples of {type(distribution).__name__} jump when its parameters move: they have no pathwise "
            "gradient. Use score_function."
        )
    return jnp.asarray(f(distribution.sample(key)))


def leave_one_out(value: Array) -> jax.Array:
    """For each sample the mean of f over all *others*, [N] -> [N]: a baseline that needs no knowledge of f.

    The mean over all would hold the sample itself and shrink the gradient by (N - 1) / N. Kool et al. (2019).

    >>> leave_one_out(jnp.array([1.0, 2.0, 6.0]))
    Array([4. , 3.5, 1.5], dtype=float32)
    """
    value = jnp.asarray(value)
    if value.ndim != 1 or value.shape[0] < 2:
        raise UsageError(f"leave_one_out needs values [N] of two samples or more; their shape is {value.shape}.")
    return (value.sum() - value) / jnp.float32(value.shape[0] - 1)


def optimal_baseline(value: Array, score: PyTree) -> jax.Array:
    """The constant b of least total variance, E[f |s|^2] / E[|s|^2], from samples f [N] and scores (leaves [N, ...]).

    Estimated from the same samples it is to serve, it would bias them by O(1 / N): estimate it from others.
    Greensmith et al. (2004).
    """
    square = jnp.square(_rows(score)).sum(-1)
    return (jnp.asarray(value) * square).mean() / square.mean()


def score_function(
    make: Make,
    theta: PyTree,
    f: Function,
    key: Key,
    num: int,
    *,
    baseline: float | Array | Callable[[jax.Array], jax.Array] = 0.0,
) -> PyTree:
    """``num`` score-function gradients of E[f], leaves [num, ...].

    baseline: a scalar, or a function of the values [num] such as ``leave_one_out``, to [num] or a scalar. f need not
    be differentiable. Raises UsageError for a Deterministic, which has no score.
    """
    if isinstance(make(theta), Deterministic):
        raise UsageError("A Deterministic has no density, so no score: use pathwise.")
    x = jax.vmap(make(theta).sample)(jax.random.split(key, num))
    value = jnp.asarray(jax.vmap(f)(x))
    b = baseline(value) if callable(baseline) else baseline
    b = jnp.broadcast_to(jnp.asarray(b, value.dtype), value.shape)
    gradient = jax.grad(lambda theta, x, v, b: score_function_surrogate(make(theta).log_prob(x), v, b))
    return jax.vmap(gradient, in_axes=(None, 0, 0, 0))(theta, x, value, b)


def pathwise(make: Make, theta: PyTree, f: Function, key: Key, num: int) -> PyTree:
    """``num`` pathwise gradients of E[f], leaves [num, ...]. Errors as ``pathwise_surrogate``."""
    gradient = jax.grad(lambda theta, key: pathwise_surrogate(make, theta, f, key))
    return jax.vmap(gradient, in_axes=(None, 0))(theta, jax.random.split(key, num))


def control_variate(gradients: PyTree, controls: PyTree, expectation: PyTree) -> PyTree:
    """g - c (h - E h), entry by entry, with the c that leaves least variance: Cov(g, h) / Var(h).

    gradients and controls: leaves [N, ...], of the same samples; expectation: E h, leaves [...]. c is estimated for
    each sample from the *others*, so that the mean stays unbiased. A control of no variance changes nothing. A
    pathwise gradient of a simple model of f, whose expectation is known, controls that of f; the score, whose
    expectation is zero, controls a score-function gradient. Owen (2013), chapter 8.9.
    """

    def controlled(g: jax.Array, h: jax.Array, mean: jax.Array) -> jax.Array:
        num = g.shape[0]
        if num < 3:
            raise UsageError(f"control_variate needs three samples or more, to estimate c; there are {num}.")
        others = lambda x: (x.sum(0, keepdims=True) - x) / jnp.float32(num - 1)
        covariance = others(g * h) - others(g) * others(h)
        variance = others(jnp.square(h)) - jnp.square(others(h))
        c = jnp.where(variance > 0, covariance / jnp.where(variance > 0, variance, 1.0), 0.0)
        return g - c * (h - mean[None])

    as_arrays = lambda tree: jax.tree.map(jnp.asarray, tree)
    return jax.tree.map(controlled, as_arrays(gradients), as_arrays(controls), as_arrays(expectation))


class Summary(NamedTuple):
    """Of per-sample gradients: trees of theta's structure, but for ``total_variance``."""

    mean: PyTree
    standard_error: PyTree  # of the mean
    variance: PyTree  # of one sample, unbiased
    total_variance: jax.Array  # the variances of all entries added up: the trace of one sample's covariance


def summarise(gradients: PyTree) -> Summary:
    """The estimate that per-sample gradients (leaves [N, ...], N >= 2) make, and how good it is."""
    num = jax.tree.leaves(gradients)[0].shape[0]
    if num < 2:
        raise UsageError(f"summarise needs two samples or more for a variance; there are {num}.")
    variance = jax.tree.map(lambda g: jnp.var(g, axis=0, ddof=1), gradients)
    total = jax.tree.reduce(lambda a, b: a + b.sum(), variance, jnp.zeros(()))
    mean = jax.tree.map(lambda g: g.mean(0), gradients)
    return Summary(mean, jax.tree.map(lambda v: jnp.sqrt(v / jnp.float32(num)), variance), variance, total)


def _rows(tree: PyTree) -> jax.Array:
    """Leaves [N, ...] -> [N, P]."""
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(tree)], axis=1)
