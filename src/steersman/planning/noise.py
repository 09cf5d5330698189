"""Noise that is correlated in time: power-law noise, whose spectral density falls as a power of the frequency."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from steersman.types import Array, Key


def basis(length: int, exponent: float | Array) -> jax.Array:
    """What a row of independent standard normals is multiplied with to be power-law noise: float32 [length, length].

        y_t = sum_k sqrt(2 p_k) (z_k cos(2 pi k t / L) + z'_k sin(2 pi k t / L)),    p_k proportional to f_k^-exponent

    The rows are the waves that L points can hold, from the constant one up; the constant has the power of the slowest
    wave. The powers add up to one, so y_t has variance 1 at every t. Timmer and Koenig (1995).

    >>> bool(jnp.allclose(basis(4, 0.0) @ basis(4, 0.0).T, jnp.eye(4), atol=1e-6))  # 0: white, and so a rotation
    True
    """
    wave = (np.arange(length) + 1) // 2  # 0, 1, 1, 2, 2, ...: a cosine and a sine each
    angle = 2 * np.pi * wave[:, None] * np.arange(length)[None] / length
    rows = np.where(np.arange(length)[:, None] % 2 == 1, np.sqrt(2) * np.cos(angle), np.sqrt(2) * np.sin(angle))
    rows[0] = 1.0
    if length % 2 == 0:
        rows[-1] = np.cos(np.pi * np.arange(length))  # the fastest wave has no sine
    power = np.maximum(wave, 1).astype(np.float32) ** -jnp.asarray(exponent, jnp.float32)
    return jnp.sqrt(power / power.sum())[:, None] * rows.astype(np.float32)


def power_law(key: Key, shape: tuple[int, int, int], exponent: float | Array) -> jax.Array:
    """Noise [N, H, A] of mean 0 and variance 1, correlated along H alone: 0 white, 1 pink, 2 red, more is slower.

    Pinneri et al. (2020), section 3.1.
    """
    n, horizon, size = shape
    white = jax.random.normal(key, (n, size, horizon), jnp.float32)
    return jnp.swapaxes(white @ basis(horizon, exponent), 1, 2)
