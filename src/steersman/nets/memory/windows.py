"""Memories of the last so many steps: a window on them, and temporal convolutions over them."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.nets.memory.cells import Memory
from steersman.types import Key


class Window(Memory):
    """The last ``context`` inputs, joined, the newest last: frames stacked inside the agent.

    Before an episode there are zeros; nothing of the last one is left. carry: [context - 1, F].
    """

    in_size: int = eqx.field(static=True)
    context: int = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(self, in_size: int, *, context: int = 4):
        if context < 1:
            raise UsageError(f"memory_context = {context}; a window holds 1 step or more.")
        self.in_size, self.context, self.out_size = in_size, context, in_size * context

    def begin(self) -> jax.Array:
        return jnp.zeros((self.context - 1, self.in_size))

    def step(self, carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = jnp.concatenate([carry, x[None]])
        return seen[1:], seen.reshape(-1)

    def sequence(self, carry: jax.Array, xs: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = latest(carry, xs, first, self.context)
        return seen[:, 1:], seen.reshape(len(xs), -1)


class TCN(Memory):
    """A temporal convolutional network (Bai et al. 2018, arXiv:1803.01271): causal, of kernel 2, dilations 1, 2, 4, ...

        h_0 = x,   h_{l+1, t} = h_{l, t} + tanh(A_l h_{l, t} + B_l h_{l, t - 2^l} + b_l)

    As many layers as see ``context`` steps, the next power of two. carry: of each layer its last 2^l inputs.
    """

    now: tuple[Linear, ...]  # A
    past: tuple[Linear, ...]  # B
    out_size: int = eqx.field(static=True)

    def __init__(self, size: int, *, context: int = 32, key: Key):
        if context < 2:
            raise UsageError(f"memory_context = {context}; temporal convolutions see 2 steps or more.")
        layers = math.ceil(math.log2(context))
        keys = jax.random.split(key, 2 * layers)
        make = lambda k: orthogonal_linear(size, size, k, gain=1.0)
        self.out_size, self.now, self.past = size, tuple(map(make, keys[:layers])), tuple(map(make, keys[layers:]))

    def begin(self) -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros((2**layer, self.out_size)) for layer in range(len(self.now)))

    def step(self, carry: tuple[jax.Array, ...], x: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
        after = []
        for now, past, kept in zip(self.now, self.past, carry, strict=True):
            after.append(jnp.concatenate([kept[1:], x[None]]))
            x = x + jnp.tanh(now(x) + past(kept[0]))
        return tuple(after), x

    def sequence(self, carry: tuple[jax.Array, ...], xs: jax.Array, first: jax.Array):
        after = []
        for now, past, kept in zip(self.now, self.past, carry, strict=True):
            seen = latest(kept, xs, first, len(kept) + 1)
            after.append(seen[:, 1:])
            xs = xs + jnp.tanh(jax.vmap(now)(xs) + jax.vmap(past)(seen[:, 0]))
        return tuple(after), xs


def latest(before: jax.Array, xs: jax.Array, first: jax.Array, length: int) -> jax.Array:
    """The last ``length`` rows at each row of xs [T, F], as [T, length, F], the newest last; zeros before the episode.

    before: [length - 1, F], the rows before; first [T]: a row opens an episode.
    """
    rows = jnp.concatenate([before, xs])
    episode = jnp.cumsum(first.astype(jnp.int32))  # 0: that of the rows before
    episodes = jnp.concatenate([jnp.zeros((length - 1,), jnp.int32), episode])
    at = jnp.arange(len(xs), dtype=jnp.int32)[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
    return jnp.where((episodes[at] == episode[:, None])[..., None], rows[at], 0.0)
