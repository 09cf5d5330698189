"""Advantage actor-critic, A2C: the synchronous form of A3C (Mnih et al. 2016, arXiv:1602.01783).

One update, from a rollout of T steps of B environments, is one Adam step down

    L = mean[-log pi(a_t|s_t) A_t + c_v (V(s_t) - G_t)^2 / 2 - c_e entropy],    A_t = G_t - V(s_t)
    G_t = r_t + gamma_t [(1 - lambda_t) V(s_{t+1}) + lambda_t G_{t+1}]

with no gradient through A and G. lambda = 1 is A3C's: rewards to the end of the rollout, then V. ``n_step`` takes n
rewards and then V, everywhere.

Beside REINFORCE, one rung below: the critic's value stands for the rest of the episode, so a rollout may cut it
anywhere and updates come sooner; for that the gradient is unbiased only as far as V is right (or lambda = 1 and the cut
is the episode's end).

With ``cost_limit`` A_t is a mix of the reward's advantage and the costs' (``parts.constraint``).

Details: gamma_t = 0 where the state is terminal, lambda_t = 0 where the clock cut the episode, V of the *true*
successor; network, initialisation and Adam (eps 1e-5, the whole gradient's norm clipped) as PPO's, not A3C's RMSProp.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from steersman.agents.parts.algorithms import on_policy
from steersman.agents.parts.config import ActorCriticLossConfig
from steersman.agents.parts.constraint import UNLIMITED, Constraint, ConstraintConfig, constraint_of
from steersman.agents.parts.wrappers import normalised
from steersman.agents.policy_gradient.common import (
    Estimate,
    Estimates,
    OnPolicyConfig,
    lambda_targets,
    network_maker,
    policy_gradient_agent,
)
from steersman.config import Rules
from steersman.nets.actor_critic import ActorCriticFactory
from steersman.theory import returns
from steersman.types import Agent, EnvSpec, Rollout


@dataclass(frozen=True)
class A2CConfig(ConstraintConfig, ActorCriticLossConfig, OnPolicyConfig):
    """Settings of A2C."""

    unroll_length: int = 8
    """Steps of each environment between two updates (T)."""
    learning_rate: float = 1e-3
    """Adam's step size at the start."""
    gae_lambda: float = 1.0
    """Lambda of the advantage estimate: 1 bootstraps at the rollout's end only, 0 after one step."""
    n_step: int | None = None
    """Rewards in a target before it bootstraps (n); none: up to the rollout's end."""
    normalize_advantages: bool = False
    """Standardise advantages within the rollout."""

    rules = Rules(at_least_one=("n_step",), fraction=("gae_lambda",))


def estimator(config: A2CConfig, constraint: Constraint = UNLIMITED) -> Estimate:
    """Advantages and value targets: lambda- or n-step returns, less V(obs)."""

    def estimate(rollout: Rollout, log_prob: jax.Array, v_tm1: jax.Array, v_t: jax.Array) -> Estimates:
        if config.n_step is None:
            target = lambda_targets(rollout, v_t, config.gamma, config.gae_lambda, constraint)
        else:
            r_t, discount_t, lambda_t = constraint.signals(rollout, config.gamma, config.gae_lambda)
            target = returns.n_step_returns(r_t, discount_t, v_t, config.n_step, lambda_t)
        return Estimates(target - v_tm1, target)

    return estimate


def a2c(
    config: A2CConfig, spec: EnvSpec, *, budget: int | None = None, network: ActorCriticFactory | None = None
) -> Agent:
    """A2C as an agent for an environment.

    network: ``(key, spec) -> module``, the module mapping one observation to ``(distribution, value)``; by default
    ``nets.actor_critic.ActorCritic`` as the config says. Raises UsageError for actions that no policy head serves, and
    for limits that are not the environment's.
    """
    constraint = constraint_of("A2C", config, spec)
    make = network_maker("A2C", config, spec, network, heads=constraint.heads)
    agent = policy_gradient_agent(config, make, estimator(config, constraint), budget, constraint)
    return normalised(agent, config)


ALGORITHM = on_policy(
    "a2c", A2CConfig, a2c, "advantage actor-critic: one gradient step a rollout, lambda- or n-step advantages"
)
