"""Answers to prompts, and the same as experience: a text is an episode, its tokens are the steps.

A conversation is one too: several answers, with what was replied to each between them.

Axes: ``B`` rows, ``P`` tokens of a prompt, ``C`` of an answer, or of a conversation.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from steersman.types import Array, Rollout


class Completions(NamedTuple):
    """Answers to prompts: what was said, and how likely it was to be."""

    prompt: Array  # int32 [B, P], padded on the left
    prompt_mask: Array  # bool [B, P]
    tokens: Array  # int32 [B, C], padded on the right
    mask: Array  # bool [B, C]: a token of the model's own, the one that ends the answer included
    log_prob: Array  # float32 [B, C], of the distribution that was drawn from; 0 where the mask is False
    ended: Array  # bool [B]: by a token that ends answers; False: cut off at C
    reply: Array | None = None  # bool [B, C]: a token that was replied, of conversations: read, and not learned

    @property
    def text(self) -> tuple[jax.Array, jax.Array]:
        """Prompts and answers side by side: tokens int32 [B, P + C] and their mask."""
        whole = lambda *parts: jnp.concatenate([jnp.asarray(x) for x in parts], 1)
        there = self.mask if self.reply is None else jnp.asarray(self.mask) | self.reply
        return whole(self.prompt, self.tokens), whole(self.prompt_mask, there)


def last_token(mask: Array) -> jax.Array:
    """True at the last token of each answer, bool [B, C]; of a conversation, at the last of all.

    >>> last_token(jnp.array([[True, True, False], [True, False, True]])).tolist()
    [[False, True, False], [False, False, True]]
    """
    mask = jnp.asarray(mask)
    longest = mask.shape[1]
    last = longest - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    return mask & (jnp.arange(longest)[None] == last[:, None])


def own_first(mask: Array, *arrays: Array) -> list[jax.Array]:
    """Arrays [B, C] with the places of the mask moved to the front of each row, in their order.

    >>> own_first(jnp.array([[True, False, True]]), jnp.array([[1, 2, 3]]))[0].tolist()
    [[1, 3, 2]]
    """
    order = jnp.argsort(~jnp.asarray(mask), axis=1, stable=True)
    return [jnp.take_along_axis(jnp.asarray(x), order, axis=1) for x in arrays]


def put_back(mask: Array, x: Array) -> jax.Array:
    """What ``own_first`` moved, where it was, [B, C]; 0 where the mask is False."""
    mask = jnp.asarray(mask)
    return jnp.where(mask, jnp.take_along_axis(x, jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0), axis=1), 0)


def as_rollout(completions: Completions, reward: Array) -> Rollout:
    """The answers as experience, [C, B]: a row of a step is one token of each answer.

    reward float32 [B], of whole answers: it comes with the last token; or [B, C], of each token. An answer terminates
    at its last token, also where it was cut off: how long an answer may be is part of the task, and nothing is
    bootstrapped there. obs is the token before, and ``carry``, the memory before the first step, the prompt with its
    mask. What stands behind an answer's end is terminated too, and ``extras["mask"]`` is False there.

    A step of a conversation is a token of the model's own: what is replied lies between two steps, of which the next
    one's obs is the last token. The inverse, of answers alone, is ``from_rollout``. ``returns.gae`` of it, with the
    value of a token's place *before* the token, is the advantage of each token.
    """
    c: Completions = jax.tree.map(jnp.asarray, completions)
    reward, last = jnp.asarray(reward), last_token(c.mask)
    reward = jnp.where(last, reward[:, None], 0.0) if reward.ndim == 1 else jnp.where(c.mask, reward, 0.0)
    before = jnp.concatenate([c.prompt[:, -1:], c.tokens[:, :-1]], 1)
    if c.reply is not None:
        tokens, reward, last, log_prob, mask, before = own_first(
            c.mask, c.tokens, reward, last, c.log_prob, c.mask, before
        )
        c = c._replace(tokens=tokens, log_prob=log_prob, mask=mask)
    tokens = c.tokens.T
    steps, rows = tokens.shape
    return Rollout(
        obs=before.T,
        action=tokens,
        reward=reward.T,
        terminated=(last | ~c.mask).T,
        truncated=jnp.zeros((steps, rows), bool),
        next_obs=tokens if c.reply is None else jnp.concatenate([before.T[1:], tokens[-1:]]),
        first=jnp.broadcast_to(jnp.arange(steps)[:, None] == 0, (steps, rows)),
        costs=jnp.zeros((steps, rows, 0)),
        extras={"log_prob": c.log_prob.T, "mask": c.mask.T, "ended": (last & c.ended[:, None]).T},
        carry=(c.prompt, c.prompt_mask),
    )


def from_rollout(rollout: Rollout) -> tuple[Completions, jax.Array]:
    """-> (the answers, the reward of each token [B, C]): what ``as_rollout`` was made of, but for what was replied."""
    prompt, prompt_mask = rollout.carry
    log_prob, mask, ended = (jnp.asarray(rollout.extras[name]).T for name in ("log_prob", "mask", "ended"))
    answers = Completions(prompt, prompt_mask, jnp.asarray(rollout.action).T, mask, log_prob, ended.any(-1))
    return answers, jnp.asarray(rollout.reward).T
