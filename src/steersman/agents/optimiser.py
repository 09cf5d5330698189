"""The optimisers of the agents: of one ravelled vector of parameters, or of a tree of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from steersman.types import PyTree


class Optimiser(NamedTuple):
    """Two pure functions of the parameters, a vector or a tree, and of their gradient."""

    init: Callable[[PyTree], PyTree]  # parameters -> state
    update: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]  # (gradient, state) -> (direction, state)


def clipped_adam(max_grad_norm: float | jax.Array, *, eps: float = 1e-5) -> Optimiser:
    """Clip the whole gradient's norm, then Adam's direction; the caller scales it by minus the learning rate."""
    return _clipped(max_grad_norm, optax.scale_by_adam(eps=eps))


def clipped_radam(max_grad_norm: float | jax.Array, *, eps: float = 1e-8) -> Optimiser:
    """As ``clipped_adam``, with RAdam's direction: Adam's, rectified while its variance is not yet known.

    Liu et al. (2020), arXiv:1908.03265.
    """
    return _clipped(max_grad_norm, optax.scale_by_radam(eps=eps))


def _clipped(max_grad_norm: float | jax.Array, direction: optax.GradientTransformation) -> Optimiser:
    """optax raises floats to integer powers, which strict promotion forbids: its own code runs under the standard."""
    chain = optax.chain(optax.clip_by_global_norm(max_grad_norm), direction)

    def update(gradient: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(gradient, state)

    return Optimiser(chain.init, update)
