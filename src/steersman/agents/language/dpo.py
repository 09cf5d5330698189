"""Direct preference optimisation: a policy learned from pairs of answers, with no reward model and no sampling.

    loss = -log sigmoid(beta h),   h = log pi(y) / ref(y) - log pi(y') / ref(y'),   y preferred over y'

whose minimum, over all answers, is the optimum of E[r] - beta KL(pi || ref) for the reward that the preferences follow
(``theory.alignment.preferences``). The reference is the decoder that the training starts from. Rafailov et al. (2023),
arXiv:2305.18290; IPO: Azar et al. (2023), arXiv:2310.12036.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from steersman.agents.language.common import (
    LanguageConfig,
    Method,
    Pairs,
    Texts,
    Trainer,
    both,
    joined,
    shares,
    trainer,
)
from steersman.config import Rules
from steersman.errors import UsageError
from steersman.language.decoder import Decoder, token_log_probs
from steersman.theory.alignment.preferences import dpo_loss, implicit_reward, ipo_loss
from steersman.types import Metrics, PyTree


@dataclass(frozen=True)
class DPOConfig(LanguageConfig):
    """Settings of direct preference optimisation."""

    learning_rate: float = 2e-5
    """The largest step size."""
    beta: float = 0.1
    """How much a divergence from the start costs, in units of reward; of ipo its tau, which is another thing."""
    loss: str = "dpo"
    """dpo, or ipo, which does not push a certain preference without end."""
    smoothing: float = 0.0
    """Share of the labels that are taken for wrong, below a half; of dpo alone."""

    rules = Rules(positive=("beta",), non_negative=("smoothing",), choices={"loss": ("dpo", "ipo")})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smoothing and (self.loss == "ipo" or self.smoothing >= 0.5):
            raise UsageError(f"smoothing = {self.smoothing}: it is of the loss dpo alone, and below 0.5.")


def answer_log_probs(decoder: Decoder, texts: Texts, chunk: int = 0) -> jax.Array:
    """log pi of each whole answer, summed over the tokens of weight 1, float32 [B]."""
    found = token_log_probs(decoder, texts.tokens, texts.mask, chunk=chunk)
    return jnp.sum(found * jnp.asarray(texts.weight)[:, 1:], axis=-1)


def dpo(config: DPOConfig, updates: int) -> Trainer:
    """The trainer; ``updates`` are those of the whole run, over which the step size falls."""

    def loss(params: PyTree, decoder: Decoder, rows: tuple[Pairs, jax.Array]) -> tuple[jax.Array, Metrics]:
        pairs, share = rows
        texts = both(pairs)
        reference = answer_log_probs(decoder, texts, config.chunk)
        ratio = answer_log_probs(joined(config, decoder, params), texts, config.chunk) - reference
        chosen, rejected = jnp.split(ratio, 2)
        if config.loss == "ipo":
            each = ipo_loss(chosen, rejected, config.beta)
        else:
            each = dpo_loss(chosen, rejected, config.beta, config.smoothing)
        mean = lambda x: jnp.sum(x.astype(jnp.float32) * share)
        metrics = {
            "loss": mean(each),
            "accuracy": mean(chosen > rejected),
            "margin": implicit_reward(mean(chosen - rejected), config.beta),
            "chosen": implicit_reward(mean(chosen), config.beta),
            "rejected": implicit_reward(mean(rejected), config.beta),
        }
        return metrics["loss"], metrics

    return trainer(config, updates, weigh=shares, loss=loss)


METHOD = Method("dpo", DPOConfig, dpo, "direct preference optimisation, of pairs of answers", "pairs")
