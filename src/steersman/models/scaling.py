"""Normalising what a model reads and what it predicts: both, or one large entry drowns the others in the loss."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from steersman.types import Array

ROUNDING = 1e-6  # a range below this share of its largest number is what rounding leaves of a constant


class Scaler(NamedTuple):
    """Moments and range of each entry of vectors [..., D]. An entry that never varied has std 0 and is not divided by.

    z = (x - mean) / std; 0 where std = 0, and what comes back there is the mean.
    """

    mean: jax.Array  # [D]
    std: jax.Array  # [D]
    low: jax.Array  # [D]: the least that was seen
    high: jax.Array  # [D]

    @property
    def varies(self) -> jax.Array:
        """bool [D]."""
        return self.std > 0

    def normalize(self, x: Array) -> jax.Array:
        x, divisor = jnp.asarray(x), jnp.where(self.varies, self.std, 1.0)
        return jnp.where(_fit(self.varies, x), (x - _fit(self.mean, x)) / _fit(divisor, x), 0.0)

    def restore(self, z: Array) -> jax.Array:
        return jnp.asarray(z) * _fit(self.std, z) + _fit(self.mean, z)


def unscaled(size: int) -> Scaler:
    """The identity, of an endless range: before anything is seen."""
    zero = jnp.zeros((size,), jnp.float32)
    return Scaler(zero, zero + 1, zero - jnp.inf, zero + jnp.inf)


def scaler(x: Array, valid: Array) -> Scaler:
    """Of the ``valid`` rows of x [N, D], float32. Two passes around one of the rows: stable far from zero.

    >>> found = scaler(jnp.array([[1.0, 7.0], [3.0, 7.0], [9.0, 9.0]]), jnp.array([True, True, False]))
    >>> found.mean.tolist(), found.std.tolist()
    ([2.0, 7.0], [1.0, 0.0])
    """
    x, valid = jnp.asarray(x), jnp.asarray(valid)[:, None]
    count = jnp.maximum(valid.sum().astype(jnp.float32), 1.0)
    centre = x[jnp.argmax(valid[:, 0])][None]
    average = lambda y: jnp.where(valid, y, 0.0).sum(0) / count
    mean = average(x - centre)
    std = jnp.sqrt(average(jnp.square(x - centre - mean[None])))
    low, high = jnp.where(valid, x, jnp.inf).min(0), jnp.where(valid, x, -jnp.inf).max(0)
    constant = high - low <= ROUNDING * jnp.maximum(jnp.abs(low), jnp.abs(high))
    return Scaler(mean + centre[0], jnp.where(constant, 0.0, std), low, high)


def _fit(entry: jax.Array, x: Array) -> jax.Array:
    """[D] as the rank of x, [..., D]."""
    return entry.reshape((1,) * (jnp.ndim(x) - 1) + entry.shape)
