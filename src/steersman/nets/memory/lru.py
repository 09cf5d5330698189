"""The linear recurrent unit."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear, orthogonal
from steersman.nets.memory.cells import Memory, Pair, linear_scan, plus_times
from steersman.types import Key


class LRU(Memory):
    """A linear recurrent unit (Orvieto et al. 2023, arXiv:2303.06349): diagonal, complex, read through a gate.

        h <- lambda h + sqrt(1 - |lambda|^2) B x,   lambda = exp(-exp(nu) + i exp(theta))
        y = gelu(C [Re h, Im h]) sigmoid(G x) + D x

    |lambda| < 1 whatever is learned, so it cannot blow up. Poles start slow, |lambda|^2 uniform between the squares of
    ``smallest`` and ``largest``, and turn little, phases up to ``max_phase`` a step. carry: h, real and
    imaginary parts.

    Raises UsageError unless 0 <= smallest < largest < 1.
    """

    nu: jax.Array  # [size]
    theta: jax.Array
    scale: jax.Array  # log of the inputs' factor
    kernel: jax.Array  # B, real and imaginary parts, G and D [4 size, F]: read in one product
    bias: jax.Array  # [4 size]
    leave: Linear  # C
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
        enter = orthogonal(math.sqrt(0.5), (2 * size, in_size), keys[2])
        self.kernel = jnp.concatenate([enter, *(orthogonal(1.0, (size, in_size), k) for k in keys[4:])])
        self.bias = jnp.zeros((4 * size,))
        self.leave = orthogonal_linear(2 * size, size, keys[3], gain=1.0)

    @property
    def poles(self) -> Pair:
        """lambda, [size]."""
        radius, phase = jnp.exp(-jnp.exp(self.nu)), jnp.exp(self.theta)
        return radius * jnp.cos(phase), radius * jnp.sin(phase)

    def begin(self) -> Pair:
        return jnp.zeros((self.out_size,)), jnp.zeros((self.out_size,))

    def step(self, carry: Pair, x: jax.Array) -> tuple[Pair, jax.Array]:
        inputs, gate, skip = self._read(x)
        h = plus_times(self.poles, carry, inputs)
        return h, self._leave(h, gate, skip)

    def sequence(self, carry: Pair, xs: jax.Array, first: jax.Array) -> tuple[Pair, jax.Array]:
        poles = jax.tree.map(lambda x: jnp.where(first[:, None], 0.0, x[None]), self.poles)
        inputs, gate, skip = jax.vmap(self._read)(xs)
        h = linear_scan(poles, inputs, carry, self.scan)
        return h, jax.vmap(self._leave)(h, gate, skip)

    def _read(self, x: jax.Array) -> tuple[Pair, jax.Array, jax.Array]:
        re, im, gate, skip = jnp.split(x @ self.kernel.T + self.bias, 4)
        scale = jnp.exp(self.scale)
        return (scale * re, scale * im), gate, skip

    def _leave(self, h: Pair, gate: jax.Array, skip: jax.Array) -> jax.Array:
        return jax.nn.gelu(self.leave(jnp.concatenate(h))) * jax.nn.sigmoid(gate) + skip
