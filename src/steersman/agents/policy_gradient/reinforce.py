"""REINFORCE (Williams 1992; Sutton and Barto 2018, sections 13.3 and 13.4): Monte-Carlo policy gradient.

One update, from a rollout of T steps of B environments, is one Adam step up the mean over the rollout's steps of

    w_t [log pi(a_t|s_t) (G_t - b)] + c_e entropy

    whole         G_t = sum_{k=0}^{end} gamma^k r_k: the return of the whole episode, for each of its actions
    reward-to-go  G_t = sum_{k=t}^{end} gamma^{k-t} r_k: what came after the action; w_t = gamma^t by choice
    b             none: 0;  constant: the mean G of the other environments;  value: V(s_t), learned by (V - G)^2 / 2

**Whole episodes only.** A rollout of fixed length cuts episodes at both ends. Learning from those that happen to be
complete would favour short ones: an episode near the rollout's end counts only if it is over soon. So an episode counts
if *any* episode that begins where it does would be complete: it begins in the rollout, ``max_episode_steps`` or more
before its end. Whether it counts is known before its first action, so by Wald's identity the expected sum over the
episodes that count is their expected number times the gradient of one: the update, which divides by T B, is unbiased up
to that factor. unroll_length must be at least 2 max_episode_steps - 1, so that every environment has one that counts;
about 1 - max_episode_steps / unroll_length of the steps do.

Details: a constant baseline is computed without the environment's own episodes, so no return is in its own baseline;
with ``whole`` every G_t has weight one, and that is the gradient of the discounted start value exactly, as is
reward-to-go with ``discount_states`` (without, as is usual, late steps count as much as early ones). An episode that
the clock truncates goes on with V where b is V; without a critic its return is what was seen. Network, initialisation
and Adam as PPO's.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.agents.parts.algorithms import on_policy
from steersman.agents.parts.config import ActorCriticLossConfig
from steersman.agents.parts.wrappers import normalised
from steersman.agents.policy_gradient.common import (
    Estimate,
    Estimates,
    OnPolicyConfig,
    network_maker,
    policy_gradient_agent,
)
from steersman.config import Rules
from steersman.errors import UsageError
from steersman.nets.actor_critic import ActorCriticFactory
from steersman.theory import returns
from steersman.types import Agent, EnvSpec, Rollout


@dataclass(frozen=True)
class ReinforceConfig(ActorCriticLossConfig, OnPolicyConfig):
    """Settings of REINFORCE."""

    unroll_length: int = 2048
    """Steps of each environment between two updates (T): at least twice the longest episode."""
    learning_rate: float = 5e-3
    """Adam's step size at the start."""
    returns: str = "reward-to-go"
    """What an action is credited with: whole (the episode's return) or reward-to-go."""
    baseline: str = "value"
    """Subtracted from the return: none, constant (the other environments' mean) or value (learned)."""
    discount_states: bool = False
    """Weigh step t of an episode by gamma^t, as the gradient of the discounted return does (reward-to-go)."""
    normalize_advantages: bool = False
    """Standardise advantages within the rollout: less variance, a little bias."""

    rules = Rules(choices={"returns": ("whole", "reward-to-go"), "baseline": ("none", "constant", "value")})


def check_environments(config: ReinforceConfig, num_envs: int) -> None:
    """Raise UsageError where a constant baseline has no other environment to come from."""
    if config.baseline == "constant" and num_envs < 2:
        raise UsageError(
            "REINFORCE: baseline = 'constant' is the mean return of the other environments, and num_envs is 1. Set "
            "num_envs to 2 or more, or baseline to none or value."
        )


def check_episodes(config: ReinforceConfig, spec: EnvSpec) -> int:
    """The longest episode; raises UsageError where it is not known or too long for the rollout."""
    longest = spec.max_episode_steps
    if longest is None:
        raise UsageError(
            f"REINFORCE learns from whole episodes and has to know how long one can be; {spec.id} has no "
            "max_episode_steps. Give it a time limit (envs.wrappers.time_limit), or train a2c, which needs none."
        )
    if config.unroll_length < 2 * longest - 1:
        raise UsageError(
            f"REINFORCE learns from whole episodes: unroll_length = {config.unroll_length} is too short for {spec.id}, "
            f"whose episodes take up to {longest} steps. Set unroll_length to {2 * longest} or more, or train a2c."
        )
    return longest


def whole_episodes(first: jax.Array, longest: int) -> jax.Array:
    """Which steps [T, B] are of an episode that counts: begun in the rollout, ``longest`` steps before its end."""
    time = jnp.broadcast_to(jnp.arange(first.shape[0], dtype=jnp.int32)[:, None], first.shape)
    began = jax.lax.cummax(jnp.where(first, time, -1), axis=0)
    return (began >= 0) & (began <= first.shape[0] - longest)


def estimator(config: ReinforceConfig, longest: int) -> Estimate:
    """Returns less their baseline, and the weights of the steps; ``longest``: the steps of the longest episode."""

    def estimate(rollout: Rollout, log_prob: jax.Array, v_tm1: jax.Array, v_t: jax.Array) -> Estimates:
        first = jnp.asarray(rollout.first)
        counts = whole_episodes(first, longest).astype(jnp.float32)
        learned = config.baseline == "value"
        discount_t = returns.discounts(rollout.terminated, config.gamma)
        lambda_t = returns.trace_decays(rollout.truncated, 1.0)
        value = v_t if learned else jnp.zeros_like(v_t)  # what a truncated episode goes on with
        g_t = returns.discounted_returns(rollout.reward, discount_t, value, lambda_t)
        target = g_t if learned else None
        if config.returns == "whole":
            g_t = returns.at_episode_start(g_t, first)
        match config.baseline:
            case "value":
                baseline = v_tm1
            case "constant":
                baseline = leave_one_out_mean(g_t, counts)
            case _:
                baseline = jnp.zeros_like(g_t)
        advantage = g_t - baseline
        if config.discount_states and config.returns == "reward-to-go":
            advantage = advantage * returns.episode_discounts(first, config.gamma)
        return Estimates(advantage, target, counts)

    return estimate


def leave_one_out_mean(x: jax.Array, weight: jax.Array) -> jax.Array:
    """The weighted mean of x [T, B] over all environments but one, on all shards: [1, B]; 0 where there is no other."""
    sums, weights = (weight * x).sum(0), weight.sum(0)
    total, count = shards.cross_sum((sums.sum(), weights.sum()))
    return ((total - sums) / jnp.maximum(count - weights, 1.0))[None, :]


def reinforce(
    config: ReinforceConfig, spec: EnvSpec, *, budget: int | None = None, network: ActorCriticFactory | None = None
) -> Agent:
    """REINFORCE as an agent for an environment.

    network: ``(key, spec) -> module``, the module mapping one observation to ``(distribution, value)``; by default
    ``nets.actor_critic.ActorCritic`` as the config says. Raises UsageError for actions that no policy head serves,
    and where episodes are unlimited or too long for ``unroll_length``.
    """
    longest = check_episodes(config, spec)
    make = network_maker("REINFORCE", config, spec, network)
    return normalised(policy_gradient_agent(config, make, estimator(config, longest), budget), config)


ALGORITHM = on_policy(
    "reinforce",
    ReinforceConfig,
    reinforce,
    "Monte-Carlo policy gradient: whole returns or reward-to-go, with or without a baseline",
    check_environments,
)
