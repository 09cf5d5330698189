"""What RLOO, GRPO and PPO share: sampled answers and what they earned, the reference, one update out of a batch.

The log-probabilities that an answer was drawn with serve as log pi_old: no pass through the model finds them again. The
reference is the decoder that the training starts from: the base under adapters, or a copy that stands still. Rows lie
prompt by prompt, ``group`` answers to each.

Axes: ``B`` answers, ``C`` tokens of one, ``P`` of a prompt, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.agents.language.common import LanguageConfig, Learner, Trainer, descend, joined
from steersman.agents.language.on_policy_config import OnPolicyConfig
from steersman.agents.parts.minibatches import epochs, shuffled_minibatches
from steersman.language.completions import Completions, last_token
from steersman.language.decoder import Decoder, hidden, log_probs
from steersman.language.generation import before_answers
from steersman.theory.alignment.preferences import k1, proportional_kl_coefficient
from steersman.types import Array, Key, Metrics, PyTree


class Sampled(NamedTuple):
    """What an update learns from."""

    completions: Completions
    reward: Array  # float32 [B], of whole answers; or [B, C], where they are earned on the way, as in a conversation


class OnPolicyLearner(NamedTuple):
    """All that a training is between two updates; ``params`` has the adaptation's tree as "decoder"."""

    params: PyTree
    moments: PyTree
    updates: jax.Array  # int32: also the position in the data
    kl_coefficient: jax.Array  # beta


class Rows(NamedTuple):
    """What a loss sees, of each answer or of some of them."""

    completions: Completions
    reference: jax.Array  # float32 [B, C], log ref of the tokens
    advantage: jax.Array  # [B], or [B, C]
    old_value: jax.Array  # [B, C], of a critic; [B] without one
    target: jax.Array  # likewise
    weight: jax.Array  # [B]: of each token of an answer, ``token_weights``
    place: jax.Array  # int32 [B]: where an answer stands among all of the minibatch


def policy(config: LanguageConfig, decoder: Decoder, params: PyTree) -> Decoder:
    """The decoder that answers, as losses run it."""
    return joined(config, decoder, params["decoder"])


def prompts_once(config: OnPolicyConfig, answers: int, replies: bool) -> bool:
    """Whether a pass over so many answers sends each prompt through the model once: where a group's answers lie side by
    side. Conversations, which have replies in between, go through as they are."""
    return config.group > 1 and config.minibatches == 1 and answers % config.group == 0 and not replies


def before(config: OnPolicyConfig, model: Decoder, c: Completions) -> jax.Array:
    """The hidden vectors *before* each token of the answers, [B, C, D]: of the prompt and the tokens up to it."""
    if not prompts_once(config, len(c.tokens), c.reply is not None):
        return hidden(model, *c.text)[:, c.prompt.shape[1] - 1 : -1]
    once = slice(None, None, config.group)
    return before_answers(model, c.prompt[once], c.prompt_mask[once], c.tokens, c.mask)


def evaluated(config: OnPolicyConfig, model: Decoder, c: Completions) -> tuple[jax.Array, jax.Array]:
    """-> (``before`` [B, C, D], the tokens' log-probabilities [B, C], 0 where the mask is False)"""
    h = before(config, model, c)
    return h, log_probs(model, h, c.tokens, c.mask, config.temperature, config.chunk)


def in_parts(of: Callable[[PyTree], PyTree], rows: PyTree, parts: int) -> PyTree:
    """``of(rows)``, [B, ...] -> [B, ...], in so many parts one after another, where they are equal: less memory."""
    count = len(jax.tree.leaves(rows)[0])
    if parts == 1 or count % parts:
        return of(rows)
    cut = jax.tree.map(lambda x: jnp.asarray(x).reshape(parts, count // parts, *x.shape[1:]), rows)
    return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), jax.lax.map(of, cut))


class Observed(NamedTuple):
    """A batch of answers, seen beside the reference."""

    reward: jax.Array  # float32 [B], of whole answers, penalties taken off
    token_reward: jax.Array  # [B, C], the same where it is earned
    reference: jax.Array  # [B, C], log ref of the tokens
    kl: jax.Array  # [B, C], k1 of each token; the mean of its sums is KL(pi_old || ref), estimated
    told: Metrics


def observed(config: OnPolicyConfig, decoder: Decoder, sampled: Sampled) -> Observed:
    """What is known of a batch before anything is learned from it."""
    c, reward = sampled.completions, jnp.asarray(sampled.reward, jnp.float32)
    mask, ended = jnp.asarray(c.mask), jnp.asarray(c.ended)
    reference = in_parts(lambda c: evaluated(config, decoder, c)[1], c, config.accumulate)
    penalty = jnp.where(ended, 0.0, config.missing_end_penalty)
    at_end = lambda x: jnp.where(last_token(mask), x[:, None], 0.0)
    each = reward - at_end(penalty) if reward.ndim == 2 else at_end(reward - penalty)
    reward = reward.sum(-1) if reward.ndim == 2 else reward
    kl = k1(jnp.where(mask, c.log_prob - reference, 0.0))
    group = reward.reshape(-1, config.group)
    told = shards.cross_mean(
        {
            "reward": reward.mean(),
            "kl": kl.sum(-1).mean(),
            "entropy": -jnp.sum(c.log_prob) / len(reward),  # of answers, estimated
            "length": mask.sum(-1).astype(jnp.float32).mean(),
            "ended": ended.astype(jnp.float32).mean(),
            "equal_groups": (group == group[:, :1]).all(-1).astype(jnp.float32).mean(),
        }
    )
    told["entropy"] = told["entropy"] / told["length"]  # of a token
    if config.group == 1:
        del told["equal_groups"]
    return Observed(reward - penalty, each, reference, kl, told)


