"""The linear recurrent unit."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.nets.memory.cells import Memory, linear_scan
from steersman.types import Key


class LRU(Memory):
    """A linear recurrent unit (Orvieto et al. 2023, arXiv:2303.06349): diagonal, complex, read through a gate.

        h <- lambda h + sqrt(1 - |lambda|^2) B x,   lambda = exp(-exp(nu) + i exp(theta))
        y = gelu(C [Re h, Im h]) sigmoid(G x) + D x

    |lambda| < 1 whatever is learned, so it cannot blow up. Poles start slow, |lambda|^2 uniform between the squares of
    ``smallest`` and ``largest``, and turn little, phases up to ``max_phase`` a step. carry: [2, size], real and
    imaginary parts: pairs of floats, which every format can keep.

    Raises UsageError unless 0 <= smallest < largest < 1.
    """

    nu: jax.Array  # [size]
    theta: jax.Array
    scale: jax.Array  # log of the inputs' factor
    enter: Linear  # B, real and imaginary parts
    leave: Linear  # C
    gate: Linear  # G
    skip: Linear  # D
    out_size: int = eqx.field(static=True)
    scan: str = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        size: int,
        *,
        smallest: float = 0.9,
        largest: float = 0.999,
        max_phase: float = math.pi / 5,
        scan: str = "auto",
        key: Key,
    ):
        if not 0.0 <= smallest < largest < 1.0:
            raise UsageError(
                f"An LRU's poles start between {smallest} and {largest}; they must lie in 0 <= smallest < largest < 1: "
                "one of 1 or more never forgets and may blow up."
            )
        keys = jax.random.split(key, 6)
        self.out_size, self.scan = size, scan
        square = jax.random.uniform(keys[0], (size,), jnp.float32, smallest**2, largest**2)
        self.nu = jnp.log(-0.5 * jnp.log(jnp.maximum(square, 1e-12)))
        self.theta = jnp.log(max_phase * jax.random.uniform(keys[1], (size,)) + 1e-4)
        self.scale = 0.5 * jnp.log(1.0 - square)
        self.enter = orthogonal_linear(in_size, 2 * size, keys[2], gain=math.sqrt(0.5))
        self.leave = orthogonal_linear(2 * size, size, keys[3], gain=1.0)
        self.gate = orthogonal_linear(in_size, size, keys[4], gain=1.0)
        self.skip = orthogonal_linear(in_size, size, keys[5], gain=1.0)

    @property
    def poles(self) -> jax.Array:
        """lambda, complex [size]."""
        return jnp.exp(jax.lax.complex(-jnp.exp(self.nu), jnp.exp(self.theta)))

    def begin(self) -> jax.Array:
        return jnp.zeros((2, self.out_size))

    def step(self, carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = self.poles * jax.lax.complex(carry[0], carry[1]) + self._enter(x)
        return jnp.stack([h.real, h.imag]), self._leave(h, x)

    def sequence(self, carry: jax.Array, xs: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
        poles = jnp.where(first[:, None], 0.0, self.poles[None])
        h = linear_scan(poles, jax.vmap(self._enter)(xs), jax.lax.complex(carry[0], carry[1]), self.scan)
        return jnp.stack([h.real, h.imag], axis=1), jax.vmap(self._leave)(h, xs)

    def _enter(self, x: jax.Array) -> jax.Array:
        re, im = jnp.split(self.enter(x), 2, axis=-1)
        scale = jnp.exp(self.scale)
        return jax.lax.complex(scale * re, scale * im)

    def _leave(self, h: jax.Array, x: jax.Array) -> jax.Array:
        y = self.leave(jnp.concatenate([h.real, h.imag], axis=-1))
        return jax.nn.gelu(y) * jax.nn.sigmoid(self.gate(x)) + self.skip(x)
