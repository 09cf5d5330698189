"""The decoder: tokens -> hidden vectors -> logits -> the log-probabilities of the tokens that came.

Axes: ``B`` rows, ``T`` tokens, ``S`` slots of a cache, ``H`` heads, ``K`` of keys and values, ``G`` = H / K, ``E`` size
of a head, ``D`` width, ``V`` vocabulary, ``L`` layers. Prompts are padded on the left and answers on the right: every
row of a batch writes the same slot. Only the mask says what is a token, whatever id stands where it is False.

Norms, the softmax of attention and logits are float32, whatever the weights are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from steersman.errors import UsageError
from steersman.language.config import DecoderConfig
from steersman.types import Array, Key

NOWHERE = -1e30  # a score that attention gives 0; finite, so that the row of a pad, which sees nothing, is no NaN


class Norm(eqx.Module):
    """RMSNorm, or with a bias LayerNorm, over the last axis; in float32."""

    weight: jax.Array
    bias: jax.Array | None
    epsilon: float = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        if self.bias is not None:
            wide = wide - wide.mean(-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        return _plus(wide.astype(x.dtype) * _last(self.weight, x), self.bias)


class Dense(eqx.Module):
    """``[..., in] -> [..., out]``: W x + b."""

    weight: jax.Array  # [out, in]
    bias: jax.Array | None

    def __call__(self, x: jax.Array) -> jax.Array:
        return _plus(times(self.weight, x), self.bias)


def times(weight: jax.Array, x: jax.Array, dtype: Any = None) -> jax.Array:
    """W x of vectors x [..., in], W [out, in] -> [..., out], of this dtype where one is given.

    The weight comes first and the barrier keeps it there: XLA on CPUs copies the second matrix of a product before it
    multiplies, which of a large weight and few rows costs 0.4 of the time.
    """
    rows = x.reshape(-1, x.shape[-1]).T
    y = jax.lax.optimization_barrier(jnp.matmul(weight, rows, preferred_element_type=dtype))
    return y.T.reshape(*x.shape[:-1], len(weight))


def _last(vector: jax.Array, x: jax.Array) -> jax.Array:
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _plus(x: jax.Array, bias: jax.Array | None) -> jax.Array:
    return x if bias is None else x + _last(bias, x)


class Block(eqx.Module):
    """One layer: x + o(attention(norm x)), then x + mlp(norm x). What ``adapters`` exchange are the fields Dense."""

    attention_norm: Norm
    q: Dense
    k: Dense
    v: Dense
    o: Dense
    q_norm: Norm | None
    k_norm: Norm | None
    mlp_norm: Norm
    gate: Dense | None
    up: Dense
    down: Dense


class Cache(NamedTuple):
    """Keys and values of the tokens before, [B, K, S, E] of one layer."""

    keys: jax.Array
    values: jax.Array


Caches = Any  # one Cache for each layer, or of stacked layers one with leaves [L, ...]


class Decoder(eqx.Module):
    """A decoder-only transformer. ``blocks``: L of them, or one with leaves [L, ...] (``stacked``)."""

    embedding: jax.Array  # [V, D]
    position_embedding: jax.Array | None  # [context, D]
    blocks: tuple[Block, ...] | Block
    norm: Norm
    head: jax.Array | None  # [V, D]; None where it is the embedding
    config: DecoderConfig = eqx.field(static=True)
    remat: bool = eqx.field(static=True, default=False)  # layers are computed again in the backward pass: less memory


def initial(config: DecoderConfig, key: Key, scale: float = 0.02) -> Decoder:
    """A decoder with random weights, as GPT-2's: N(0, 0.02^2), of what is added to the stream by sqrt(2 L) less."""
    keys = iter(jax.random.split(key, 3 + 7 * config.layers))
    c, layered = config, config.norm == "layer"
    normal = lambda *shape, scale=scale: scale * jax.random.normal(next(keys), shape, jnp.float32)
    norm = lambda size, bias=False: Norm(jnp.ones((size,)), jnp.zeros((size,)) if bias else None, c.epsilon)
    thin = scale / np.sqrt(2 * c.layers).item()

    def dense(into: int, out: int, bias: bool, scale: float = scale) -> Dense:
        return Dense(normal(into, out, scale=scale).T, jnp.zeros((out,)) if bias else None)

    def block() -> Block:
        return Block(
            attention_norm=norm(c.width, layered),
            q=dense(c.width, c.heads * c.head_size, c.qkv_bias),
            k=dense(c.width, c.kv_heads * c.head_size, c.qkv_bias),
            v=dense(c.width, c.kv_heads * c.head_size, c.qkv_bias),
            o=dense(c.heads * c.head_size, c.width, c.bias, thin),
            q_norm=norm(c.head_size) if c.qk_norm else None,
            k_norm=norm(c.head_size) if c.qk_norm else None,
            mlp_norm=norm(c.width, layered),
            gate=dense(c.width, c.hidden_size, c.bias) if c.mlp == "swiglu" else None,
            up=dense(c.width, c.hidden_size, c.bias),
            down=dense(c.hidden_size, c.width, c.bias, thin),
        )

    return Decoder(
        embedding=normal(c.vocab_size, c.width),
        position_embedding=normal(c.context, c.width) if c.positions == "learned" else None,
        blocks=tuple(block() for _ in range(c.layers)),
        norm=norm(c.width, layered),
        head=None if c.tied else normal(c.vocab_size, c.width),
        config=config,
    )


