"""What agents share that learn from recorded transitions alone: settings, a policy to imitate with, and its training.

Such an agent is a learner from batches of a memory that never grows and is no part of its state: a loop over data holds
it, and hands it to every update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from steersman import shards
from steersman.agents.parts import config as groups
from steersman.agents.parts import own_networks
from steersman.agents.parts.checks import check_network
from steersman.agents.parts.replay.with_replay import BatchLearner
from steersman.config import Rules
from steersman.memory import uniform
from steersman.nets.actors import StochasticActor
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree


@dataclass(frozen=True)
class OfflineConfig(groups.ObservationNormConfig, groups.NetworkConfig, groups.OptimiserConfig):
    """Settings of every agent that learns from recorded transitions alone."""

    batch_size: int = 256
    """Transitions in one gradient step (N)."""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of every network (after the convolutions, for images)."""
    activation: str = "relu"
    """Of the hidden layers: tanh, relu, elu, silu or gelu."""

    rules = Rules(at_least_one=("batch_size",))


def from_data(learner: BatchLearner, config: OfflineConfig, gamma: float = 1.0) -> Agent:
    """The agent whose ``update(S, memory, key)`` is one gradient step, on a batch out of a ``memory.uniform``."""
    sample = uniform(1, config.batch_size, gamma=gamma).sample  # out of a memory of any capacity

    def update(state: PyTree, memory: PyTree, key: Key) -> tuple[PyTree, Metrics]:
        sample_key, learn_key = jax.random.split(key)
        state, _, metrics = learner.learn(state, sample(memory, sample_key), learn_key)
        return state, metrics

    return Agent(learner.init, learner.begin, learner.act, update)


def policy_maker(
    algorithm: str, config: OfflineConfig, spec: EnvSpec, network: Callable[..., Any] | None
) -> Callable[[Key], PyTree]:
    """key -> the user's policy, or ``StochasticActor``. Raises UsageError for an action space without a policy."""
    check_network(algorithm, spec, network)
    if network is not None:
        wrong = partial(own_networks.policy, spec)
        return own_networks.own_network(algorithm, spec, network, "obs -> distribution", wrong)
    return lambda key: StochasticActor(spec, **config.network, key=key)


def log_likelihood(policy: Any, obs: PyTree, action: PyTree) -> tuple[jax.Array, Any]:
    """log pi(a|s) of a batch, [N], and the distributions."""
    distribution = jax.vmap(policy)(obs)
    return distribution.log_prob(action), distribution


def act(state: Any, carry: PyTree, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
    """An agent's ``act``, for a state with a trained ``actor``: a sample, or the mode."""
    policy = jax.vmap(state.actor.params)(obs)
    keys = shards.member_keys(key, first.shape[0])
    return jax.vmap(lambda p, k: p.sample(k))(policy, keys) if explore else policy.mode(), carry, {}
