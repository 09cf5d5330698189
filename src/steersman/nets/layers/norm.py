"""Layer normalisation."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

EPSILON = 1e-6


class LayerNorm(eqx.Module):
    """``[..., size]`` -> (x - mean) / sqrt(variance + 1e-6) * weight + bias, over the last axis.

    Of a convolution's output ``[H, W, C]``: over the channels of each pixel. Ba et al. (2016), arXiv:1607.06450.
    """

    weight: jax.Array
    bias: jax.Array

    def __init__(self, size: int):
        self.weight, self.bias = jnp.ones((size,), jnp.float32), jnp.zeros((size,), jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        mean = x.mean(-1, keepdims=True)
        centred = x - mean
        variance = jnp.square(centred).mean(-1, keepdims=True)
        shape = (1,) * (x.ndim - 1) + self.weight.shape
        return centred * jax.lax.rsqrt(variance + EPSILON) * self.weight.reshape(shape) + self.bias.reshape(shape)