def stacked(decoder: Decoder) -> Decoder:
    """The same with its layers in one, leaves [L, ...], gone through by a scan: compiles faster, runs slower.

    On CPUs a Python loop decodes at 1.6 times the speed; a scan is for models of very many layers.
    """
    if isinstance(decoder.blocks, Block):
        return decoder
    return eqx.tree_at(lambda d: d.blocks, decoder, jax.tree.map(lambda *x: jnp.stack(x), *decoder.blocks))


def unstacked(decoder: Decoder) -> Decoder:
    """The inverse of ``stacked``."""
    if not isinstance(decoder.blocks, Block):
        return decoder
    blocks = tuple(jax.tree.map(lambda x: x[i], decoder.blocks) for i in range(decoder.config.layers))  # noqa: B023
    return eqx.tree_at(lambda d: d.blocks, decoder, blocks)


def positions_of(mask: Array) -> jax.Array:
    """The position of each token in its own text: bool [B, T] -> int32 [B, T]; of pads 0 or that of the last token."""
    return jnp.maximum(jnp.cumsum(jnp.asarray(mask), -1, dtype=jnp.int32) - 1, 0)


def causal(mask: Array) -> jax.Array:
    """What each token sees, itself and the tokens before: bool [B, T] -> [B, T, T]."""
    length = jnp.asarray(mask).shape[-1]
    return jnp.tril(jnp.ones((length, length), bool))[None] & jnp.asarray(mask)[:, None, :]


def hidden(decoder: Decoder, tokens: Array, mask: Array) -> jax.Array:
    """The last hidden vectors of whole texts: int32 [B, T], bool [B, T] -> [B, T, D]."""
    return through(decoder, jnp.asarray(tokens), positions_of(mask), causal(mask))[0]


def through(
    decoder: Decoder,
    tokens: jax.Array,
    positions: jax.Array,
    visible: jax.Array,
    caches: Caches = None,
    at: Any = 0,
) -> tuple[jax.Array, Caches]:
    """-> (hidden vectors [B, T, D], caches): the new keys and values go to the slots from ``at`` on.

    tokens, positions int32 [B, T]; visible bool [B, T, S], S = T without caches.
    """
    config = decoder.config
    x = jnp.take(decoder.embedding, tokens, axis=0)
    if decoder.position_embedding is not None:
        x = x + jnp.take(decoder.position_embedding, positions, axis=0, mode="clip")
    run = partial(_block, config)
    if decoder.remat:
        run = jax.checkpoint(run)
    rest = (_rotation(config, positions), jnp.where(visible, 0.0, NOWHERE).astype(jnp.float32), at)
    if isinstance(decoder.blocks, Block):
        x, caches = jax.lax.scan(lambda x, one: run(one[0], x, one[1], *rest), x, (decoder.blocks, caches))
    else:
        after = []
        for block, cache in zip(decoder.blocks, caches or (None,) * config.layers, strict=True):
            x, cache = run(block, x, cache, *rest)
            after.append(cache)
        caches = tuple(after)
    return decoder.norm(x), caches


def _rotation(config: DecoderConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array] | None:
    """cos and sin of the angles, [B, 1, T, E / 2]."""
    if config.positions != "rotary":
        return None
    half = config.head_size // 2
    frequency = np.float32(1.0) / np.float32(config.rotary_base) ** (
        np.arange(half, dtype=np.float32) / np.float32(half)
    )
    angle = positions[:, None, :, None].astype(jnp.float32) * frequency.reshape(1, 1, 1, half)
    return jnp.cos(angle), jnp.sin(angle)


