"""Answers from a decoder: the prompt in one pass, then token by token with a cache, as one program.

Axes: ``B`` rows, ``P`` tokens of a prompt, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.language.completions import Completions
from steersman.language.decoder import NOWHERE, Block, Cache, Caches, Decoder, causal, logits, positions_of, through
from steersman.theory.trees import take
from steersman.types import Array, Key


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. What cuts the distribution is for reading: to learn from samples, draw from all of
    it (``exact``). Raises UsageError for a setting out of its range."""

    temperature: float = 1.0
    """Logits are divided by it; 0: the likeliest token."""
    top_k: int = 0
    """Only the k likeliest; 0: all."""
    top_p: float = 1.0
    """Only the likeliest that together have this probability (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Only those with this share of the likeliest one's probability."""

    def __post_init__(self) -> None:
        for name, right, range_ in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, and 1 for all"),
            ("min_p", 0 <= self.min_p < 1, "0 (all) or more, below 1"),
        ):
            if not right:
                raise UsageError(f"{name} is {getattr(self, name)}; it is to be {range_}.")

    @property
    def exact(self) -> bool:
        """Whether every token can be drawn, with the probability that the model gives it at this temperature."""
        return self.temperature > 0 and not self.top_k and self.top_p == 1 and not self.min_p

    def distribution(self, z: jax.Array) -> jax.Array:
        """Logits float32 [B, V] of the distribution that is drawn from; at temperature 0 those of temperature 1."""
        z = z / (self.temperature or 1.0)
        lowest = jnp.full((len(z), 1), -jnp.inf)
        if self.top_k:
            lowest = jax.lax.top_k(z, min(self.top_k, z.shape[-1]))[0][:, -1:]
        if self.top_p < 1:
            ordered = jnp.where(z < lowest, -jnp.inf, z).sort(-1)[:, ::-1]
            share = jax.nn.softmax(ordered, axis=-1)
            within = jnp.cumsum(share, -1) - share < self.top_p  # the likeliest one always is
            lowest = jnp.maximum(lowest, jnp.where(within, ordered, jnp.inf).min(-1, keepdims=True))
        if self.min_p:
            lowest = jnp.maximum(lowest, z.max(-1, keepdims=True) + jnp.log(jnp.float32(self.min_p)))
        return jnp.where(z < lowest, NOWHERE, z)


DRAWN = Sampling()


