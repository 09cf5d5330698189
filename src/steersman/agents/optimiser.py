"""The optimiser of the agents, over a tree of parameters or one ravelled vector of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from steersman.types import PyTree


class Optimiser(NamedTuple):
    """Two pure functions of the parameters, a tree or a vector ``[P]``, and of a gradient of the same structure."""

    init: Callable[[PyTree], PyTree]  # parameters -> state
    update: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]  # (gradient, state) -> (direction, state)


def clipped_adam(max_grad_norm: float | jax.Array, *, eps: float = 1e-5) -> Optimiser:
    """Clip the whole gradient's norm, then Adam's direction; the caller scales it by minus the learning rate.

    optax raises floats to integer powers, which strict dtype promotion forbids: its own code runs under the standard.
    """
    chain = optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.scale_by_adam(eps=eps))

    def update(gradient: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(gradient, state)

    return Optimiser(chain.init, update)
