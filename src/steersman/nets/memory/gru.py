"""The gated recurrent unit."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.nets.layers.linear import orthogonal
from steersman.nets.memory.cells import Memory, carries, slow_gates
from steersman.types import Key


class GRU(Memory):
    """A gated recurrent unit (Cho et al. 2014), its reset gate inside the product as cuDNN has it.

        r = sigmoid(W_r x + U_r h + b_r),  z = sigmoid(W_z x + U_z h + b_z),
        n = tanh(W_n x + b_n + r (U_n h + c_n)),  h <- z h + (1 - z) n

    z keeps: its bias starts slow (``cells.slow_gates``), or at 0 without ``slow``. Orthogonal W and U. carry: h [size].
    """

    kernel: jax.Array  # W [3 size, F], for r, z, n
    recurrent: jax.Array  # U [3 size, size]
    bias: jax.Array  # [3 size]
    inner_bias: jax.Array  # c_n [size]
    out_size: int = eqx.field(static=True)

    def __init__(self, in_size: int, size: int, *, context: int = 64, slow: bool = True, key: Key):
        keys = jax.random.split(key, 7)
        self.out_size = size
        self.kernel = jnp.concatenate([orthogonal(1.0, (size, in_size), k) for k in keys[:3]])
        self.recurrent = jnp.concatenate([orthogonal(1.0, (size, size), k) for k in keys[3:6]])
        keep = slow_gates(keys[6], size, context) if slow else jnp.zeros((size,))
        self.bias = jnp.concatenate([jnp.zeros((size,)), keep, jnp.zeros((size,))])
        self.inner_bias = jnp.zeros((size,))

    def begin(self) -> jax.Array:
        return jnp.zeros((self.out_size,))

    def step(self, carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = self._next(carry, self._read(x))
        return h, h

    def sequence(self, carry: jax.Array, xs: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
        def row(h: jax.Array, given: tuple[jax.Array, jax.Array]) -> jax.Array:
            return self._next(jnp.where(given[1], 0.0, h), given[0])

        hs = carries(row, carry, (jax.vmap(self._read)(xs), first))  # one product, outside the scan
        return hs, hs

    def _read(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel.T + self.bias

    def _next(self, h: jax.Array, read: jax.Array) -> jax.Array:
        r_x, z_x, n_x = jnp.split(read, 3)
        r_h, z_h, n_h = jnp.split(self.recurrent @ h, 3)
        z = jax.nn.sigmoid(z_x + z_h)
        n = jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * (n_h + self.inner_bias))
        return z * h + (1.0 - z) * n
