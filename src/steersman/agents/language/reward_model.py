"""A reward model: a number for each answer, so that preferred ones have more, as Bradley and Terry would have it.

    P(chosen > rejected) = sigmoid(r(chosen) - r(rejected)),   r = w h + b,

h the hidden vector of a text's last token. Only differences are in the likelihood: ``centring`` says where zero is.
Christiano et al. (2017); Ouyang et al. (2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.language.common import LanguageConfig, Method, Pairs, Trainer, both, joined, shares, trainer
from steersman.config import Rules
from steersman.language.decoder import Decoder, hidden
from steersman.theory.alignment.preferences import bradley_terry_loss
from steersman.types import Array, Key, Metrics, PyTree


@dataclass(frozen=True)
class RewardModelConfig(LanguageConfig):
    """Settings of a reward model."""

    centring: float = 0.01
    """Weight of (r(chosen) + r(rejected))^2, which keeps rewards around zero (Eisenstein et al. 2023)."""

    rules = Rules(non_negative=("centring",))


class Head(NamedTuple):
    """From a hidden vector to a number; zero at the start."""

    weight: jax.Array  # [D]
    bias: jax.Array  # []


class RewardParams(NamedTuple):
    """What is trained."""

    decoder: PyTree
    head: Head


def last(h: jax.Array, mask: Array) -> jax.Array:
    """The hidden vector of each text's last token: [B, L, D], bool [B, L] -> [B, D]. Padding on either side."""
    mask = jnp.asarray(mask)
    at = mask.shape[-1] - 1 - jnp.argmax(mask[:, ::-1], axis=-1)
    return jnp.take_along_axis(h, at[:, None, None], axis=1)[:, 0]


def rewards(config: RewardModelConfig, decoder: Decoder, params: RewardParams, tokens: Array, mask: Array) -> jax.Array:
    """Of whole texts, prompt and answer with the token that ends it: int32 [B, L], bool [B, L] -> float32 [B]."""
    h = hidden(joined(config, decoder, params.decoder), tokens, mask)
    return last(h, mask).astype(jnp.float32) @ params.head.weight + params.head.bias


def reward_model(config: RewardModelConfig, updates: int) -> Trainer:
    """The trainer; ``updates`` are those of the whole run, over which the step size falls."""

    def init(decoder: Decoder, key: Key) -> RewardParams:
        head = Head(jnp.zeros((decoder.config.width,)), jnp.zeros(()))
        return RewardParams(config.adaptation.init(decoder, key), head)

    def loss(params: RewardParams, decoder: Decoder, rows: tuple[Pairs, jax.Array]) -> tuple[jax.Array, Metrics]:
        pairs, share = rows
        texts = both(pairs)
        chosen, rejected = jnp.split(rewards(config, decoder, params, texts.tokens, texts.mask), 2)
        mean = lambda x: jnp.sum(x.astype(jnp.float32) * share)
        likelihood = mean(bradley_terry_loss(chosen, rejected))
        metrics = {
            "loss": likelihood,
            "accuracy": mean(chosen > rejected),
            "margin": mean(chosen - rejected),
            "reward": 0.5 * mean(chosen + rejected),
        }
        return likelihood + config.centring * mean(jnp.square(chosen + rejected)), metrics

    merged = lambda params, decoder: config.adaptation.merge(decoder, params.decoder)
    return trainer(config, updates, weigh=shares, loss=loss, init=init, model=merged)


METHOD = Method("reward", RewardModelConfig, reward_model, "a reward model, of pairs of answers", "pairs")
