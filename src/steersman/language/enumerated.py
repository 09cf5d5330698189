"""All answers of a tiny language, one by one: exact expectations, to check what is estimated from samples.

Axes: ``N`` answers, ``C`` the most tokens of one.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from steersman.language.completions import Completions
from steersman.language.config import DecoderConfig
from steersman.language.decoder import Decoder, initial, stacked, token_log_probs, unstacked
from steersman.theory.alignment.preferences import gibbs, value_near
from steersman.types import Array, Key


class Answers(NamedTuple):
    """Every answer there is."""

    tokens: np.ndarray  # int32 [N, C]
    mask: np.ndarray  # bool [N, C], the token that ends it included
    ended: np.ndarray  # bool [N]; False: it has C tokens and is cut off there

    def to(self, prompt: Array, log_prob: Array) -> Completions:
        """These to one prompt int32 [P], of log-probabilities [N, C]."""
        before = jnp.broadcast_to(jnp.asarray(prompt)[None], (len(self.tokens), len(prompt)))
        tokens, mask, ended = map(jnp.asarray, self)
        return Completions(before, jnp.ones_like(before, bool), tokens, mask, log_prob, ended)


def answers(vocabulary: int, longest: int, end: int = 0) -> Answers:
    """All answers of up to ``longest`` tokens out of so many, of which ``end`` ends them.

    >>> answers(2, 2).tokens.tolist(), answers(2, 2).mask.sum(1).tolist()
    ([[0, 0], [1, 0], [1, 1]], [1, 2, 2])
    """
    others = [token for token in range(vocabulary) if token != end]
    said = [s for n in range(longest + 1) for s in itertools.product(others, repeat=n)]
    tokens = np.array([[*s, *[end] * (longest - len(s))] for s in said], np.int32)
    ended = np.array([len(s) < longest for s in said])
    length = np.array([len(s) for s in said]) + ended
    return Answers(tokens, np.arange(longest) < length[:, None], ended)


def log_probs(decoder: Decoder, prompt: Array, among: Answers, temperature: float = 1.0) -> jax.Array:
    """Of every answer's tokens to one prompt int32 [P]: float32 [N, C]; the sums' exponentials add up to 1."""
    text, mask = among.to(prompt, jnp.zeros(among.tokens.shape)).text
    return token_log_probs(decoder, text, mask, len(prompt), temperature=temperature)


class Standing(NamedTuple):
    """Where a policy stands between its reference and the optimum of J = E[r] - beta KL(pi || ref)."""

    reward: jax.Array  # E[r]
    kl: jax.Array  # KL(pi || ref)
    value: jax.Array  # J
    gain: jax.Array  # (J - J of ref) / (J of the optimum - J of ref)
    variation: jax.Array  # total variation to the optimum, ``preferences.gibbs``


def standing(log_prob: Array, log_ref: Array, reward: Array, beta: float) -> Standing:
    """Of log-probabilities of all answers [..., N] to one or several prompts, the mean over which is taken."""
    p, best = jnp.exp(log_prob), gibbs(log_ref, reward, beta)
    value = lambda of: value_near(of, log_ref, reward, beta).mean()
    low = value(log_ref)
    return Standing(
        reward=(p * reward).sum(-1).mean(),
        kl=(p * (jnp.asarray(log_prob) - log_ref)).sum(-1).mean(),
        value=value(log_prob),
        gain=(value(log_prob) - low) / (value(best) - low),
        variation=variation(log_prob, best),
    )


def variation(log_p: Array, log_q: Array) -> jax.Array:
    """Total variation, sum |p - q| / 2 over [..., N], the mean over prompts."""
    return 0.5 * jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)).sum(-1).mean()


# A probe: small enough that the optimum is known, large enough that it is not found by chance.

END = 0  # the token that ends an answer; it is also what stands for padding, on purpose
LONGEST = 4
# After 4 4, texts of fours alone are one state to a decoder with rotary positions: attention averages equal values. Of
# the reference with key 0 the best that can be reached so is 0.9997 of the gain.
PROMPTS = np.array([[1, 2], [3, 1], [4, 4]], np.int32)
PROBE = DecoderConfig(vocab_size=5, width=32, layers=2, heads=4, kv_heads=2, head_size=8, hidden_size=64, context=16)


def probe_reference(key: Key) -> Decoder:
    """19,000 random weights, large enough that the five tokens are far from alike: all matrices N(0, 0.35^2), of what
    is added to the stream half of it. Of the key 0 the optimum for beta = 1/4 is J = 0.9145, E[r] 1.458 at a KL of
    2.174.
    """
    keys = iter(jax.random.split(key, 16))
    decoder = stacked(initial(PROBE, key))
    names = ("q", "k", "v", "o", "up", "down", "gate")
    where = lambda d: [*(getattr(d.blocks, name).weight for name in names), d.embedding]
    *matrices, embedding = where(decoder)
    drawn = [0.35 * jax.random.normal(next(keys), x.mT.shape).mT for x in matrices]
    drawn.append(0.35 * jax.random.normal(next(keys), embedding.shape))
    thin = [
        x / np.sqrt(2 * PROBE.layers).item() if name in ("o", "down") else x
        for name, x in zip(names, drawn, strict=False)
    ]
    return unstacked(eqx.tree_at(where, decoder, [*thin, drawn[-1]]))


def probe_reward(prompt: Array, tokens: Array, mask: Array) -> jax.Array:
    """What answers earn, float32 [B], up to 2: the share of neighbours that rise, 1/2 for an end after one token or
    more, 1/2 for having the prompt's first token in it."""
    said = jnp.asarray(tokens) > 0
    pairs = said[:, 1:] & said[:, :-1]
    rises = jnp.sum((tokens[:, 1:] > tokens[:, :-1]) & pairs, -1) / jnp.maximum(pairs.sum(-1), 1)
    length = said.sum(-1)
    named = (jnp.asarray(tokens) == jnp.asarray(prompt)[:, :1]).any(-1)
    half = lambda x: 0.5 * x.astype(jnp.float32)
    return jnp.where(length >= 2, rises, 0.0) + half((length > 0) & (length < LONGEST)) + half(named)


def probe_rewards(among: Answers) -> jax.Array:
    """Of all answers to all prompts, [3, N]."""
    of = lambda prompt: probe_reward(jnp.broadcast_to(prompt, (len(among.tokens), 2)), among.tokens, among.mask)
    return jnp.stack([of(prompt) for prompt in jnp.asarray(PROMPTS)])


def probe_log_probs(decoder: Decoder, among: Answers) -> jax.Array:
    """Of all whole answers to all prompts, [3, N]."""
    return jnp.stack([log_probs(decoder, prompt, among).sum(-1) for prompt in PROMPTS])
