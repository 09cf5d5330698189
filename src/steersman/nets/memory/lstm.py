"""The long short-term memory."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.nets.layers.linear import orthogonal
from steersman.nets.memory.cells import Memory, carries, slow_gates
from steersman.nets.memory.remembering import restarted
from steersman.types import Key

Carry = tuple[jax.Array, jax.Array]  # (h, c), [size] each


class LSTM(Memory):
    """A long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

        i, f, o = sigmoid(W x + U h + b),  g = tanh(W_g x + U_g h + b_g),  c <- f c + i g,  h <- o tanh(c)

    f keeps: its bias starts slow (``cells.slow_gates``) and that of i at its negative, so what is kept long is written
    little at a time; without ``slow`` they start at 1 and 0. Orthogonal W and U.
    """

    kernel: jax.Array  # W [4 size, F], for i, f, g, o
    recurrent: jax.Array  # U [4 size, size]
    bias: jax.Array  # [4 size]
    out_size: int = eqx.field(static=True)

    def __init__(self, in_size: int, size: int, *, context: int = 64, slow: bool = True, key: Key):
        keys = jax.random.split(key, 9)
        self.out_size = size
        self.kernel = jnp.concatenate([orthogonal(1.0, (size, in_size), k) for k in keys[:4]])
        self.recurrent = jnp.concatenate([orthogonal(1.0, (size, size), k) for k in keys[4:8]])
        keep = slow_gates(keys[8], size, context) if slow else jnp.ones((size,))
        write = -keep if slow else jnp.zeros((size,))
        self.bias = jnp.concatenate([write, keep, jnp.zeros((2 * size,))])

    def begin(self) -> Carry:
        return jnp.zeros((self.out_size,)), jnp.zeros((self.out_size,))

    def step(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        carry = self._next(carry, self._read(x))
        return carry, carry[0]

    def sequence(self, carry: Carry, xs: jax.Array, first: jax.Array) -> tuple[Carry, jax.Array]:
        def row(carry: Carry, given: tuple[jax.Array, jax.Array]) -> Carry:
            return self._next(restarted(carry, given[1], self.begin()), given[0])

        after = carries(row, carry, (jax.vmap(self._read)(xs), first))
        return after, after[0]

    def _read(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel.T + self.bias

    def _next(self, carry: Carry, read: jax.Array) -> Carry:
        h, c = carry
        i, f, g, o = jnp.split(read + self.recurrent @ h, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c
