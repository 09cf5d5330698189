"""The optimiser of the agents, over one ravelled vector of parameters."""

from __future__ import annotations

import jax
import optax


def clipped_adam(max_grad_norm: float | jax.Array, *, eps: float = 1e-5) -> optax.GradientTransformation:
    """Clip the whole gradient's norm, then Adam's direction; the caller scales it by minus the learning rate.

    optax raises floats to integer powers, which strict dtype promotion forbids: its own code runs under the standard.
    """
    chain = optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.scale_by_adam(eps=eps))

    def update(gradient: optax.Updates, state: optax.OptState, params: optax.Params | None = None):
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(gradient, state, params)

    return optax.GradientTransformation(chain.init, update)
