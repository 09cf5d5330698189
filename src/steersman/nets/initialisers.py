"""Layers with the initialisation that on-policy methods depend on: orthogonal weights, zero biases."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.nets.linear import Linear
from steersman.types import Key

RELU_GAIN = math.sqrt(2.0)


def orthogonal_linear(in_size: int, out_size: int, key: Key, *, gain: float = RELU_GAIN) -> Linear:
    """A linear layer ``[in] -> [out]`` with weight = gain * (an orthogonal matrix) and bias = 0 (Saxe et al. 2014)."""
    return Linear(in_size, out_size, gain=gain, key=key)


def orthogonal_conv(
    channels_in: int, channels_out: int, size: int, stride: int, key: Key, *, gain: float = RELU_GAIN
) -> eqx.nn.Conv2d:
    """A convolution ``[C, H, W] -> [C', H', W']`` whose filters, seen as rows, are orthogonal, and bias = 0."""
    layer = eqx.nn.Conv2d(channels_in, channels_out, size, stride, key=key)
    return _reset(layer, layer.weight, gain, key)


def _reset(layer, weight: jax.Array, gain: float, key: Key):
    rows = weight.shape[0]
    flat = jax.nn.initializers.orthogonal(gain)(key, (rows, weight.size // rows), jnp.float32)
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (flat.reshape(weight.shape), jnp.zeros_like(layer.bias)))
