"""The bootstrap particle filter: a belief as a cloud of weighted states, for any dynamics that can be sampled.

Axes: ``N`` particles, ``D`` the entries of a state. Weights are kept as logarithms. Gordon, Salmond & Smith (1993);
Thrun, Burgard & Fox (2005), chapter 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

from steersman.errors import UsageError
from steersman.theory.beliefs.filters import moments
from steersman.types import Array, Filter, Key, PyTree


class Particles(NamedTuple):
    """sum_i w_i delta(s - s_i)."""

    state: PyTree  # leaves [N, ...]
    log_weights: Array  # [N]; the weights sum to one
    log_likelihood: Array  # log p(obs | all before)


def effective_sample_size(log_weights: Array) -> jax.Array:
    """1 / sum_i w_i^2, from 1 (one particle has all the weight) to N (all have the same). Kong, Liu & Wong (1994).

    log_weights [N], normalised or not.

    >>> effective_sample_size(jnp.log(jnp.array([0.5, 0.5, 0.0])))
    Array(2., dtype=float32)
    """
    x = jnp.asarray(log_weights)
    w = jnp.exp(x - jnp.max(x))
    return jnp.square(w.sum()) / jnp.square(w).sum()


def reweighted(log_weights: Array, log_p: Array) -> tuple[jax.Array, jax.Array]:
    """(log of w_i p_i / sum_j w_j p_j [N], log sum_j w_j p_j): normalised weights, and what is seen.

    log_p [N]: log p(obs | s_i); what is not finite counts as impossible. Where all are, the weights stay and the second
    is -inf.
    """
    x, log_p = jnp.asarray(log_weights), jnp.asarray(log_p)
    joint = x + jnp.where(jnp.isfinite(log_p), log_p, -jnp.inf)
    total = logsumexp(joint)
    possible = total > -jnp.inf
    return jnp.where(possible, joint - jnp.where(possible, total, 0.0), x), total


def systematic(weights: Array, key: Key) -> jax.Array:
    """Indices int32 [N], particle i floor(N w_i) or ceil(N w_i) times and N w_i times on average: one draw for all.

        index_k = the first i with w_1 + ... + w_i > (k + u) / N,    u ~ U[0, 1)

    weights [N], at least 0 and not all 0. Kitagawa (1996), appendix.
    """
    w = jnp.asarray(weights)
    # Sums in parallel may fall by a rounding where a weight is 0: the running maximum does not.
    cumulative = jax.lax.cummax(jnp.cumsum(w))
    places = (jnp.arange(w.shape[0], dtype=jnp.float32) + jax.random.uniform(key)) / w.shape[0]
    below_one = np.nextafter(np.float32(1), np.float32(0))  # else rounding may pick one past the last
    return jnp.searchsorted(cumulative / cumulative[-1], jnp.minimum(places, below_one), side="right").astype(jnp.int32)


def mean_and_covariance(belief: Particles) -> tuple[jax.Array, jax.Array]:
    """The weighted mean [D] and covariance [D, D], the leaves of a state joined in their order."""
    states = jax.vmap(lambda state: ravel_pytree(state)[0])(belief.state)
    weights = jnp.exp(jnp.asarray(belief.log_weights))
    mean = jnp.matmul(weights, states, precision="highest")
    away = states - mean[None]
    return mean, jnp.matmul((weights[:, None] * away).T, away, precision="highest")


def particles(
    sample_start: Callable[[Key], PyTree],
    transition: Callable[[PyTree, Any, Key], PyTree],
    log_likelihood: Callable[[PyTree, PyTree], jax.Array],
    number: int,
) -> Filter:
    """The bootstrap filter: every particle draws where it goes, and weighs what it would have seen there.

    sample_start: key -> s_0. transition: (s, a, key) -> s'; a compiled environment's own will do, ``lambda s, a, key:
    env.step(s, a, key)[0]``, but where it draws nothing add noise, or copies of a particle stay copies. log_likelihood:
    (s', o) -> log p(o | s'), a scalar. A state is a float32 array or a tree of them. number: N.

    Particles are drawn anew, ``systematic``, at the start of a step before which the effective sample size is below
    N / 2. Features: mean, covariance's upper triangle row by row, effective sample size / N, [D + D (D + 1) / 2 + 1].
    The error of the mean falls as sigma / sqrt(N), sigma that of the belief itself.

    Raises UsageError for ``number`` below 1 and states that are not trees of float32.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise UsageError(f"number is of particles, a whole number of at least 1; got {number!r}.")
    leaves = jax.tree.leaves(jax.eval_shape(sample_start, jax.random.key(0)))
    if not leaves or any(leaf.dtype != np.float32 for leaf in leaves):
        raise UsageError(f"A particle's state is a tree of float32 arrays; sample_start gives {leaves}.")
    size = sum(leaf.size for leaf in leaves)
    even = np.full((number,), -np.log(number), np.float32)

    def seen(state: PyTree, log_weights: Array, obs: PyTree) -> Particles:
        log_p = jax.vmap(log_likelihood, (0, None))(state, obs)
        if jnp.shape(log_p) != (number,):
            raise UsageError(f"log_likelihood is to give a scalar; it gives {jnp.shape(log_p)[1:]}.")
        return Particles(state, *reweighted(log_weights, log_p))

    def begin(obs: PyTree, key: Key) -> Particles:
        return seen(jax.vmap(sample_start)(jax.random.split(key, number)), jnp.asarray(even), obs)

    def step(belief: Particles, action: Any, obs: PyTree, key: Key) -> Particles:
        choose, move = jax.random.split(key)
        few = effective_sample_size(belief.log_weights) < 0.5 * number
        kept = jnp.where(few, systematic(jnp.exp(belief.log_weights), choose), jnp.arange(number, dtype=jnp.int32))
        state = jax.tree.map(lambda x: x[kept], belief.state)
        state = jax.vmap(transition, (0, None, 0))(state, action, jax.random.split(move, number))
        return seen(state, jnp.where(few, even, belief.log_weights), obs)

    def features(belief: Particles) -> jax.Array:
        share = effective_sample_size(belief.log_weights) / number
        return jnp.concatenate([moments(*mean_and_covariance(belief)), share[None]])

    return Filter(begin, step, features, size + size * (size + 1) // 2 + 1)
