"""The optimiser of the agents, over one ravelled vector of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from steersman.types import PyTree


class Optimiser(NamedTuple):
    """Two pure functions of a vector of parameters ``[P]`` and of its gradient ``[P]``."""

    init: Callable[[jax.Array], PyTree]  # parameters -> state
    update: Callable[[jax.Array, PyTree], tuple[jax.Array, PyTree]]  # (gradient, state) -> (direction, state)


def clipped_adam(max_grad_norm: float | jax.Array, *, eps: float = 1e-5) -> Optimiser:
    """Clip the whole gradient's norm, then Adam's direction; the caller scales it by minus the learning rate.

    optax raises floats to integer powers, which strict dtype promotion forbids: its own code runs under the standard.
    """
    chain = optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.scale_by_adam(eps=eps))

    def update(gradient: jax.Array, state: PyTree) -> tuple[jax.Array, PyTree]:
        with jax.numpy_dtype_promotion("standard"):
            direction, state = chain.update(gradient, state)
        assert isinstance(direction, jax.Array)
        return direction, state

    return Optimiser(chain.init, update)
