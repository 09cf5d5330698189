"""Training a network, in one place: its parameters, its optimiser's moments, a step down a gradient, schedules.

Few parameters are trained faster as one ravelled vector, in few and large operations; many as the tree they are, for
the copies that ravelling makes then cost more than they save (``benchmarks/ravelled.py``). ``FLAT`` is where.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from steersman import shards
from steersman.errors import UsageError
from steersman.types import Array, PyTree, Rollout

FLAT = 500_000  # parameters up to which one vector is as fast or faster, of a network that trains by itself


class Optimiser(NamedTuple):
    """Two pure functions of parameters, a vector ``[P]`` or a tree, and of their gradient."""

    flat: int  # parameters up to which they are a vector

    init: Callable[[Any], PyTree]  # parameters -> moments
    update: Callable[[Any, PyTree], tuple[Any, PyTree]]  # (gradient, moments) -> (direction, moments)


class Flat(eqx.Module):
    """Parameters as one vector ``[P]`` that knows its tree."""

    vector: jax.Array
    unravel: Callable[[jax.Array], PyTree] = eqx.field(static=True)


class Trained(NamedTuple):
    """A network and its optimiser's moments."""

    params: PyTree
    optimiser: PyTree

    @property
    def network(self) -> PyTree:
        """The parameters as the tree they are, however they are held."""
        return self.params.unravel(self.params.vector) if isinstance(self.params, Flat) else self.params


def trained(optimiser: Optimiser, params: PyTree) -> Trained:
    """A network at the start; the moments are laid out as they are trained, a vector or a tree.

    Raises UsageError for a leaf that is no array of floating numbers.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not (isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jnp.floating)):
            what = leaf.dtype if isinstance(leaf, Array) else f"a {type(leaf).__name__}"
            raise UsageError(
                f"A network's leaf {jax.tree_util.keystr(path)} is {what}; each must be an array of floating numbers. "
                "Mark what is not learned eqx.field(static=True), or make it a number of Python's."
            )
    return Trained(params, optimiser.init(_few(optimiser, params)[0]))


def packed(optimiser: Optimiser, net: Trained) -> Trained:
    """The same, held as it is trained, for a loop of many steps: packed and unpacked once, not at each of them."""
    vector, unravel = _few(optimiser, net.network)
    return net if unravel is None else net._replace(params=Flat(vector, unravel))


def unpacked(net: Trained) -> Trained:
    """The inverse of ``packed``."""
    return net._replace(params=net.network)


def descend(
    optimiser: Optimiser, loss: Callable[..., tuple[jax.Array, Any]], net: Trained, rate: Any, *batch: Any
) -> tuple[Trained, Any, jax.Array]:
    """One step of the optimiser down ``loss(params, *batch) -> (a scalar, aux)``; -> (the network after it, aux, the
    gradient's norm).

    The gradient is the mean over the shards; ``aux`` is this shard's own.
    """
    inside = net if isinstance(net.params, Flat) else packed(optimiser, net)
    gradient, aux = jax.grad(loss, has_aux=True)(net.network, *batch)
    gradient = shards.cross_mean(_few(optimiser, gradient)[0])  # few: one collective and a few large operations
    direction, moments = optimiser.update(gradient, net.optimiser)
    down = lambda params: jax.tree.map(lambda p, d: p - rate * d, params, direction)
    if isinstance(inside.params, Flat):
        after = Trained(Flat(down(inside.params.vector), inside.params.unravel), moments)
    else:
        after = Trained(down(inside.params), moments)
    return after if inside is net else unpacked(after), aux, optax.tree.norm(gradient)


def _few(optimiser: Optimiser, params: PyTree) -> tuple[Any, Callable[[jax.Array], PyTree] | None]:
    """-> (one vector and the way back, if they are few; else the tree, and None)"""
    leaves = jax.tree.leaves(params)
    few = len(leaves) > 1 and sum(x.size for x in leaves) <= optimiser.flat
    return ravel_pytree(params) if few else (params, None)


def adam(*, max_grad_norm: Any = None, b1: float = 0.9, eps: float = 1e-8, flat: int | None = None) -> Optimiser:
    """Adam's direction, of the gradient clipped to ``max_grad_norm``; the caller scales it by minus the learning rate.

    b1: the decay of the first moment. flat: 0 where several networks train in turn and each is asked after its step: a
    vector brings them nothing; none: ``FLAT``.
    """
    return _optimiser(max_grad_norm, optax.scale_by_adam(b1=b1, eps=eps), flat)


def radam(*, max_grad_norm: Any = None, eps: float = 1e-8) -> Optimiser:
    """As ``adam``, with RAdam's direction: Adam's, rectified while its variance is not yet known.

    Liu et al. (2020), arXiv:1908.03265.
    """
    return _optimiser(max_grad_norm, optax.scale_by_radam(eps=eps))


def _optimiser(max_grad_norm: Any, transform: optax.GradientTransformation, flat: int | None = None) -> Optimiser:
    """optax raises floats to integer powers, which strict dtype promotion forbids: its own code runs under the standard
    rules."""
    chain = transform if max_grad_norm is None else optax.chain(optax.clip_by_global_norm(max_grad_norm), transform)

    def update(gradient: Any, moments: PyTree) -> tuple[Any, PyTree]:
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(gradient, moments)

    return Optimiser(FLAT if flat is None else flat, chain.init, update)


# Schedules: environment steps are counted in the learner's state, over all shards, the random ones included.


def counted(steps: jax.Array, rollout: Rollout) -> jax.Array:
    """The environment steps (uint32, it stays at its largest) after a rollout [T, B] of every shard."""
    more = jnp.uint32(rollout.reward.size * shards.shard_count())
    return jnp.where(steps > jnp.uint32(2**32 - 1) - more, jnp.uint32(2**32 - 1), steps + more)


def remaining(budget: int | None, steps: jax.Array) -> jax.Array:
    """The share of the budget of environment steps that is still ahead, from 1 to 0; 1 without a budget."""
    return 1.0 - jnp.clip(steps.astype(jnp.float32) / float(budget), 0.0, 1.0) if budget else jnp.ones(())


def annealed(config: Any, budget: int | None, steps: jax.Array, rate: Any = None) -> jax.Array:
    """A step size at ``steps``: ``rate`` (by default config.learning_rate), falling if config.anneal_learning_rate."""
    rate = config.learning_rate if rate is None else rate
    return jnp.asarray(rate * (remaining(budget, steps) if config.anneal_learning_rate else jnp.ones(())))


def every(period: int, updates: jax.Array, step: Callable[..., Any], *before: Any) -> Any:
    """``step(*before)`` at every ``period``-th update, from the first on; ``before`` at the others."""
    if period == 1:
        return step(*before)
    return jax.lax.cond(updates % period == 0, step, lambda *same: same, *before)


def copied(params: PyTree) -> PyTree:
    """A target network at the start: the same numbers in buffers of its own, so that both can be donated."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), params)
