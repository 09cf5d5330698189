"""From an observation, whatever its space, to one vector of features."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.nets.initialisers import orthogonal_conv, orthogonal_linear
from steersman.nets.linear import Linear
from steersman.spaces import MASK, is_image
from steersman.types import Key, PyTree


def convolvable(space: spaces.Space) -> bool:
    """Whether the Nature CNN can read a space: an image of rank 3, at least 36 pixels high and wide."""
    shape = space.shape or ()
    return is_image(space) and len(shape) == 3 and sorted(shape)[1] >= 36


class Flatten(eqx.Module):
    """Any array to one float32 vector; a uint8 array (too small for the convolutions) is scaled from 0..255 to 0..1."""

    def __call__(self, x: jax.Array) -> jax.Array:
        scale = 1.0 / 255.0 if x.dtype == jnp.uint8 else 1.0
        return x.astype(jnp.float32).reshape(-1) * scale


class OneHot(eqx.Module):
    """Categories (one int, or K of them) to their one-hot vectors, joined."""

    sizes: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        values = jnp.atleast_1d(x).reshape(-1)
        parts = [jax.nn.one_hot(values[i], size, dtype=jnp.float32) for i, size in enumerate(self.sizes)]
        return jnp.concatenate(parts)


class NatureCNN(eqx.Module):
    """The convolutional trunk of Mnih et al. (2015): 32 8x8/4, 64 4x4/2, 64 3x3/1, then 512 units; ReLU throughout.

    Input: uint8 ``[H, W, C]`` or ``[C, H, W]`` (the smallest axis is the channels), scaled here from 0..255 to 0..1.
    """

    convolutions: tuple[eqx.nn.Conv2d, ...]
    linear: Linear
    channels_last: bool = eqx.field(static=True)

    def __init__(self, shape: tuple[int, ...], *, features: int = 512, key: Key):
        self.channels_last = shape[2] == min(shape)
        channels, height, width = (shape[2], shape[0], shape[1]) if self.channels_last else shape
        keys = jax.random.split(key, 4)
        layers = []
        for k, (out, size, stride) in zip(keys[:3], ((32, 8, 4), (64, 4, 2), (64, 3, 1)), strict=True):
            layers.append(orthogonal_conv(channels, out, size, stride, k))
            channels, height, width = out, (height - size) // stride + 1, (width - size) // stride + 1
        self.convolutions = tuple(layers)
        self.linear = orthogonal_linear(channels * height * width, features, keys[3])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32) * (1.0 / 255.0)
        if self.channels_last:
            x = jnp.moveaxis(x, -1, 0)
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
        return jax.nn.relu(self.linear(x.reshape(-1)))


class Encoder(eqx.Module):
    """Encodes every leaf of an observation by its space and joins the results: ``obs -> [out_size]``.

    Box: flattened; image: Nature CNN; Discrete, MultiDiscrete: one-hot; MultiBinary: 0/1 floats; Dict, Tuple: every
    part but ``action_mask``.
    """

    parts: tuple[Any, ...]
    keys: tuple[Any, ...] | None = eqx.field(static=True)  # of a Dict or Tuple; None: a single part
    out_size: int = eqx.field(static=True)

    def __init__(self, space: spaces.Space, *, key: Key):
        if isinstance(space, spaces.Dict | spaces.Tuple):
            named = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
            children = [(name, child) for name, child in named if name != MASK]
            made = [
                Encoder(child, key=k)
                for (_, child), k in zip(children, jax.random.split(key, len(children)), strict=True)
            ]
            self.keys, self.parts = tuple(name for name, _ in children), tuple(made)
            self.out_size = sum(part.out_size for part in made)
        else:
            self.keys = None
            part, self.out_size = _leaf(space, key)
            self.parts = (part,)

    def __call__(self, obs: PyTree) -> jax.Array:
        if self.keys is None:
            return self.parts[0](obs)
        return jnp.concatenate([part(obs[name]) for name, part in zip(self.keys, self.parts, strict=True)])


def _leaf(space: spaces.Space, key: Key) -> tuple[Any, int]:
    match space:
        case spaces.Box() if convolvable(space):
            return NatureCNN(space.shape, key=key), 512
        case spaces.Box() | spaces.MultiBinary():
            return Flatten(), math.prod(space.shape)
        case spaces.Discrete():
            return OneHot((int(space.n),)), int(space.n)
        case spaces.MultiDiscrete():
            sizes = tuple(int(n) for n in space.nvec.reshape(-1))
            return OneHot(sizes), sum(sizes)
    raise UsageError(
        f"No encoder for observations of {space}. Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple have one; "
        "give a network of your own for others."
    )
