"""The multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.nets.layers.norm import LayerNorm
from steersman.types import Key

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
}


class MLP(eqx.Module):
    """``[in] -> [sizes[-1]]``: x <- activation(norm(W x + b)) for every layer, the last one included.

    A trunk, not a whole network: heads (``steersman.nets.heads``) end it. With no sizes it is the identity. norm:
    layer normalisation where ``layer_norm`` asks for it.
    """

    layers: tuple[Linear, ...]
    norms: tuple[LayerNorm, ...]  # one for each layer, or none
    activation: Callable[[jax.Array], jax.Array] = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(
        self, in_size: int, sizes: Sequence[int], *, activation: str = "tanh", layer_norm: bool = False, key: Key
    ):
        widths = (in_size, *sizes)
        keys = jax.random.split(key, max(len(sizes), 1))
        self.layers = tuple(orthogonal_linear(widths[i], widths[i + 1], keys[i]) for i in range(len(sizes)))
        self.norms = tuple(LayerNorm(size) for size in sizes) if layer_norm else ()
        self.activation = ACTIVATIONS[activation]
        self.out_size = widths[-1]

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = self.activation(self.norms[i](x) if self.norms else x)
        return x