def _rotated(x: jax.Array, rotation: tuple[jax.Array, jax.Array] | None) -> jax.Array:
    """Pairs (x_i, x_{i + E/2}) of x [B, heads, T, E], turned by their position."""
    if rotation is None:
        return x
    cos, sin = (r.astype(x.dtype) for r in rotation)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def _block(
    config: DecoderConfig, block: Block, x: jax.Array, cache: Cache | None, rotation: Any, bias: jax.Array, at: Any
) -> tuple[jax.Array, Cache | None]:
    """One layer. bias float32 [B, T, S] is added to the scores."""
    batch, length, _ = x.shape
    size, group = config.head_size, config.heads // config.kv_heads
    heads = lambda y, n: jnp.swapaxes(y.reshape(batch, length, n, size), 1, 2)  # [B, n, T, E]
    h = block.attention_norm(x)
    q, k, v = heads(block.q(h), config.heads), heads(block.k(h), config.kv_heads), heads(block.v(h), config.kv_heads)
    if block.q_norm is not None and block.k_norm is not None:
        q, k = block.q_norm(q), block.k_norm(k)
    q, k = _rotated(q, rotation), _rotated(k, rotation)
    if cache is not None:
        k, v = (
            jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, 0, at, 0))
            for old, new in zip(cache, (k, v), strict=True)
        )
        cache = Cache(k, v)
    q = q.reshape(batch, config.kv_heads, group * length, size)  # the G queries of a key side by side
    scores = jnp.einsum("bkqe,bkse->bkqs", q, k, preferred_element_type=jnp.float32) * np.float32(size**-0.5)
    scores = scores.reshape(batch, config.kv_heads, group, length, -1) + bias[:, None, None]
    weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype).reshape(batch, config.kv_heads, group * length, -1)
    y = jnp.einsum("bkqs,bkse->bkqe", weights, v).reshape(batch, config.heads, length, size)
    x = x + block.o(jnp.swapaxes(y, 1, 2).reshape(batch, length, config.heads * size))
    h = block.mlp_norm(x)
    inner = jax.nn.gelu(block.up(h)) if block.gate is None else jax.nn.silu(block.gate(h)) * block.up(h)
    return x + block.down(inner), cache


def logits(decoder: Decoder, h: jax.Array) -> jax.Array:
    """Of hidden vectors [..., D], float32 [..., V]."""
    return times(head_of(decoder), h, jnp.float32)


def head_of(decoder: Decoder) -> jax.Array:
    """[V, D]: its own, or the embedding."""
    return decoder.embedding if decoder.head is None else decoder.head


def token_log_probs(
    decoder: Decoder, tokens: Array, mask: Array, start: int = 1, *, temperature: Any = 1.0, chunk: int = 0
) -> jax.Array:
    """log pi(token_t | those before) for t >= start, float32 [B, T - start]; 0 where the mask is False, and of a text's
    first token, which has none before it.

    tokens int32 [B, T], mask bool [B, T]. Logits are made only for these, ``chunk`` of the B (T - start) at a time
    where that is not 0: chunk x V numbers are held instead of all, and they are made again in the backward pass.
    temperature: the one that was sampled with. Raises UsageError for start < 1, which has nothing before it.
    """
    tokens, mask = jnp.asarray(tokens), jnp.asarray(mask)
    if start < 1:
        raise UsageError(f"token_log_probs: start is {start}; the first token has none before it. Give 1 or more.")
    h, targets = hidden(decoder, tokens, mask)[:, start - 1 : -1], tokens[:, start:]
    return log_probs(decoder, h, targets, mask[:, start:] & mask[:, start - 1 : -1], temperature, chunk)


def log_probs(
    decoder: Decoder, hidden: jax.Array, tokens: Array, mask: Array, temperature: Any = 1.0, chunk: int = 0
) -> jax.Array:
    """log pi(token | hidden), of the vectors before them [B, C, D] and tokens int32 [B, C] -> float32 [B, C]; 0 where
    the mask is False. chunk: as of ``token_log_probs``."""
    shape, h, targets = jnp.shape(tokens), hidden.reshape(-1, hidden.shape[-1]), jnp.asarray(tokens).reshape(-1)
    return jnp.where(mask, _log_probs(decoder, h, targets, temperature, chunk).reshape(shape), 0.0)


def _log_probs(decoder: Decoder, h: jax.Array, targets: jax.Array, temperature: Any, chunk: int) -> jax.Array:
    """Of hidden vectors [N, D] and tokens int32 [N] -> float32 [N]."""

    head = head_of(decoder)
    dot = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def some(h: jax.Array, targets: jax.Array) -> jax.Array:
        # A target's logit by itself: to take it from all of them costs their gradient another pass.
        of_target = dot("nd,nd->n", h, jnp.take(head, targets, axis=0))
        return of_target / temperature - jax.nn.logsumexp(dot("nd,vd->nv", h, head) / temperature, axis=-1)

    count = len(targets)
    if not chunk or chunk >= count:
        return some(h, targets)
    chunks = -(-count // chunk)
    fill = chunks * chunk - count
    parts = (
        jnp.pad(h, ((0, fill), (0, 0))).reshape(chunks, chunk, -1),
        jnp.pad(targets, (0, fill)).reshape(chunks, chunk),
    )
    return jax.lax.map(lambda part: jax.checkpoint(some)(*part), parts).reshape(-1)[:count]


def blocks_of(decoder: Decoder) -> Sequence[Block]:
    """The layers one by one, however they are held."""
    blocks = unstacked(decoder).blocks
    assert isinstance(blocks, tuple)
    return blocks
