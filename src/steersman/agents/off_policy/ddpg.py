"""Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv:1509.02971).

One gradient step, from a batch of N transitions out of replay, with the targets mubar and Qbar:

1. Target y = r + gamma_t Qbar(s', mubar(s')), no gradient. gamma_t = gamma (1 - terminated): a truncated step
   bootstraps like any other, from its true successor.
2. Critic: one Adam step on mean (Q(s, a) - y)^2 / 2.
3. Actor: one Adam step on -mean Q(s, mu(s)), through the action (the deterministic policy gradient), with the critic
   just updated.
4. Targets: mubar <- mubar + tau (mu - mubar), Qbar likewise.

It acts with mu(s) + std z, clipped to the bounds, z white, Ornstein-Uhlenbeck or pink noise of unit variance.

With ``memory`` it learns from sequences (``parts.replay.sequences``): actor and critics remember each by itself, the
actor from what acting had stored, a critic from nothing at the start of a sequence, both through ``burn_in`` steps
first.

Details: mu ends in tanh; orthogonal initialisation, gain sqrt(2) hidden, 0.01 actor's head, 1 critic's head, zero
biases; the action enters the critic at its first layer; no weight decay, no normalisation; Adam with eps 1e-8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.off_policy import common
from steersman.agents.off_policy.common import NetworkFactory, OffPolicyConfig
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import replayed
from steersman.agents.parts.config import TargetConfig
from steersman.agents.parts.replay.multi_step import check_correction
from steersman.agents.parts.replay.sequences import items_of, with_memory
from steersman.agents.parts.replay.with_replay import BatchLearner
from steersman.agents.parts.training import Trained
from steersman.config import Rules
from steersman.memory import Sample
from steersman.nets.critics import ensemble
from steersman.theory import trees
from steersman.theory.values import td_error
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class DDPGConfig(TargetConfig, OffPolicyConfig):
    """Settings of DDPG; the defaults are those usual for MuJoCo."""

    learning_rate: float = 1e-3
    """Adam's step size for the actor."""
    exploration_std: float = 0.1
    """Standard deviation of the acting noise, in canonical actions (half the range is 1)."""

    rules = Rules(non_negative=("exploration_std",))

    def __post_init__(self) -> None:
        super().__post_init__()
        name, why = (
            type(self).__name__.removesuffix("Config"),
            "the policy is deterministic, so no stored action is its",
        )
        check_correction(name, self, why)


class DDPGState(NamedTuple):
    """What DDPG learns."""

    actor: Trained
    critics: Trained  # leaves [K, ...], K = 1
    target_actor: PyTree  # mubar
    targets: PyTree  # Qbar
    steps: jax.Array  # uint32, environment steps learned from


def ddpg(
    config: DDPGConfig, spec: EnvSpec, *, budget: int | None = None, network: NetworkFactory | None = None
) -> Agent:
    """DDPG as an agent for an environment with a bounded Box action space.

    network: ``(key, spec) -> (actor, critic)`` in place of ``nets.actors.Actor`` and ``nets.critics.Critic``. Raises
    UsageError for other action spaces.
    """
    return common.replayed(ddpg_learner(config, spec, budget=budget, network=network), config, spec)


def ddpg_learner(
    config: DDPGConfig, spec: EnvSpec, *, budget: int | None = None, network: NetworkFactory | None = None
) -> BatchLearner:
    """DDPG as a learner from batches, for a replay of one's own."""
    common.check_continuous("DDPG", spec)
    make_actor, make_critic = common.networks("DDPG", config, spec, network, deterministic=True)
    adam = common.adam(config)

    def init(key: Key, first_rollout: Rollout) -> DDPGState:
        actor_key, critic_key = jax.random.split(key)
        actor, critics = make_actor(actor_key), ensemble(make_critic, critic_key, 1)
        target_actor, targets = training.copied((actor, critics))
        nets = training.trained(adam, actor), training.trained(adam, critics)
        return DDPGState(*nets, target_actor, targets, common.began(config))

    def learn(state: DDPGState, sample: Sample, key: Key) -> tuple[DDPGState, jax.Array, Metrics]:
        items = items_of(config, sample)
        next_action = jax.vmap(state.target_actor)(items.sees(state.target_actor, items.carry)[1]).mode()
        q_t = common.values(state.targets, common.critics_see(state.targets, items)[1], next_action)[0, :, 0]

        actor_rate, critic_rate = common.rates(config, budget, state.steps)

        def critic_loss(critics: PyTree):
            seen = common.critics_see(critics, items)[0]
            q_tm1 = common.values(critics, seen, common.flat_actions(items.action))[0, :, 0]
            error = td_error(q_tm1, items.reward, items.discount, q_t)
            loss = (items.weight * 0.5 * jnp.square(error)).mean()
            return loss, (loss, error, q_tm1)

        critics, (loss, error, q), _ = training.descend(adam, critic_loss, state.critics, critic_rate)
        by_critic, _ = common.critics_see(critics.params, items)

        def actor_loss(actor: PyTree):
            action = jax.vmap(actor)(items.sees(actor, items.carry)[0]).mode()
            return -items.mean(common.values(critics.params, by_critic, action)[0, :, 0]), ()

        actor, _, _ = training.descend(adam, actor_loss, state.actor, actor_rate)
        target_actor, targets = trees.polyak(
            (state.target_actor, state.targets), (actor.params, critics.params), config.tau
        )
        metrics = {"critic_loss": loss, "q": q.mean()}
        return DDPGState(actor, critics, target_actor, targets, state.steps), items.priority(jnp.abs(error)), metrics

    begin, act = common.noisy_acting(spec, config.exploration_noise, config.exploration_std)
    learner = BatchLearner(init, begin, act, learn, common.observe)
    return with_memory(learner, make_actor, lambda state: state.actor.params, make_critic)


ALGORITHM = replayed(
    "ddpg", DDPGConfig, ddpg, "deep deterministic policy gradient: continuous actions, replay", common.WITH_MEMORY
)
