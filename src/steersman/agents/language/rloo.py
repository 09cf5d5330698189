"""REINFORCE with the others of its group as an answer's baseline (Ahmadian et al. 2024, arXiv:2402.14740).

    A_i = R_i - mean of the other R_j,   R = r(y) - beta log pi(y) / ref(y)
    loss = - mean_i A_i log pi(y_i)

The divergence is in the reward, summed over the answer, where its gradient is that of J = E[r] - beta KL(pi || ref),
exactly, on average over samples (``theory.alignment.preferences``). One step on each batch: the gradient is unbiased,
with no ratio and nothing clipped. No value network.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from steersman.agents.language import on_policy
from steersman.agents.language.common import Method, Trainer
from steersman.agents.language.on_policy import Observed, Rows, Sampled
from steersman.agents.language.on_policy_config import GroupedConfig
from steersman.language.decoder import Decoder
from steersman.theory.alignment.groups import leave_one_out
from steersman.theory.surrogates import policy_gradient_loss
from steersman.types import Metrics, PyTree


@dataclass(frozen=True)
class RLOOConfig(GroupedConfig):
    """Settings of RLOO."""


def rloo(config: RLOOConfig, updates: int) -> Trainer:
    """The trainer; ``updates`` are those of the whole run, over which the step size falls."""

    def prepare(params: PyTree, decoder: Decoder, seen: Observed, sampled: Sampled, beta: jax.Array) -> Rows:
        advantage = leave_one_out(seen.reward - beta * seen.kl.sum(-1), config.group)
        return on_policy.rows_of(sampled, seen, advantage)

    def loss(params: PyTree, decoder: Decoder, rows: Rows, beta: jax.Array) -> tuple[jax.Array, Metrics, Metrics]:
        model = on_policy.policy(config, decoder, params)
        log_prob = on_policy.evaluated(config, model, rows.completions)[1]
        total = jnp.sum(rows.weight * policy_gradient_loss(log_prob.sum(-1), rows.advantage))
        return total, {"loss": total}, on_policy.measured(log_prob, rows)

    return on_policy.trainer(config, updates, prepare=prepare, loss=loss, reduction="answer")


METHOD = Method("rloo", RLOOConfig, rloo, "REINFORCE, the group's other answers as the baseline", "prompts")
