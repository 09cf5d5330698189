"""Group-relative policy optimisation, and what became of it: four switches and a place for the divergence.

    advantage_scale   group      (r - mean) / std of the group: every prompt weighs alike, and beta is another for each
                      none       r - mean
                      batch      (r - mean) / std of the batch
    reduction         sequence   the mean over an answer's tokens, then over answers: a long wrong one costs less
                      token      the mean over all tokens
                      constant   the sum over all tokens / (B C)
    ratio             token      pi / pi_old of each token
                      sequence   of the whole answer, its geometric mean over tokens
    clip_low, clip_high          how far down and up it may move before its gradient is cut

    variant    advantage_scale   reduction   ratio      clip            from
    grpo       group             sequence    token      0.2, 0.2        Shao et al. (2024), arXiv:2402.03300
    dr-grpo    none              constant    token      0.2, 0.2        Liu et al. (2025), arXiv:2503.20783
    dapo       group             token       token      0.2, 0.28       Yu et al. (2025), arXiv:2503.14476
    gspo       group             sequence    sequence   3e-4, 4e-4      Zheng et al. (2025), arXiv:2507.18071

kl says where beta KL(pi || ref) goes. ``reward`` subtracts it from an answer's reward, which has the gradient of
J = E[r] - beta KL, as has ``k2``, a loss of the whole answer's log-ratio. ``k3``, a loss of each token, is as
published, and has the gradient of another divergence; ``k3_ratio``, times pi / pi_old, leaves out what a token does to
those after it (``theory.alignment.preferences``). Of DAPO these are its clip and its mean, not its choice of prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.language import on_policy
from steersman.agents.language.common import Method, Trainer
from steersman.agents.language.on_policy import Observed, Rows, Sampled
from steersman.agents.language.on_policy_config import GroupedConfig, ReusedConfig
from steersman.config import Rules
from steersman.language.decoder import Decoder
from steersman.theory.alignment.groups import batch_standardised, centred, standardised
from steersman.theory.alignment.preferences import k2, k3
from steersman.theory.surrogates import clip_fraction, ppo_clip_loss, ratios
from steersman.types import Metrics, PyTree


class Switches(NamedTuple):
    """What the variants differ in."""

    advantage_scale: str
    reduction: str
    ratio: str
    clip_low: float
    clip_high: float


VARIANTS = {
    "grpo": Switches("group", "sequence", "token", 0.2, 0.2),
    "dr-grpo": Switches("none", "constant", "token", 0.2, 0.2),
    "dapo": Switches("group", "token", "token", 0.2, 0.28),
    "gspo": Switches("group", "sequence", "sequence", 3e-4, 4e-4),
}
SCALES = {"group": standardised, "none": centred, "batch": batch_standardised}


@dataclass(frozen=True)
class GRPOConfig(GroupedConfig, ReusedConfig):
    """Settings of GRPO."""

    variant: str = "dr-grpo"
    """What the five switches below are that are not set: grpo, dr-grpo, dapo or gspo."""
    advantage_scale: str = "variant"
    """What an advantage is divided by: the deviation of its group, of the batch, or none."""
    reduction: str = "variant"
    """What a token counts: sequence, token or constant."""
    ratio: str = "variant"
    """Whose probabilities are compared with those it was drawn with: a token's, or the sequence's."""
    clip_low: float | None = None
    """How far below 1 that ratio may fall before its gradient is cut; none: the variant's."""
    clip_high: float | None = None
    """How far above 1 it may rise; none: the variant's."""
    kl: str = "reward"
    """Where the divergence from the reference goes: reward, k2, k3 or k3_ratio."""

    rules = Rules(
        positive=("clip_low", "clip_high"),
        choices={
            "variant": tuple(VARIANTS),
            "advantage_scale": ("variant", *SCALES),
            "reduction": ("variant", "sequence", "token", "constant"),
            "ratio": ("variant", "token", "sequence"),
            "kl": ("reward", "k2", "k3", "k3_ratio"),
        },
    )

    @property
    def switches(self) -> Switches:
        """Those of the variant, but for what is set."""
        given = {name: getattr(self, name) for name in Switches._fields}
        return VARIANTS[self.variant]._replace(**{k: v for k, v in given.items() if v not in ("variant", None)})

    @property
    def said(self) -> str:
        how = ", ".join(f"{name} {value}" for name, value in self.switches._asdict().items())
        return f"{super().said}; {self.variant}: {how}, kl {self.kl}"


def grpo(config: GRPOConfig, updates: int) -> Trainer:
    """The trainer; ``updates`` are those of the whole run, over which the step size falls."""
    scale, reduction, ratio, low, high = config.switches

    def prepare(params: PyTree, decoder: Decoder, seen: Observed, sampled: Sampled, beta: jax.Array) -> Rows:
        reward = seen.reward - beta * seen.kl.sum(-1) if config.kl == "reward" else seen.reward
        return on_policy.rows_of(sampled, seen, SCALES[scale](reward, config.group))

    def divergence(log_prob: jax.Array, log_ratio: jax.Array, rows: Rows) -> jax.Array:
        """Of each answer, [B], a sum over its tokens."""
        apart = log_prob - rows.reference
        if config.kl == "k2":
            return k2(apart.sum(-1))
        each = k3(apart)
        return (ratios(log_ratio) * each if config.kl == "k3_ratio" else each).sum(-1)

    def loss(params: PyTree, decoder: Decoder, rows: Rows, beta: jax.Array) -> tuple[jax.Array, Metrics, Metrics]:
        c = rows.completions
        log_prob = on_policy.evaluated(config, on_policy.policy(config, decoder, params), c)[1]
        log_ratio = tokens = log_prob - c.log_prob  # 0 behind the end of an answer
        if ratio == "sequence":
            length = jnp.maximum(jnp.asarray(c.mask).sum(-1, keepdims=True).astype(jnp.float32), 1.0)
            log_ratio = jnp.broadcast_to(log_ratio.sum(-1, keepdims=True) / length, log_ratio.shape)
        advantage = jnp.broadcast_to(rows.advantage[:, None], log_ratio.shape)
        each = jnp.where(c.mask, ppo_clip_loss(log_ratio, advantage, low, high), 0.0).sum(-1)
        total = policy_loss = jnp.sum(rows.weight * each)
        sums = {"policy_loss": policy_loss}
        if config.kl != "reward":
            sums["kl_loss"] = jnp.sum(rows.weight * divergence(log_prob, tokens, rows))
            total = total + beta * sums["kl_loss"]
        return total, sums | {"loss": total}, on_policy.measured(log_prob, rows, clip_fraction(log_ratio, low, high))

    return on_policy.trainer(config, updates, prepare=prepare, loss=loss, reduction=reduction)


METHOD = Method("grpo", GRPOConfig, grpo, "group-relative policy optimisation: GRPO, Dr. GRPO, DAPO, GSPO", "prompts")
