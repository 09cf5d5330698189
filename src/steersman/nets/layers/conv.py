"""Convolutional trunks: of one image ``[H, W, C]`` (or ``[C, H, W]``), one vector of features. ``vmap`` them."""

from __future__ import annotations

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.nets.layers.initialisers import RELU_GAIN, orthogonal_linear
from steersman.nets.layers.linear import Linear, orthogonal
from steersman.nets.layers.norm import LayerNorm
from steersman.types import Key


class Conv(eqx.Module):
    """A convolution ``[H, W, C] -> [H', W', C']``, its filters as rows orthogonal, bias 0."""

    weight: jax.Array  # [size, size, C, C']
    bias: jax.Array  # [C']
    stride: int = eqx.field(static=True)
    same: bool = eqx.field(static=True)  # pad so that H' = H / stride; else use whole patches only

    def __init__(
        self, channels_in: int, channels_out: int, size: int, stride: int = 1, *, same: bool = False, key: Key
    ):
        flat = orthogonal(RELU_GAIN, (size * size * channels_in, channels_out), key)
        self.weight = flat.reshape(size, size, channels_in, channels_out)
        self.bias = jnp.zeros((channels_out,), jnp.float32)
        self.stride, self.same = stride, same

    def __call__(self, x: jax.Array) -> jax.Array:
        settings = {"stride": self.stride, "same": self.same}
        by_products, by_xla = partial(_by_products, **settings), partial(_by_xla, **settings)
        out = jax.lax.platform_dependent(x, self.weight, cpu=by_products, default=by_xla)
        return out + self.bias[None, None, :]


def _by_xla(x: jax.Array, weight: jax.Array, *, stride: int, same: bool) -> jax.Array:
    padding, layout = "SAME" if same else "VALID", ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x[None], weight, (stride, stride), padding, dimension_numbers=layout)[0]


_WIDE = 32  # channels from which a product for each offset takes less time than one over whole patches


