"""What of a decoder is trained: all of it, its last layers, or adapters of low rank beside it.

The base is an argument of the compiled update and never changes; what is trained is a tree of its own. So many learners
share one base, a checkpoint holds what was trained alone, and the base itself is the reference of a KL term.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from steersman.errors import UsageError, nearest
from steersman.language.decoder import Block, Decoder, Dense
from steersman.types import Key, PyTree

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


class Adaptation(NamedTuple):
    """Which part of a decoder is trained, as pure functions.

    init(decoder, key) -> params             a tree of arrays; joined at once, the model computes what the base does
    join(decoder, params) -> decoder         the model that the parameters make of the base
    merge(decoder, params) -> decoder        the same as a plain decoder, to be saved
    """

    init: Callable[[Decoder, Key], PyTree]
    join: Callable[[Decoder, PyTree], Decoder]
    merge: Callable[[Decoder, PyTree], Decoder]


def full() -> Adaptation:
    """Every weight. A tied head stays the embedding: one array."""
    exchanged = lambda decoder, params: params
    copied = lambda decoder, key: jax.tree.map(lambda x: jnp.array(x, copy=True), decoder)
    return Adaptation(copied, exchanged, exchanged)


def last_layers(count: int) -> Adaptation:
    """The last layers and the norm after them; embedding and head stand still. Layers are to be held one by one.

    Raises UsageError where the decoder has not so many, when it is applied.
    """

    def init(decoder: Decoder, key: Key) -> PyTree:
        if not isinstance(decoder.blocks, tuple) or not 0 < count <= len(decoder.blocks):
            raise UsageError(f"The last {count} layers were asked for, of {decoder.config.layers}, held one by one.")
        return jax.tree.map(lambda x: jnp.array(x, copy=True), (decoder.blocks[-count:], decoder.norm))

    def join(decoder: Decoder, params: PyTree) -> Decoder:
        assert isinstance(decoder.blocks, tuple)
        blocks, norm = params
        return eqx.tree_at(lambda d: (d.blocks, d.norm), decoder, (decoder.blocks[:-count] + blocks, norm))

    return Adaptation(init, join, join)


class LowRank(eqx.Module):
    """The two factors of one matrix's change, [r, in] and [r, out]."""

    a: jax.Array
    b: jax.Array


class Adapted(eqx.Module):
    """A matrix with its change beside it: y + scale sum_r b_r (a_r . x)."""

    base: Dense
    change: LowRank
    scale: float = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1])
        change = _spread(_projected(rows, self.change.a), self.change.b) * np.float32(self.scale).astype(x.dtype)
        return self.base(x) + change.reshape(*x.shape[:-1], -1)


FEW = 16  # up to this rank a sum of outer products, which becomes one with what it is added to, beats a product


@jax.custom_vjp
def _projected(x: jax.Array, a: jax.Array) -> jax.Array:
    """a_r . x: [N, in], [r, in] -> [N, r]. Its gradients and those of ``_spread`` are written out, for autodiff's forms
    of the products are several times slower."""
    return jnp.einsum("ni,ri->nr", x, a)


@jax.custom_vjp
def _spread(z: jax.Array, b: jax.Array) -> jax.Array:
    """sum_r z_r b_r: [N, r], [r, out] -> [N, out]."""
    return _outer(z, b)


def _outer(z: jax.Array, b: jax.Array) -> jax.Array:
    if len(b) > FEW:
        return z @ b
    return sum((z[:, r : r + 1] * b[r : r + 1] for r in range(1, len(b))), z[:, :1] * b[:1])


def _projected_back(seen: tuple[jax.Array, jax.Array], dz: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, a = seen
    return _outer(dz, a).astype(x.dtype), (dz.T @ x).astype(a.dtype)


def _spread_back(seen: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    z, b = seen
    return jnp.einsum("no,ro->nr", dy, b).astype(z.dtype), (z.T @ dy).astype(b.dtype)


_projected.defvjp(lambda x, a: (_projected(x, a), (x, a)), _projected_back)
_spread.defvjp(lambda z, b: (_spread(z, b), (z, b)), _spread_back)


def low_rank(rank: int = 8, alpha: float | None = None, matrices: Sequence[str] = MATRICES) -> Adaptation:
    """LoRA: of each of these matrices of every layer W + (alpha / rank) sum_r b_r a_r^T, only a and b are trained.

    a is N(0, 1 / in), b zero: the adapted model begins as the base, to the bit. alpha: 2 rank. float32 whatever the
    base's weights are. Raises UsageError for a rank below 1, and for names of which the decoder has no matrix. Hu et
    al. (2021), arXiv:2106.09685.
    """
    if rank < 1:
        raise UsageError(f"Adapters of rank {rank}: the rank is 1 or more.")
    if unknown := [name for name in matrices if name not in MATRICES] or ([] if matrices else ["none"]):
        near = nearest(unknown[0], MATRICES)
        raise UsageError(f"Adapters of {unknown[0]!r}: a layer's matrices are {', '.join(MATRICES)}. {near}".rstrip())
    scale = (2.0 * rank if alpha is None else alpha) / rank

    def has(decoder: Decoder) -> list[str]:
        names = [name for name in matrices if name != "gate" or decoder.config.mlp == "swiglu"]
        if not names:
            raise UsageError("Adapters of the gate alone, and this decoder's perceptrons have none.")
        return names

    def init(decoder: Decoder, key: Key) -> PyTree:
        def of(block: Block, key: Key, layers: tuple[int, ...] = ()) -> dict[str, LowRank]:
            names = has(decoder)
            made = {}
            for name, one in zip(names, jax.random.split(key, len(names)), strict=True):
                out, into = getattr(block, name).weight.shape[-2:]
                a = jax.random.normal(one, (*layers, into, rank), jnp.float32) / np.float32(np.sqrt(into))
                made[name] = LowRank(a.mT, jnp.zeros((*layers, rank, out), jnp.float32))
            return made

        if isinstance(decoder.blocks, Block):
            return of(decoder.blocks, key, (decoder.config.layers,))
        keys = jax.random.split(key, decoder.config.layers)
        return tuple(of(block, one) for block, one in zip(decoder.blocks, keys, strict=True))

    def exchanged(decoder: Decoder, params: PyTree, change: Callable[[Dense, LowRank], eqx.Module]) -> Decoder:
        def of(block: Block, pairs: dict[str, LowRank]) -> Block:
            names = sorted(pairs)
            where = lambda b: [getattr(b, name) for name in names]
            return eqx.tree_at(where, block, [change(getattr(block, name), pairs[name]) for name in names])

        blocks = decoder.blocks
        changed = of(blocks, params) if isinstance(blocks, Block) else tuple(map(of, blocks, params))
        return eqx.tree_at(lambda d: d.blocks, decoder, changed)

    def merged(base: Dense, pair: LowRank) -> Dense:
        weight = base.weight + (jnp.matmul(pair.b.mT, pair.a) * np.float32(scale)).astype(base.weight.dtype)
        return Dense(weight, base.bias)

    return Adaptation(
        init,
        lambda decoder, params: exchanged(decoder, params, lambda base, pair: Adapted(base, pair, scale)),
        lambda decoder, params: exchanged(decoder, params, merged),
    )


def parameters(tree: PyTree) -> int:
    """How many numbers a tree holds."""
    return sum(x.size for x in jax.tree.leaves(tree))
