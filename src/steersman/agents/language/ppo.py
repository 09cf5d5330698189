"""Proximal policy optimisation of texts: every token is a step, and a value head is the critic (Ziegler et al. 2019,
arXiv:1909.08593; Ouyang et al. 2022, arXiv:2203.02155).

One update, from answers drawn by pi_old:

1. The reward of a token is -beta log pi_old / ref, and the last one's has r(y) on top. An answer ends there, also where
   it was cut off. In a conversation the last token of each answer has what that answer earned.
2. V, a linear head on the trunk, of a token's place *before* the token; advantages by GAE over tokens
   (``theory.returns``), standardised over all tokens of the batch.
3. ``num_epochs`` passes of Adam's steps on the mean over tokens of
   L = ppo_clip_loss(pi / pi_old, A) + c_v (V - G)^2 / 2.
4. beta, where it has a target, moves in proportion to how far the divergence is from it
   (``preferences.proportional_kl_coefficient``).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from steersman.agents.language import on_policy
from steersman.agents.language.common import Method, Trainer
from steersman.agents.language.on_policy import Observed, Rows, Sampled
from steersman.agents.language.on_policy_config import ReusedConfig
from steersman.agents.parts.minibatches import standardise
from steersman.config import Rules
from steersman.language.completions import Completions, as_rollout, own_first, put_back
from steersman.language.decoder import Decoder, Dense
from steersman.theory.returns import discounts, gae
from steersman.theory.surrogates import clip_fraction, clipped_value_loss, ppo_clip_loss
from steersman.types import Array, Metrics, PyTree


@dataclass(frozen=True)
class TextPPOConfig(ReusedConfig):
    """Settings of PPO on texts."""

    batch_size: int = 64
    """Prompts in one update, each answered ``group`` times."""
    group: int = 1
    """Answers to one prompt (K)."""
    num_epochs: int = 4
    """Passes over the answers in one update."""
    gamma: float = 1.0
    """Discount per token."""
    gae_lambda: float = 0.95
    """Lambda of the advantage estimate: 0 is the TD error, 1 the Monte-Carlo advantage."""
    clip: float = 0.2
    """Epsilon: how far a token's probability ratio may move before its gradient is cut."""
    value_clip: float | None = None
    """Largest move of a value prediction per update; none: the plain squared error."""
    value_coefficient: float = 0.5
    """c_v, weight of the value loss."""

    rules = Rules(
        positive=("clip", "value_clip"), fraction=("gamma", "gae_lambda"), non_negative=("value_coefficient",)
    )


def advantages(c: Completions, reward: Array, value: Array, gamma: float = 1.0, gae_lambda: float = 0.95) -> jax.Array:
    """GAE over tokens, [B, C], 0 behind the end of an answer.

    reward [B, C] of tokens; value [B, C], of each token's place before it. In a conversation, after the last token of
    an answer comes the first of the next one: what is replied between them is no step, and its values are none.
    """
    rollout = as_rollout(c, reward)
    v_tm1 = jnp.asarray(value if c.reply is None else own_first(c.mask, value)[0]).T
    v_t = jnp.pad(v_tm1[1:], ((0, 1), (0, 0)))
    found = gae(rollout.reward, discounts(rollout.terminated, gamma), v_tm1, v_t, gae_lambda).T
    return jnp.where(c.mask, found, 0.0) if c.reply is None else put_back(c.mask, found)


def values(head: Dense, h: jax.Array) -> jax.Array:
    """[B, C, D] -> [B, C], float32."""
    return head(h.astype(jnp.float32))[..., 0]


def ppo(config: TextPPOConfig, updates: int) -> Trainer:
    """The trainer; ``updates`` are those of the whole run, over which the step size falls."""

    def head(decoder: Decoder) -> Dense:
        return Dense(jnp.zeros((1, decoder.config.width)), jnp.zeros((1,)))

    def prepare(params: PyTree, decoder: Decoder, seen: Observed, sampled: Sampled, beta: jax.Array) -> Rows:
        c = sampled.completions
        model = on_policy.policy(config, decoder, params)
        of = lambda c: values(params["head"], on_policy.before(config, model, c))
        value = on_policy.in_parts(of, c, config.accumulate)
        reward = seen.token_reward - beta * seen.kl
        advantage = advantages(c, reward, value, config.gamma, config.gae_lambda)
        mask = jnp.asarray(c.mask).astype(jnp.float32)
        return on_policy.rows_of(sampled, seen, standardise(advantage, mask), value, advantage + value)

    def loss(params: PyTree, decoder: Decoder, rows: Rows, beta: jax.Array) -> tuple[jax.Array, Metrics, Metrics]:
        c = rows.completions
        h, log_prob = on_policy.evaluated(config, on_policy.policy(config, decoder, params), c)
        log_ratio = log_prob - c.log_prob
        errors = clipped_value_loss(values(params["head"], h), rows.old_value, rows.target, config.value_clip)
        mean = lambda each: jnp.sum(rows.weight * jnp.where(c.mask, each, 0.0).sum(-1))
        policy_loss, value_loss = mean(ppo_clip_loss(log_ratio, rows.advantage, config.clip)), mean(errors)
        total = policy_loss + config.value_coefficient * value_loss
        sums = {"loss": total, "policy_loss": policy_loss, "value_loss": value_loss}
        return total, sums, on_policy.measured(log_prob, rows, clip_fraction(log_ratio, config.clip))

    return on_policy.trainer(config, updates, prepare=prepare, loss=loss, reduction="token", head=head)


METHOD = Method("ppo", TextPPOConfig, ppo, "proximal policy optimisation, a value head as the critic", "prompts")
