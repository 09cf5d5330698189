"""Implicit Q-learning (Kostrikov et al. 2021, arXiv:2110.06169): the best policy that recorded data supports.

Q is never asked about an action that is not in the data. One gradient step, from a batch of N recorded transitions, K
critics with targets Qbar, gamma_t = gamma (1 - terminated):

1. Value: one Adam step on mean |tau - 1(u < 0)| u^2, u = min_k Qbar_k(s, a) - V(s), no gradient through Qbar. V is an
   upper expectile, over the actions of the data, of Q: near the best of them as tau -> 1.
2. Policy: one Adam step on -mean w log pi(a|s), w = min(exp(beta (min_k Qbar_k(s, a) - V(s))), 100), V the one just
   updated: the data's actions, imitated by how much better than V they are.
3. Critics: one Adam step on sum_k mean (r + gamma_t V(s') - Q_k(s, a))^2 / 2, with that V. A truncated step bootstraps
   like any other, from its true successor.
4. Qbar <- Qbar + rate (Q - Qbar).

Details: order and constants as the authors' code; any action space with a policy (discrete actions: a critic has an
output for each). The normal policy has a state-independent log-std within [-5, 2]; its mean is not squashed (theirs is,
by tanh), and the actor's step size is constant (theirs follows a cosine). Orthogonal initialisation, gain sqrt(2)
hidden, 0.01 policy's head, 1 critics' and value's; Adam with eps 1e-8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.off_policy import common as off_policy
from steersman.agents.offline import common
from steersman.agents.offline.common import OfflineConfig
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import offline
from steersman.agents.parts.config import RewardScalingConfig, TargetConfig
from steersman.agents.parts.replay.with_replay import BatchLearner
from steersman.agents.parts.training import Trained
from steersman.agents.parts.wrappers import normalised
from steersman.config import Rules
from steersman.memory import Sample
from steersman.nets.critics import ActionValue, Critic, StateValue, ensemble
from steersman.theory import surrogates, trees
from steersman.theory.values import expectile_loss, td_error
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class IQLConfig(TargetConfig, RewardScalingConfig, OfflineConfig):
    """Settings of IQL; the defaults are those of the authors for MuJoCo."""

    gamma: float = 0.99
    """Discount factor."""
    expectile: float = 0.7
    """tau, of Q over the data's actions: 0.5 their mean, towards 1 their best."""
    inverse_temperature: float = 3.0
    """beta: 0 imitates all actions alike, a large one only the best."""
    largest_weight: float = 100.0
    """Most that an action can count in the policy's loss."""
    num_critics: int = 2
    """Critics in the ensemble (K); what V learns from is their minimum."""

    rules = Rules(
        at_least_one=("num_critics",),
        positive=("expectile", "largest_weight"),
        non_negative=("inverse_temperature",),
        fraction=("gamma", "expectile"),
    )


class IQLState(NamedTuple):
    """What IQL learns."""

    actor: Trained
    critics: Trained  # leaves [K, ...]
    targets: PyTree  # Qbar, leaves [K, ...]
    value: Trained
    steps: jax.Array  # uint32, gradient steps taken


def iql(
    config: IQLConfig, spec: EnvSpec, *, budget: int | None = None, network: Callable[..., Any] | None = None
) -> Agent:
    """IQL as an agent that learns from recorded data alone: ``update`` is given a memory of it.

    network: ``(key, spec) -> policy``, a module ``obs -> distribution``, in place of ``nets.actors.StochasticActor``.
    """
    return common.from_data(
        normalised(iql_learner(config, spec, budget=budget, network=network), config), config, config.gamma
    )


def iql_learner(
    config: IQLConfig, spec: EnvSpec, *, budget: int | None = None, network: Callable[..., Any] | None = None
) -> BatchLearner:
    """IQL as a learner from batches."""
    make, shape = common.policy_maker("IQL", config, spec, network), config.network
    adam = training.adam(max_grad_norm=config.max_grad_norm, flat=0)

    def init(key: Key, first_rollout: Rollout) -> IQLState:
        actor_key, critic_key, value_key = jax.random.split(key, 3)
        critics = ensemble(lambda key: ActionValue(Critic(spec, **shape, key=key)), critic_key, config.num_critics)
        return IQLState(
            training.trained(adam, make(actor_key)),
            training.trained(adam, critics),
            training.copied(critics),
            training.trained(adam, StateValue(spec, **shape, key=value_key)),
            jnp.zeros((), jnp.uint32),
        )

    def learn(state: IQLState, sample: Sample, key: Key) -> tuple[IQLState, jax.Array, Metrics]:
        batch, weight = sample.batch, sample.weight
        q = off_policy.values(state.targets, batch.obs, batch.action).min(0)  # [N]

        rate = training.annealed(config, budget, state.steps)

        def value_loss(value: PyTree):
            loss = (weight * expectile_loss(q - jax.vmap(value)(batch.obs), config.expectile)).mean()
            return loss, loss

        value, loss, _ = training.descend(adam, value_loss, state.value, rate)
        v_tm1, v_t = jax.vmap(value.params)(batch.obs), jax.vmap(value.params)(batch.next_obs)
        imitate = surrogates.advantage_weight(q - v_tm1, config.inverse_temperature, config.largest_weight)

        def actor_loss(policy: PyTree):
            log_prob, _ = common.log_likelihood(policy, batch.obs, batch.action)
            loss = surrogates.policy_gradient_loss(log_prob, weight * imitate).mean()
            return loss, loss

        actor, imitation, _ = training.descend(adam, actor_loss, state.actor, rate)

        def critic_loss(critics: PyTree):
            q_tm1 = off_policy.values(critics, batch.obs, batch.action)  # [K, N]
            error = td_error(q_tm1, batch.reward[None], sample.discount[None], v_t[None])
            loss = (weight[None] * 0.5 * jnp.square(error)).mean(1).sum()
            return loss, (loss, error)

        critics, (td, error), _ = training.descend(adam, critic_loss, state.critics, rate)
        targets = trees.polyak(state.targets, critics.params, config.tau)
        metrics = {"loss": loss + imitation + td, "value_loss": loss, "policy_loss": imitation, "critic_loss": td}
        metrics |= {"q": q.mean(), "value": v_tm1.mean(), "weight": imitate.mean()}
        return IQLState(actor, critics, targets, value, state.steps + 1), jnp.abs(error).mean(0), metrics

    return BatchLearner(init, lambda num_envs: (), common.act, learn)


ALGORITHM = offline("iql", IQLConfig, iql, "implicit Q-learning: the best policy that recorded transitions support")
