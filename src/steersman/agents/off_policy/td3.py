"""Twin delayed DDPG (Fujimoto et al. 2018, arXiv:1802.09477): DDPG with three additions against overestimation.

One gradient step, from a batch of N transitions out of replay, with the targets mubar and Qbar:

1. Target policy smoothing: a' = clip(mubar(s') + clip(std eps, -c, c), -1, 1).
2. Clipped double Q: y = r + gamma_t min_k Qbar_k(s', a'), one target for both critics, no gradient. gamma_t = gamma
   (1 - terminated): a truncated step bootstraps like any other, from its true successor.
3. Critics: one Adam step on sum_k mean (Q_k(s, a) - y)^2 / 2.
4. Delayed policy: at every ``policy_delay``-th step, one Adam step of the actor on -mean Q_1(s, mu(s)), and all targets
   move: mubar <- mubar + tau (mu - mubar), Qbar likewise.

It acts with mu(s) + std z, clipped to the bounds. With one critic, no smoothing and no delay it is DDPG (a test holds
it to that).

With ``cost_limit`` there are critics of the costs beside those of the reward, and the actor ascends the mix of both
(``off_policy.costs``).

With ``memory`` it learns from sequences (``parts.replay.sequences``): actor and critics remember each by itself, the
actor from what acting had stored, a critic from nothing at the start of a sequence, both through ``burn_in`` steps
first.

Details: as DDPG's; the critics are one module with a leading axis [K].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.off_policy import common
from steersman.agents.off_policy.common import NetworkFactory
from steersman.agents.off_policy.costs import GAINS, cost_learner
from steersman.agents.off_policy.ddpg import DDPGConfig
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import replayed
from steersman.agents.parts.constraint import ConstraintConfig
from steersman.agents.parts.replay.sequences import items_of, with_memory
from steersman.agents.parts.replay.with_replay import BatchLearner
from steersman.agents.parts.training import Trained
from steersman.config import Rules
from steersman.memory import Sample
from steersman.nets.critics import ensemble
from steersman.theory import trees
from steersman.theory.exploration import smoothed
from steersman.theory.values import td_error
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class TD3Config(ConstraintConfig, DDPGConfig):
    """Settings of TD3; the defaults are those usual for MuJoCo."""

    pid_gains: tuple[float, ...] = GAINS
    """Proportional, integral and derivative gain, on the relative error of the episodes that have just ended."""
    num_critics: int = 2
    """Critics in the ensemble (K); the target is their minimum."""
    policy_delay: int = 2
    """Gradient steps of the critics for one of the actor and one move of the targets."""
    target_noise: float = 0.2
    """Standard deviation of the noise that smooths the target policy, in canonical actions."""
    target_noise_clip: float = 0.5
    """Largest size of that noise."""

    rules = Rules(at_least_one=("num_critics", "policy_delay"), non_negative=("target_noise", "target_noise_clip"))


class TD3State(NamedTuple):
    """What TD3 learns."""

    actor: Trained
    critics: Trained  # leaves [K, ...]
    target_actor: PyTree  # mubar
    targets: PyTree  # Qbar, leaves [K, ...]
    updates: jax.Array  # int32, gradient steps taken
    steps: jax.Array  # uint32, environment steps learned from
    costs: Any  # CostCritics; () without a limit


def td3(config: TD3Config, spec: EnvSpec, *, budget: int | None = None, network: NetworkFactory | None = None) -> Agent:
    """TD3 as an agent for an environment with a bounded Box action space.

    network: ``(key, spec) -> (actor, critic)`` in place of ``nets.actors.Actor`` and ``nets.critics.Critic``. Raises
    UsageError for other action spaces.
    """
    return common.replayed(td3_learner(config, spec, budget=budget, network=network), config, spec)


def td3_learner(
    config: TD3Config, spec: EnvSpec, *, budget: int | None = None, network: NetworkFactory | None = None
) -> BatchLearner:
    """TD3 as a learner from batches, for a replay of one's own."""
    common.check_continuous("TD3", spec)
    make_actor, make_critic = common.networks("TD3", config, spec, network, deterministic=True)
    costs, adam = cost_learner("TD3", config, spec, make_critic), common.adam(config)

    def init(key: Key, first_rollout: Rollout) -> TD3State:
        actor_key, critic_key = jax.random.split(key)
        actor, critics = make_actor(actor_key), ensemble(make_critic, critic_key, config.num_critics)
        target_actor, targets = training.copied((actor, critics))
        nets = training.trained(adam, actor), training.trained(adam, critics)
        count, began = jnp.zeros((), jnp.int32), common.began(config)
        return TD3State(*nets, target_actor, targets, count, began, costs.init(critic_key, first_rollout))

    def learn(state: TD3State, sample: Sample, key: Key) -> tuple[TD3State, jax.Array, Metrics]:
        items = items_of(config, sample)
        mean = jax.vmap(state.target_actor)(items.sees(state.target_actor, items.carry)[1]).mode()
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        next_action = smoothed(mean, noise, config.target_noise, config.target_noise_clip)
        after = common.critics_see(state.targets, items)[1]
        q_t = common.values(state.targets, after, next_action)[..., 0].min(0)

        actor_rate, critic_rate = common.rates(config, budget, state.steps)

        def critic_loss(critics: PyTree):
            seen = common.critics_see(critics, items)[0]
            q_tm1 = common.values(critics, seen, common.flat_actions(items.action))[..., 0]  # [K, M]
            error = td_error(q_tm1, items.reward[None], items.discount[None], q_t[None])
            loss = (items.weight[None] * 0.5 * jnp.square(error)).mean(1).sum()
            return loss, (loss, error, q_tm1)

        critics, (loss, error, q), _ = training.descend(adam, critic_loss, state.critics, critic_rate)
        q_of = lambda critics, seen, action: common.values(critics, seen, action)[..., 0]
        priced, told = costs.learn(
            state.costs,
            items,
            critic_rate,
            lambda critics, seen: q_of(critics, seen, common.flat_actions(items.action)),
            lambda critics, seen: q_of(critics, seen, next_action),
        )

        def improve(actor: Trained, target_actor: PyTree, targets: PyTree, priced: Any):
            first = jax.tree.map(lambda x: x[:1], critics.params)
            by_critic, _ = common.critics_see(first, items)

            def actor_loss(params: PyTree):
                action = jax.vmap(params)(items.sees(params, items.carry)[0]).mode()
                loss = -common.values(first, by_critic, action)[0, :, 0]
                at = lambda critics, seen: q_of(critics, seen, action)
                return items.mean(costs.weighed(priced, items, loss, at)), ()

            actor, _, _ = training.descend(adam, actor_loss, actor, actor_rate)
            slow = trees.polyak((target_actor, targets), (actor.params, critics.params), config.tau)
            return actor, *slow, costs.averaged(priced)

        actor, target_actor, targets, priced = training.every(
            config.policy_delay, state.updates, improve, state.actor, state.target_actor, state.targets, priced
        )
        metrics = {"critic_loss": loss, "q": q.mean(), **told}
        learned = TD3State(actor, critics, target_actor, targets, state.updates + 1, state.steps, priced)
        return learned, items.priority(jnp.abs(error).mean(0)), metrics

    begin, act = common.noisy_acting(spec, config.exploration_noise, config.exploration_std)
    learner = BatchLearner(init, begin, act, learn, costs.observe)
    return with_memory(learner, make_actor, lambda state: state.actor.params, make_critic)


ALGORITHM = replayed("td3", TD3Config, td3, "twin delayed DDPG: continuous actions, replay", common.WITH_MEMORY)
