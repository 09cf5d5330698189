"""Supervised fine-tuning: the likelihood of what others wrote, of answers alone where there are prompts.

    loss = - sum_t w_t log pi(y_t | y_<t) / sum_t w_t

Every token that is learned counts alike, whatever the length of its text. No texts are packed together: one is a row,
and rows of about a length make a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from steersman.agents.language.common import LanguageConfig, Method, Texts, Trainer, joined, trainer
from steersman.language.decoder import Decoder, token_log_probs
from steersman.shards import cross_sum
from steersman.types import Metrics, PyTree


@dataclass(frozen=True)
class SFTConfig(LanguageConfig):
    """Settings of supervised fine-tuning."""


def weigh(texts: Texts) -> tuple[Texts, jax.Array]:
    """-> (texts whose weights sum to 1, what they summed to): a text's first token has none before it, and none."""
    weight = jnp.where(texts.mask, texts.weight, 0.0).at[:, 0].set(0.0)
    total = cross_sum(weight.sum())
    return texts._replace(weight=weight / jnp.maximum(total, 1e-9)), total


def sft(config: SFTConfig, updates: int) -> Trainer:
    """The trainer; ``updates`` are those of the whole run, over which the step size falls."""

    def loss(params: PyTree, decoder: Decoder, texts: Texts) -> tuple[jax.Array, Metrics]:
        found = token_log_probs(joined(config, decoder, params), texts.tokens, texts.mask, chunk=config.chunk)
        total = -jnp.sum(found * texts.weight[:, 1:])
        return total, {"loss": total}

    return trainer(config, updates, weigh=weigh, loss=loss)


METHOD = Method("sft", SFTConfig, sft, "supervised fine-tuning, of texts or of answers in chats", "texts")
