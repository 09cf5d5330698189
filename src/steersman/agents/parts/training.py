"""The optimisers of the agents.

Small networks are faster as one ravelled vector of parameters, few and large operations; from 256 wide on the copies
that ravelling makes cost more than they save, and the tree of parameters is trained leaf by leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from steersman.types import PyTree


class Optimiser(NamedTuple):
    """Two pure functions of parameters, a vector ``[P]`` or a tree, and of their gradient."""

    init: Callable[[Any], PyTree]  # parameters -> state
    update: Callable[[Any, PyTree], tuple[Any, PyTree]]  # (gradient, state) -> (direction, state)


FLAT = 50_000  # parameters up to which one vector is faster


def packed(params: PyTree) -> tuple[Any, Callable[[Any], PyTree]]:
    """-> (the parameters as they are faster to train: one vector if they are few, else the tree; its inverse).

    A gradient is packed by the same function: it has as many entries.
    """
    few = sum(x.size for x in jax.tree.leaves(params)) <= FLAT
    return ravel_pytree(params) if few else (params, lambda tree: tree)


def clipped_adam(max_grad_norm: float | jax.Array, *, eps: float = 1e-5) -> Optimiser:
    """Clip the whole gradient's norm, then Adam's direction; the caller scales it by minus the learning rate."""
    return _optimiser(optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.scale_by_adam(eps=eps)))


def clipped_radam(max_grad_norm: float | jax.Array, *, eps: float = 1e-8) -> Optimiser:
    """As ``clipped_adam``, with RAdam's direction: Adam's, rectified while its variance is not yet known.

    Liu et al. (2020), arXiv:1908.03265.
    """
    return _optimiser(optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.scale_by_radam(eps=eps)))


def adam(*, b1: float = 0.9, eps: float = 1e-8) -> Optimiser:
    """Adam's direction alone; the caller scales it by minus the learning rate. b1: the decay of the first moment."""
    return _optimiser(optax.scale_by_adam(b1=b1, eps=eps))


def _optimiser(chain: optax.GradientTransformation) -> Optimiser:
    """optax raises floats to integer powers, which strict dtype promotion forbids: its own code runs under the standard
    rules."""

    def update(gradient: Any, state: PyTree) -> tuple[Any, PyTree]:
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(gradient, state)

    return Optimiser(chain.init, update)


class Trained(NamedTuple):
    """A network and its optimiser's moments."""

    params: PyTree
    optimiser: PyTree


def trained(adam: Optimiser, params: PyTree) -> Trained:
    return Trained(params, adam.init(params))


def descend(adam: Optimiser, net: Trained, gradient: PyTree, learning_rate: Any) -> Trained:
    """One step of ``adam`` down a gradient."""
    direction, optimiser = adam.update(gradient, net.optimiser)
    return Trained(jax.tree.map(lambda p, d: p - learning_rate * d, net.params, direction), optimiser)


def every(period: int, updates: jax.Array, step: Callable[..., Any], *before: Any) -> Any:
    """``step(*before)`` at every ``period``-th update, from the first on; ``before`` at the others."""
    if period == 1:
        return step(*before)
    return jax.lax.cond(updates % period == 0, step, lambda *same: same, *before)


def copied(params: PyTree) -> PyTree:
    """A target network at the start: the same numbers in buffers of its own, so that both can be donated."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), params)
