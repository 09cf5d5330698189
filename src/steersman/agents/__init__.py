"""The algorithms: one file each, holding its Config, its State and its factory. ``ALGORITHMS`` lists them."""

from __future__ import annotations

from steersman.agents.a2c import A2CConfig, a2c
from steersman.agents.actor_critic import ActorCriticConfig, actor_critic
from steersman.agents.checks import check_minibatches
from steersman.agents.impala import ImpalaConfig, impala
from steersman.agents.on_policy import first_length
from steersman.agents.ppo import PPOConfig, ppo
from steersman.agents.reinforce import ReinforceConfig, check_environments, reinforce
from steersman.agents.trpo import TRPOConfig, trpo
from steersman.errors import UsageError, nearest
from steersman.types import Algorithm

ALGORITHMS: dict[str, Algorithm] = {
    a.name: a
    for a in (
        Algorithm(
            "ppo",
            PPOConfig,
            ppo,
            "proximal policy optimisation: clipped or KL-penalised, any action space",
            first_length=first_length,
            check=lambda c, num_envs: check_minibatches(c.unroll_length, num_envs, c.num_minibatches),
        ),
        Algorithm(
            "reinforce",
            ReinforceConfig,
            reinforce,
            "Monte-Carlo policy gradient: whole returns or reward-to-go, with or without a baseline",
            first_length=first_length,
            check=check_environments,
        ),
        Algorithm(
            "a2c",
            A2CConfig,
            a2c,
            "advantage actor-critic: one gradient step a rollout, lambda- or n-step advantages",
            first_length=first_length,
            check=lambda c, num_envs: None,
        ),
        Algorithm(
            "actor_critic",
            ActorCriticConfig,
            actor_critic,
            "online actor-critic: one transition at a time, Q or TD-error form, eligibility traces",
            first_length=first_length,
            check=lambda c, num_envs: None,
        ),
        Algorithm(
            "trpo",
            TRPOConfig,
            trpo,
            "trust region policy optimisation, natural policy gradient: an exact limit on the KL of each update",
            first_length=first_length,
            check=lambda c, num_envs: check_minibatches(c.unroll_length, num_envs, c.num_minibatches),
        ),
        Algorithm(
            "impala",
            ImpalaConfig,
            impala,
            "actor-critic with V-trace: learns from a policy some updates old",
            first_length=first_length,
            check=lambda c, num_envs: None,
        ),
    )
}


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name, or UsageError with the nearest names."""
    if name not in ALGORITHMS:
        offer = nearest(name, ALGORITHMS)
        raise UsageError(f"There is no algorithm {name!r}. {offer or 'Known: ' + ', '.join(sorted(ALGORITHMS)) + '.'}")
    return ALGORITHMS[name]
