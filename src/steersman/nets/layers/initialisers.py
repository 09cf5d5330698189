"""Layers with the initialisation that on-policy methods depend on: orthogonal weights, zero biases."""

from __future__ import annotations

import math

from steersman.nets.layers.linear import Linear
from steersman.types import Key

RELU_GAIN = math.sqrt(2.0)


def orthogonal_linear(in_size: int, out_size: int, key: Key, *, gain: float = RELU_GAIN) -> Linear:
    """A linear layer ``[in] -> [out]`` with weight = gain * (an orthogonal matrix) and bias = 0 (Saxe et al. 2014)."""
    return Linear(in_size, out_size, gain=gain, key=key)