def _by_products(x: jax.Array, weight: jax.Array, *, stride: int, same: bool) -> jax.Array:
    """The same by matrix products over shifted pictures, for CPUs.

    There XLA has a fast form only for convolutions outside loops, of one set of weights (jax-ml/jax#12868). In a scan,
    where agents take their steps, its gradient of 64 of Atari's pictures takes 16 times as long as this one's, of two
    sets of weights 23 times; outside, half (benchmarks/convolutions.py).
    """
    size, channels_out = weight.shape[0], weight.shape[-1]
    if same:
        x = jnp.pad(x, (*(_same_padding(n, size, stride) for n in x.shape[:2]), (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[:2])
    if stride > 1 and size % stride == 0:  # of blocks of stride x stride pixels, the same is a convolution of stride 1
        blocks = size // stride
        high, wide = rows - 1 + blocks, columns - 1 + blocks
        x = _blocks(x[: high * stride, : wide * stride], stride)
        weight, size, stride = _blocks(weight.reshape(size, size, -1), stride), blocks, 1
        weight = weight.reshape(blocks, blocks, -1, channels_out)
    ends = (rows - 1) * stride + 1, (columns - 1) * stride + 1
    shifted = [x[i : i + ends[0] : stride, j : j + ends[1] : stride] for i in range(size) for j in range(size)]
    flat = weight.reshape(size * size, -1, channels_out)
    if x.shape[-1] < _WIDE:
        return jnp.concatenate(shifted, axis=-1) @ flat.reshape(-1, channels_out)
    return sum((part @ w for part, w in zip(shifted[1:], flat[1:], strict=True)), shifted[0] @ flat[0])


def _blocks(x: jax.Array, size: int) -> jax.Array:
    """Space to depth: ``[H, W, C] -> [H / size, W / size, size * size * C]``."""
    high, wide = x.shape[0] // size, x.shape[1] // size
    return x.reshape(high, size, wide, size, -1).swapaxes(1, 2).reshape(high, wide, -1)


def _same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum over 3 x 3 windows, every second one: ``[H, W, C] -> [ceil(H / 2), ceil(W / 2), C]``.

    Slices and maxima, rows then columns: the gradient of XLA's own window is a scatter, slow on CPUs.
    """
    for axis in (0, 1):
        before, after = _same_padding(x.shape[axis], 3, 2)
        pads = [(before, after) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        count = -(-x.shape[axis] // 2)
        parts = [jax.lax.slice_in_dim(padded, i, i + 2 * count - 1, 2, axis) for i in range(3)]
        x = jnp.maximum(jnp.maximum(parts[0], parts[1]), parts[2])
    return x


class _Layer(eqx.Module):
    """Convolution, then (by choice) layer normalisation over the channels."""

    conv: Conv
    norm: LayerNorm | None

    def __init__(self, channels_in: int, channels_out: int, size: int, stride: int, same: bool, norm: bool, key: Key):
        self.conv = Conv(channels_in, channels_out, size, stride, same=same, key=key)
        self.norm = LayerNorm(channels_out) if norm else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)


class _Dense(eqx.Module):
    """Flatten, one linear layer, (by choice) layer normalisation, ReLU."""

    linear: Linear
    norm: LayerNorm | None

    def __init__(self, in_size: int, features: int, norm: bool, key: Key):
        self.linear = orthogonal_linear(in_size, features, key)
        self.norm = LayerNorm(features) if norm else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.linear(x.reshape(-1))
        return jax.nn.relu(x if self.norm is None else self.norm(x))


CHANNELS = ("auto", "first", "last", "smallest")  # which axis of a picture holds them


def channels_last(shape: tuple[int, ...], channels: str = "auto") -> bool:
    """Whether a picture of three axes is ``[H, W, C]``, or else ``[C, H, W]``.

    ``auto``: of two equal axes beside each other the third is the channels, however many; else an axis of 4 or fewer
    is; else the one without which the picture is nearest to a square; the last where that decides nothing.
    ``smallest``: the smallest axis, the last where two tie.

    >>> channels_last((9, 9, 17)), channels_last((3, 210, 160)), channels_last((6, 7, 10))
    (True, False, True)
    """
    first, middle, last = shape
    if channels != "auto":
        return channels == "last" or (channels == "smallest" and last == min(shape))
    if first == middle or middle == last:
        return first == middle
    if min(first, last) <= 4:
        return last < first
    ratio = lambda a, b: max(a, b) / min(a, b)
    return ratio(first, middle) <= ratio(middle, last)


class _Picture(eqx.Module):
    """The image as float32 ``[H, W, C]``, scaled."""

    channels_last: bool = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    shape: tuple[int, int, int] = eqx.field(static=True)  # as it comes out

    def __init__(self, shape: tuple[int, ...], scale: float, channels: str):
        self.channels_last = channels_last(shape, channels)
        self.scale = scale
        self.shape = (shape[0], shape[1], shape[2]) if self.channels_last else (shape[1], shape[2], shape[0])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32) * self.scale
        return x if self.channels_last else jnp.moveaxis(x, 0, -1)


class PlainCNN(eqx.Module):
    """Convolutions with ReLU one after the other, then one dense layer: ``nature`` and ``minatar`` below."""

    picture: _Picture
    layers: tuple[_Layer, ...]
    dense: _Dense
    out_size: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        layers: tuple[tuple[int, int, int], ...],  # (channels, size, stride) of each
        features: int,
        *,
        scale: float,
        channels: str = "auto",
        layer_norm: bool = False,
        key: Key,
    ):
        self.picture = _Picture(shape, scale, channels)
        height, width, planes = self.picture.shape
        made = []
        for k, (out, size, stride) in zip(jax.random.split(key, len(layers)), layers, strict=True):
            made.append(_Layer(planes, out, size, stride, False, layer_norm, k))
            planes, height, width = out, (height - size) // stride + 1, (width - size) // stride + 1
            if height < 1 or width < 1:
                raise UsageError(
                    f"An image of shape {shape} is too small for these convolutions. Choose another encoder."
                )
        self.layers = tuple(made)
        self.dense = _Dense(planes * height * width, features, layer_norm, jax.random.fold_in(key, len(layers)))
        self.out_size = features

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.picture(x)
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.dense(x)


def nature(shape: tuple[int, ...], *, scale: float = 1 / 255, key: Key, **settings: Any) -> PlainCNN:
    """The trunk of Mnih et al. (2015): 32 8x8/4, 64 4x4/2, 64 3x3/1, then 512 units; ReLU throughout."""
    layers = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    return PlainCNN(shape, layers, 512, scale=scale, key=key, **settings)


def minatar(shape: tuple[int, ...], *, scale: float = 1.0, key: Key, **settings: Any) -> PlainCNN:
    """The trunk of Young and Tian (2019), "MinAtar": 16 3x3/1, then 128 units; ReLU."""
    return PlainCNN(shape, ((16, 3, 1),), 128, scale=scale, key=key, **settings)


class _Residual(eqx.Module):
    """x + conv(relu(conv(relu(x))))."""

    first: _Layer
    second: _Layer

    def __init__(self, channels: int, norm: bool, key: Key):
        keys = jax.random.split(key)
        self.first, self.second = (_Layer(channels, channels, 3, 1, True, norm, k) for k in keys)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.second(jax.nn.relu(self.first(jax.nn.relu(x))))


class ImpalaCNN(eqx.Module):
    """The residual trunk of Espeholt et al. (2018), figure 3: 15 convolutions, then 256 units.

    Three sections of 16, 32 and 32 channels: a 3x3 convolution, a 3x3/2 maximum, two residual blocks.
    """

    picture: _Picture
    sections: tuple[tuple[_Layer, _Residual, _Residual], ...]
    dense: _Dense
    out_size: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        scale: float = 1 / 255,
        channels: str = "auto",
        layer_norm: bool = False,
        key: Key,
    ):
        self.picture = _Picture(shape, scale, channels)
        height, width, planes = self.picture.shape
        sections = []
        for i, out in enumerate((16, 32, 32)):
            keys = jax.random.split(jax.random.fold_in(key, i), 3)
            blocks = (_Residual(out, layer_norm, k) for k in keys[1:])
            sections.append((_Layer(planes, out, 3, 1, True, layer_norm, keys[0]), *blocks))
            planes, height, width = out, -(-height // 2), -(-width // 2)
        self.sections = tuple(sections)
        self.dense = _Dense(planes * height * width, 256, layer_norm, jax.random.fold_in(key, 3))
        self.out_size = 256

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.picture(x)
        for first, *blocks in self.sections:
            x = max_pool(first(x))
            for block in blocks:
                x = block(x)
        return self.dense(jax.nn.relu(x))