def rows_of(
    sampled: Sampled, seen: Observed, advantage: jax.Array, value: jax.Array | None = None, target: Any = None
) -> Rows:
    """What a loss is to see; ``value`` and ``target`` [B, C] of a critic, where there is one."""
    none = jnp.zeros((len(seen.reward),))
    value, target = (none, none) if value is None else (value, target)
    return Rows(sampled.completions, seen.reference, advantage, value, target, none, none.astype(jnp.int32))


def token_weights(mask: Array, reduction: str) -> jax.Array:
    """How much each token of an answer counts in a loss that is a sum over all tokens: [B, C] -> [B].

        sequence   1 / (B its length)      every answer alike, a token of a long one less: GRPO
        token      1 / all tokens          every token alike, a long answer more: DAPO, PPO
        constant   1 / (B C)               likewise, and no weight depends on what was drawn: Dr. GRPO
        answer     1 / B                   likewise: a sum over the tokens of an answer, RLOO

    B and the tokens are those of all shards. Only the last two leave a policy gradient unbiased.
    """
    mask = jnp.asarray(mask)
    rows, longest = mask.shape[0] * shards.shard_count(), mask.shape[1]
    length = jnp.maximum(mask.sum(-1).astype(jnp.float32), 1.0)
    if reduction == "token":
        return jnp.broadcast_to(1.0 / shards.cross_sum(length.sum()), length.shape)
    return {
        "sequence": 1.0 / (rows * length),
        "constant": jnp.full_like(length, 1.0 / (rows * longest)),
        "answer": jnp.full_like(length, 1.0 / rows),
    }[reduction]


def measured(log_prob: jax.Array, rows: Rows, clipped: jax.Array | None = None) -> Metrics:
    """What a loss says of each answer, [B] and by name.

    clipped float32 [B, C]: 1 where a ratio is outside of its range.
    """
    c = rows.completions
    gap = jnp.abs(log_prob - c.log_prob).max(-1)
    each = {"gap": gap, "length": jnp.asarray(c.mask).sum(-1).astype(jnp.float32)}
    if clipped is not None:
        each["clipped"] = jnp.where(c.mask, clipped, 0.0).sum(-1)
    return each


def trainer(
    config: OnPolicyConfig,
    updates: int,
    *,
    prepare: Callable[[PyTree, Decoder, Observed, Sampled, jax.Array], Rows],
    loss: Callable[[PyTree, Decoder, Rows, jax.Array], tuple[jax.Array, Metrics, Metrics]],
    reduction: str,
    head: Callable[[Decoder], PyTree] | None = None,
) -> Trainer:
    """A trainer whose update is ``passes`` times ``minibatches`` steps on the answers of one batch.

    prepare(params, decoder, seen, sampled, beta) -> rows, before the first step
    loss(params, decoder, rows, beta) -> (sum, metrics that add up to means, ``measured``)
    """

    def init(decoder: Decoder, key: Key) -> OnPolicyLearner:
        params = {"decoder": config.adaptation.init(decoder, key)}
        if head is not None:
            params["head"] = head(decoder)
        beta = jnp.asarray(config.beta, jnp.float32)
        return OnPolicyLearner(params, config.optimiser.init(params), jnp.zeros((), jnp.int32), beta)

    def update(
        learner: OnPolicyLearner, decoder: Decoder, sampled: Sampled, key: Key
    ) -> tuple[OnPolicyLearner, Metrics]:
        beta, begun = learner.kl_coefficient, learner.updates
        seen = observed(config, decoder, sampled)
        whole = prepare(learner.params, decoder, seen, sampled, beta)

        def step(net: Learner, rows: Rows) -> tuple[Learner, Metrics]:
            count = len(rows.place)
            place = jnp.arange(count, dtype=jnp.int32) + jnp.asarray(shards.shard_index(), jnp.int32) * count
            rows = rows._replace(weight=token_weights(rows.completions.mask, reduction), place=place)

            def down(params: PyTree, decoder: Decoder, part: Rows) -> tuple[jax.Array, Metrics]:
                total, sums, each = loss(params, decoder, part, beta)
                spread = lambda x: jnp.zeros((count * shards.shard_count(),)).at[part.place].set(x)
                return total, sums | {"each": jax.tree.map(spread, each)}

            net, metrics = descend(config, updates, down, net, decoder, rows)
            each = metrics.pop("each")
            metrics["log_prob_gap"] = each["gap"].max()
            if "clipped" in each:
                metrics["clip_fraction"] = each["clipped"].sum() / each["length"].sum()
            return net._replace(updates=begun), metrics  # the rate is that of the update

        cut = lambda net, key: shuffled_minibatches(key, jax.tree.map(lambda x: x[None], whole), config.minibatches)
        net, metrics = epochs(step, Learner(*learner[:3]), cut, key, config.passes)
        gap = metrics.pop("log_prob_gap")[0, 0]  # before the first step: what sampler and trainer differ in
        told = seen.told | {name: x.mean() for name, x in metrics.items()} | {"log_prob_gap": gap, "beta": beta}
        if config.kl_target is not None:
            beta = proportional_kl_coefficient(
                beta, seen.told["kl"], config.kl_target, config.answers / config.kl_horizon
            )
        return OnPolicyLearner(net.params, net.moments, begun + 1, beta), told

    def evaluate(learner: OnPolicyLearner, decoder: Decoder, sampled: Sampled) -> Metrics:
        seen = observed(config, decoder, sampled)
        return seen.told | {"count": jnp.asarray(float(len(seen.reward)) * shards.shard_count())}

    return Trainer(init, update, evaluate, lambda params, decoder: config.adaptation.merge(decoder, params["decoder"]))
