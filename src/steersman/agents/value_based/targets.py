"""What DQN bootstraps from: the policy at the states after a step, and n steps joined where they are corrected."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.parts.replay import multi_step
from steersman.agents.parts.replay.sequences import Items
from steersman.agents.value_based.q_outputs import Output
from steersman.theory import returns, trees
from steersman.theory.distributions import Categorical
from steersman.types import Key, Metrics


class Judged(NamedTuple):
    """The target network's outputs at M states, [M, A] or [M, A, K], and the policy that is followed there, [M, A]."""

    out: jax.Array
    pi: jax.Array
    drawn: jax.Array  # what the target averages over: pi, or a draw of it


def greedy(q: jax.Array) -> jax.Array:
    """All probability on the first of the best actions, [M, A]."""
    return trees.one_hot(jnp.argmax(q, axis=-1), q.shape[-1]).astype(jnp.float32)


def exploring(policy: Categorical, expected: bool, key: Key) -> tuple[jax.Array, jax.Array]:
    """The exploring policy, and it again where expectations are taken, else a draw of it: ``Judged``'s last two."""
    pi = policy.probabilities()
    return pi, pi if expected else trees.one_hot(policy.sample(key), pi.shape[-1]).astype(jnp.float32)


def corrected(config: Any, output: Output, items: Items, judged: Judged) -> tuple[Items, Judged, Metrics]:
    """The items with their n steps joined into one, of reward 0 and discount 1 before all of it."""
    steps, (out, pi, drawn) = items.steps, judged
    assert steps is not None
    followed = pi if config.n_step_correction == "retrace" else drawn
    c_t, metrics = multi_step.traces(config, steps, jnp.log(trees.take(followed, steps.action_t)))
    length, size = steps.reward.shape
    rows = lambda x: x.reshape(length, size, *x.shape[1:])
    mixture = returns.multi_step_mixture(
        steps.reward, steps.discount, rows(drawn), rows(steps.action_t), c_t, steps.lambda_t
    )
    out_t, policy_t = output.joined(rows(out), mixture)
    items = items._replace(reward=jnp.zeros((size,), jnp.float32), discount=jnp.ones((size,), jnp.float32))
    return items, Judged(out_t, policy_t, policy_t), metrics