def generate(
    decoder: Decoder,
    prompt: Array,
    prompt_mask: Array,
    keys: Key,
    *,
    max_new: int,
    stop: tuple[int, ...],
    sampling: Sampling = DRAWN,
) -> Completions:
    """Answers of up to ``max_new`` tokens, each until one of ``stop``. Stands still when all rows have ended.

    prompt int32 [N, P], padded on the left; keys [B], one for each answer, B / N of them to each prompt, which goes
    through the model once. What an answer says depends on its own prompt and key alone, not on its neighbours or on how
    many devices share the batch. The log-probabilities are those of the distribution that was drawn from, so where
    ``sampling`` is exact they serve as log pi_old.

    Raises UsageError where prompt and answer may outgrow the model's context, or nothing would stop, and for keys that
    are not equally many for each prompt.
    """
    prompt, prompt_mask = jnp.asarray(prompt), jnp.asarray(prompt_mask)
    (prompts, before), batch, context = prompt.shape, len(keys), decoder.config.context
    if batch % prompts or not batch:
        raise UsageError(f"generate: {batch} keys for {prompts} prompts; give each prompt as many, one for an answer.")
    if max_new < 1 or before + max_new > context:
        raise UsageError(
            f"Prompts of {before} tokens and {max_new} new ones are {before + max_new}; the model's context is "
            f"{context}, and 1 new one is the least. Give shorter prompts, or fewer new tokens."
        )
    if not stop:
        raise UsageError("generate: stop names no token, so no answer would end. Give the tokenizer's.")
    slots = jnp.arange(before + max_new)
    h, caches = prefilled(decoder, prompt, prompt_mask, batch // prompts, max_new)
    prompt, prompt_mask = (jnp.repeat(x, batch // prompts, axis=0) for x in (prompt, prompt_mask))
    wide_mask = jnp.pad(prompt_mask, ((0, 0), (0, max_new)))
    length = prompt_mask.sum(-1, dtype=jnp.int32)
    ends = jnp.asarray(stop, jnp.int32)

    def draw(z: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = sampling.distribution(z)
        if sampling.temperature == 0:
            token = jnp.argmax(z, -1)
        else:
            token = jax.vmap(jax.random.categorical)(jax.vmap(jax.random.fold_in, (0, None))(keys, i), z)
        token = token.astype(jnp.int32)
        return token, take(z, token) - jax.nn.logsumexp(z, axis=-1)

    def step(now: _Now) -> _Now:
        i, out = now.i, now.out
        token, log_prob = draw(now.z, i)
        live = ~out.ended
        token = jnp.where(live, token, ends[0])
        put = lambda rows, column: jax.lax.dynamic_update_slice(rows, column[:, None], (0, i))
        out = out._replace(
            tokens=put(out.tokens, token),
            mask=put(out.mask, live),
            log_prob=put(out.log_prob, jnp.where(live, log_prob, 0.0)),
            ended=out.ended | (token[:, None] == ends[None]).any(-1),
        )
        # A row that has ended goes on writing its own slots, which nobody looks at.
        seen = wide_mask | ((slots >= before) & (slots <= before + i))[None]
        h, after = through(decoder, token[:, None], (length + i)[:, None], seen[:, None, :], now.caches, before + i)
        return _Now(i + 1, logits(decoder, h[:, 0]), after, out)

    nothing = Completions(
        prompt=prompt,
        prompt_mask=prompt_mask,
        tokens=jnp.full((batch, max_new), ends[0]),
        mask=jnp.zeros((batch, max_new), bool),
        log_prob=jnp.zeros((batch, max_new)),
        ended=jnp.zeros((batch,), bool),
    )
    start = _Now(jnp.zeros((), jnp.int32), logits(decoder, h), caches, nothing)
    return jax.lax.while_loop(lambda now: (now.i < max_new) & ~now.out.ended.all(), step, start).out


def prefilled(decoder: Decoder, prompt: Array, mask: Array, answers: int, new: int) -> tuple[jax.Array, Caches]:
    """-> (the hidden vector of each prompt's last token [B, D], caches of B rows with room for ``new`` tokens).

    prompt int32 [N, P] and its mask, padded on the left. Each goes through once, whatever its ``answers`` are: the B =
    N answers rows lie prompt by prompt.
    """
    prompt, mask, config = jnp.asarray(prompt), jnp.asarray(mask), decoder.config
    shape = (len(prompt), config.kv_heads, prompt.shape[1], config.head_size)
    whole = isinstance(decoder.blocks, Block)
    zeros = jnp.zeros((config.layers, *shape) if whole else shape, decoder.embedding.dtype)
    empty = Cache(zeros, zeros)
    caches = empty if whole else (empty,) * config.layers
    h, caches = through(decoder, prompt, positions_of(mask), causal(mask), caches)

    def roomy(x: jax.Array) -> jax.Array:
        return jnp.pad(jnp.repeat(x, answers, axis=-4), [(0, 0)] * (x.ndim - 2) + [(0, new), (0, 0)])

    return jnp.repeat(h[:, -1], answers, axis=0), jax.tree.map(roomy, caches)


def before_answers(decoder: Decoder, prompt: Array, prompt_mask: Array, tokens: Array, mask: Array) -> jax.Array:
    """The hidden vectors *before* each token of answers, [B, C, D]: that of the first is the prompt's last one.

    prompt int32 [N, P], padded on the left; tokens int32 [B, C], on the right; B / N answers to each prompt, which goes
    through once. Equal to ``hidden`` of the whole texts but for rounding.
    """
    prompt_mask, tokens, mask = jnp.asarray(prompt_mask), jnp.asarray(tokens), jnp.asarray(mask)
    answers, places = len(tokens) // len(prompt_mask), tokens.shape[1] - 1
    last, caches = prefilled(decoder, prompt, prompt_mask, answers, places)
    there = jnp.repeat(prompt_mask, answers, axis=0)
    seen = jnp.broadcast_to(there[:, None], (len(tokens), places, there.shape[1]))
    visible = jnp.concatenate([seen, causal(mask[:, :-1])], -1)
    positions = there.sum(-1, keepdims=True, dtype=jnp.int32) + positions_of(mask[:, :-1])
    h = through(decoder, tokens[:, :-1], positions, visible, caches, there.shape[1])[0]
    return jnp.concatenate([last[:, None], h], 1)


class _Now(NamedTuple):
    """Where the decoding stands."""

    i: jax.Array
    z: jax.Array  # logits of the next token, [B, V]
    caches: Caches
    out: Completions
