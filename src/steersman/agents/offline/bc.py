"""Behaviour cloning (Pomerleau 1991): the policy under which the recorded actions are most likely.

One gradient step, from a batch of N recorded transitions: one Adam step on

    loss = -mean log pi(a | s)

for any distribution over actions: cross-entropy where they are discrete, a normal's likelihood where they are not. It
never sees a reward and can be no better than who acted; where its errors lead to states that the data has not, they add
up over an episode (Ross and Bagnell 2010).

Details: Categorical, MultiCategorical, Bernoulli, or a normal with a state-independent log-std within [-5, 2], its mean
not squashed (the environment's door clips); greedy evaluation takes the mode. Orthogonal initialisation, gain sqrt(2)
hidden, 0.01 head; Adam with eps 1e-8; no weight decay, dropout or early stopping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.offline import common
from steersman.agents.offline.common import OfflineConfig
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import offline
from steersman.agents.parts.replay.with_replay import BatchLearner
from steersman.agents.parts.training import Trained
from steersman.agents.parts.wrappers import with_observation_norm
from steersman.memory import Sample
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class BCConfig(OfflineConfig):
    """Settings of behaviour cloning."""


class BCState(NamedTuple):
    """What behaviour cloning learns."""

    actor: Trained
    steps: jax.Array  # uint32, gradient steps taken


def bc(
    config: BCConfig, spec: EnvSpec, *, budget: int | None = None, network: Callable[..., Any] | None = None
) -> Agent:
    """Behaviour cloning as an agent that learns from recorded data alone: ``update`` is given a memory of it.

    network: ``(key, spec) -> policy``, a module ``obs -> distribution``, in place of ``nets.actors.StochasticActor``.
    """
    learner = bc_learner(config, spec, budget=budget, network=network)
    return common.from_data(with_observation_norm(learner) if config.normalize_observations else learner, config)


def bc_learner(
    config: BCConfig, spec: EnvSpec, *, budget: int | None = None, network: Callable[..., Any] | None = None
) -> BatchLearner:
    """Behaviour cloning as a learner from batches."""
    make = common.policy_maker("Behaviour cloning", config, spec, network)
    adam = training.adam(max_grad_norm=config.max_grad_norm, flat=0)

    def init(key: Key, first_rollout: Rollout) -> BCState:
        return BCState(training.trained(adam, make(key)), jnp.zeros((), jnp.uint32))

    def learn(state: BCState, sample: Sample, key: Key) -> tuple[BCState, jax.Array, Metrics]:
        batch = sample.batch

        def loss(policy: PyTree) -> tuple[jax.Array, Any]:
            log_prob, distribution = common.log_likelihood(policy, batch.obs, batch.action)
            value = -(sample.weight * log_prob).mean()
            return value, (value, log_prob, distribution.entropy().mean())

        rate = training.annealed(config, budget, state.steps)
        actor, (value, log_prob, entropy), _ = training.descend(adam, loss, state.actor, rate)
        return BCState(actor, state.steps + 1), jnp.abs(log_prob), {"loss": value, "entropy": entropy}

    return BatchLearner(init, lambda num_envs: (), common.act, learn)


ALGORITHM = offline("bc", BCConfig, bc, "behaviour cloning: imitates recorded actions, any action space")
