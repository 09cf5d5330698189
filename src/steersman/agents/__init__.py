"""The algorithms: one file each, holding its Config, its State and its factory. ``ALGORITHMS`` lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steersman.agents.off_policy.crossq import CrossQConfig, crossq
from steersman.agents.off_policy.ddpg import DDPGConfig, ddpg
from steersman.agents.off_policy.sac import SACConfig, sac
from steersman.agents.off_policy.td3 import TD3Config, td3
from steersman.agents.off_policy.tqc import TQCConfig, tqc
from steersman.agents.offline.bc import BCConfig, bc
from steersman.agents.offline.iql import IQLConfig, iql
from steersman.agents.parts.checks import check_minibatches
from steersman.agents.parts.with_replay import check_replay, first_rows
from steersman.agents.policy_gradient.a2c import A2CConfig, a2c
from steersman.agents.policy_gradient.actor_critic import ActorCriticConfig, actor_critic
from steersman.agents.policy_gradient.common import first_length
from steersman.agents.policy_gradient.impala import ImpalaConfig, impala
from steersman.agents.policy_gradient.ppo import PPOConfig, ppo
from steersman.agents.policy_gradient.reinforce import ReinforceConfig, check_environments, reinforce
from steersman.agents.policy_gradient.trpo import TRPOConfig, trpo
from steersman.agents.value_based.dqn import DQNConfig, dqn
from steersman.agents.value_based.pqn import PQNConfig, pqn
from steersman.errors import UsageError, nearest
from steersman.types import Agent, Algorithm


def _replayed(name: str, config: type, factory: Callable[..., Agent], summary: str) -> Algorithm:
    """An algorithm that learns from replay: a random policy fills it first, and one seed trains on one device."""

    def check(c: Any, num_envs: int) -> None:
        check_replay(c.update_ratio, c.unroll_length, num_envs, c.replay_capacity)

    def first_length(c: Any, num_envs: int) -> int:
        return first_rows(c.learning_starts, num_envs)

    return Algorithm(name, config, factory, summary, first_length, check, data="start", shardable=False)


def _offline(name: str, config: type, factory: Callable[..., Agent], summary: str) -> Algorithm:
    """An algorithm that learns from recorded transitions alone; the environment is for its evaluation."""
    one, nothing = (lambda c, num_envs: 1), (lambda c, num_envs: None)
    return Algorithm(name, config, factory, summary, one, nothing, data="only", shardable=False)


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
        Algorithm(
            "pqn",
            PQNConfig,
            pqn,
            "parallelised Q-network: Q(lambda) from many environments, no replay, no target network; discrete actions",
            first_length=first_length,
            check=lambda c, num_envs: check_minibatches(c.unroll_length, num_envs, c.num_minibatches),
        ),
        _replayed("dqn", DQNConfig, dqn, "deep Q-learning, all of Rainbow as switches: discrete actions, replay"),
        _replayed("ddpg", DDPGConfig, ddpg, "deep deterministic policy gradient: continuous actions, replay"),
        _replayed("td3", TD3Config, td3, "twin delayed DDPG: continuous actions, replay"),
        _replayed("sac", SACConfig, sac, "soft actor-critic: continuous or discrete actions, replay"),
        _replayed("tqc", TQCConfig, tqc, "truncated quantile critics: SAC with return distributions"),
        _replayed("crossq", CrossQConfig, crossq, "CrossQ: SAC with batch renormalisation, without target networks"),
        _offline("bc", BCConfig, bc, "behaviour cloning: imitates recorded actions, any action space"),
        _offline("iql", IQLConfig, iql, "implicit Q-learning: the best policy that recorded transitions support"),
    )
}


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name, or UsageError with the nearest names."""
    if name not in ALGORITHMS:
        offer = nearest(name, ALGORITHMS)
        raise UsageError(f"There is no algorithm {name!r}. {offer or 'Known: ' + ', '.join(sorted(ALGORITHMS)) + '.'}")
    return ALGORITHMS[name]
