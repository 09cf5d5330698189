"""IMPALA's learner (Espeholt et al. 2018, arXiv:1802.01561): an actor-critic that corrects for stale experience.

Actors that run beside the learner play with parameters some updates old. Here the lag is exact and reproducible: a
rollout is collected by the policy mu of ``lag`` updates ago, and the learner's policy pi corrects by V-trace. With
rho_t = pi(a_t|s_t) / mu(a_t|s_t), one update is one Adam step down

    L = mean[-log pi(a_t|s_t) A_t + c_v (V(s_t) - vs_t)^2 / 2 - c_e entropy]
    vs_t = V(s_t) + e_t,   e_t = min(clip_rho, rho_t) delta_t + gamma_t lambda_t min(clip_c, rho_t) e_{t+1}
    A_t  = min(clip_rho, rho_t) (r_t + gamma_t vs_{t+1} - V(s_t))

with no gradient through vs and A (``theory.returns.vtrace``). clip_rho decides which policy's value is learned (with 1,
one between mu's and pi's; without clipping, pi's), clip_c only how fast. With lag = 0, rho = 1 and this is A2C.

Details: a terminal state bootstraps nothing; a truncation bootstraps from the true last observation; network,
initialisation and Adam as PPO's, not the paper's RMSProp and deep residual network; the mean, not the sum, over a
rollout; entropy of pi. Evaluation uses the newest parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from steersman.agents.parts.algorithms import on_policy
from steersman.agents.parts.config import ActorCriticLossConfig
from steersman.agents.parts.wrappers import normalised, with_lag
from steersman.agents.policy_gradient.common import (
    Estimate,
    Estimates,
    OnPolicyConfig,
    network_maker,
    policy_gradient_agent,
)
from steersman.config import Rules
from steersman.nets.actor_critic import ActorCriticFactory
from steersman.theory import returns
from steersman.types import Agent, EnvSpec, Rollout


@dataclass(frozen=True)
class ImpalaConfig(ActorCriticLossConfig, OnPolicyConfig):
    """Settings of IMPALA."""

    unroll_length: int = 16
    """Steps of each environment between two updates (T)."""
    learning_rate: float = 1e-3
    """Adam's step size at the start."""
    lag: int = 1
    """Updates by which the acting policy is behind the learner."""
    gae_lambda: float = 1.0
    """Lambda of V-trace: 1, the paper's, bootstraps at the rollout's end only."""
    clip_rho: float = 1.0
    """Cut of the importance ratio of each step's own error."""
    clip_c: float = 1.0
    """Cut of the ratios that later errors pass through."""
    normalize_advantages: bool = False
    """Standardise advantages within the rollout."""

    rules = Rules(positive=("clip_rho", "clip_c"), non_negative=("lag",), fraction=("gae_lambda",))


def estimator(config: ImpalaConfig) -> Estimate:
    """Advantages and value targets: V-trace from the behaviour policy's recorded log-probabilities."""

    def estimate(rollout: Rollout, log_prob: jax.Array, v_tm1: jax.Array, v_t: jax.Array) -> Estimates:
        corrected = returns.vtrace(
            rollout.reward,
            returns.discounts(rollout.terminated, config.gamma),
            returns.importance_ratios(log_prob, rollout.extras["log_prob"]),
            v_tm1,
            v_t,
            returns.trace_decays(rollout.truncated, config.gae_lambda),
            clip_rho=config.clip_rho,
            clip_c=config.clip_c,
            clip_pg_rho=config.clip_rho,
        )
        return Estimates(corrected.pg_advantage, corrected.vs)

    return estimate


def impala(
    config: ImpalaConfig, spec: EnvSpec, *, budget: int | None = None, network: ActorCriticFactory | None = None
) -> Agent:
    """IMPALA as an agent for an environment.

    network: ``(key, spec) -> module``, the module mapping one observation to ``(distribution, value)``; by default
    ``nets.actor_critic.ActorCritic`` as the config says. Raises UsageError for actions that no policy head serves.
    """
    make = network_maker("IMPALA", config, spec, network)
    return normalised(with_lag(policy_gradient_agent(config, make, estimator(config), budget), config.lag), config)


ALGORITHM = on_policy(
    "impala", ImpalaConfig, impala, "actor-critic with V-trace: learns from a policy some updates old"
)
