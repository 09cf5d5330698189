"""Layers with the initialisation that on-policy methods depend on: orthogonal weights, zero biases."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.types import Key

RELU_GAIN = math.sqrt(2.0)


def orthogonal_linear(in_size: int, out_size: int, key: Key, *, gain: float = RELU_GAIN) -> eqx.nn.Linear:
    """A linear layer ``[in] -> [out]`` with weight = gain * (an orthogonal matrix) and bias = 0 (Saxe et al. 2014)."""
    layer = eqx.nn.Linear(in_size, out_size, key=key)
    weight = jax.nn.initializers.orthogonal(gain)(key, (out_size, in_size), jnp.float32)
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, jnp.zeros((out_size,), jnp.float32)))
