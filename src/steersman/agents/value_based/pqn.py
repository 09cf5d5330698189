"""Parallelised Q-network, PQN (Gallici et al. 2024, arXiv:2407.04811): Q-learning without replay or target network.

One update, from a rollout of T steps of B environments, played epsilon-greedily:

1. Targets, of the network as it is: G_t = r_t + gamma_t [(1 - lambda_t) max_a Q(s_{t+1}, a) + lambda_t G_{t+1}],
   Peng's Q(lambda). gamma_t = 0 where the state is terminal, lambda_t = 0 where the clock cut the episode; the maximum
   is over the legal actions of the *true* successor.
2. For each epoch, for each minibatch: one RAdam step on (Q(s_t, a_t) - G_t)^2 / 2.

What stands in for the two missing parts: layer normalisation, which bounds how far Q-learning can diverge (section 4
of the paper), and many environments, whose steps side by side are the batch that replay would have mixed.

Details that decide returns (the authors' code, github.com/mttga/purejaxql): LayerNorm, then ReLU, after every layer, in
convolutions over the channels of each pixel; RAdam with eps 1e-8; the whole gradient's norm clipped to 10; epsilon
falls linearly over the first tenth of the run, the learning rate over all of it; targets are made once an update, not
once an epoch; every epoch shuffles the time steps of each environment on its own and every minibatch takes its share of
each. Beyond them: orthogonal initialisation (theirs is He's); truncation bootstraps (theirs ends); actions that tie are
equally likely; the trace is not cut where an exploring action was taken (as theirs), so a high lambda wants a low
epsilon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.agents.parts import config as groups
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import on_policy, whole_minibatches
from steersman.agents.parts.minibatches import epochs
from steersman.agents.parts.remembering import beginner, behind_memory, check_own, seen_again, shuffled_sequences
from steersman.agents.parts.training import Trained
from steersman.agents.parts.wrappers import normalised
from steersman.agents.value_based import common
from steersman.config import Rules
from steersman.nets.memory import remembering
from steersman.nets.value import QNetwork, QNetworkFactory
from steersman.theory import returns, trees
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class PQNConfig(
    groups.ExplorationConfig,
    groups.EpochsConfig,
    groups.RewardScalingConfig,
    groups.ObservationNormConfig,
    groups.MemoryConfig,
    groups.NetworkConfig,
    groups.OptimiserConfig,
    groups.RolloutConfig,
):
    """Settings of PQN; the defaults are the paper's for MinAtar, with num_envs = 128, but that observations and rewards
    may be of any size."""

    unroll_length: int = 32
    """Steps of each environment between two updates (T)."""
    num_epochs: int = 2
    """Passes over the rollout in one update."""
    num_minibatches: int = 32
    """Minibatches in one pass; it must divide unroll_length * num_envs."""
    learning_rate: float = 5e-4
    """RAdam's step size at the start."""
    anneal_learning_rate: bool = True
    """Let the step size fall linearly to zero over the run."""
    max_grad_norm: float | None = 10.0
    """Clip the norm of the whole gradient to this; none: as it is."""
    normalize_observations: bool = True
    """Standardise observations by running moments, saved with the policy."""
    scale_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""
    q_lambda: float = 0.65
    """Lambda of the targets: 0 is one-step Q-learning, 1 the Monte-Carlo return of what was played."""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers (after the convolutions, for images; may be empty there)."""
    activation: str = "relu"
    """Of the hidden layers: tanh, relu, elu, silu or gelu."""
    layer_norm: bool = True
    """Normalise every layer (LayerNorm); without it Q-learning without a target network diverges easily."""

    rules = Rules(fraction=("q_lambda",))


class PQNState(NamedTuple):
    """What PQN learns and remembers."""

    params: PyTree  # the network
    optimiser: PyTree  # RAdam's moments
    steps: jax.Array  # uint32, environment steps learned from


class Batch(NamedTuple):
    """A rollout made ready for the epochs: ``[T, B, ...]``, then ``[M, T * B / M, ...]``."""

    obs: PyTree
    action: jax.Array
    target: jax.Array  # G
    recall: Any = ()  # of a network with memory, in a minibatch


def pqn(
    config: PQNConfig, spec: EnvSpec, *, budget: int | None = None, network: QNetworkFactory | None = None
) -> Agent:
    """PQN as an agent for an environment with Discrete actions.

    network: ``(key, spec) -> module``, the module mapping one observation to action values ``[A]``; by default
    ``nets.value.QNetwork`` as the config describes it. Raises UsageError for another action space.
    """
    check_own(config, network)
    own = behind_memory(config, spec, lambda spec, settings, key: QNetwork(spec, **settings, key=key))
    make_network = common.network_maker("PQN", spec, network, own, remembers=True)
    radam = training.radam(max_grad_norm=config.max_grad_norm)

    def init(key: Key, first_rollout: Rollout) -> PQNState:
        return PQNState(*training.trained(radam, make_network(key)), jnp.zeros((), jnp.uint32))

    def act(state: PQNState, carry, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        carry, seen = remembering.step(state.params, carry, obs, first)
        q = jax.vmap(state.params)(seen)
        if not explore:
            action = jnp.argmax(common.legal(q, obs), axis=-1).astype(jnp.int32)
            return action, remembering.acted(state.params, carry, action), {}
        policy = common.explorer(config, q, obs, common.exploration_level(config, budget, state.steps))
        keys = shards.member_keys(key, first.shape[0])
        action = jax.vmap(lambda p, k: p.sample(k))(policy, keys)
        return action, remembering.acted(state.params, carry, action), {}

    def greedy_value(params: PyTree, obs: PyTree) -> jax.Array:
        """max_a Q(obs, a), ``[T, B, ...] -> [T, B]``, a minibatch's worth at a time: images take memory."""
        length, num_envs = jax.tree.leaves(obs)[0].shape[:2]
        flat = jax.tree.map(lambda x: jnp.asarray(x).reshape(length * num_envs, *x.shape[2:]), obs)
        value = lambda one: jnp.max(common.legal(params(one), one))
        size = length * num_envs // config.num_minibatches
        return jax.lax.map(value, flat, batch_size=size).reshape(length, num_envs)

    def loss(params: PyTree, batch: Batch) -> tuple[jax.Array, Metrics]:
        q = jax.vmap(params)(seen_again(params, batch.recall, batch.obs, batch.action))
        q = trees.take(q, batch.action)
        error = q - batch.target
        value = 0.5 * jnp.square(error).mean()
        return value, {"loss": value, "q": q.mean(), "td_error": jnp.abs(error).mean()}

    def update(state: PQNState, rollout: Rollout, key: Key) -> tuple[PQNState, Metrics]:
        rate = training.annealed(config, budget, state.steps)
        seen, carries = remembering.recalled(state.params, rollout)
        v_t = greedy_value(state.params, seen.next_obs)
        discount_t = returns.discounts(rollout.terminated, config.gamma)
        lambda_t = returns.trace_decays(rollout.truncated, config.q_lambda)
        target = returns.lambda_returns(rollout.reward, discount_t, v_t, lambda_t)
        whole = Batch(rollout.obs, jnp.asarray(rollout.action), target)

        def step(net: Trained, batch: Batch):
            net, metrics, norm = training.descend(radam, loss, net, rate, batch)
            return net, metrics | {"grad_norm": norm}

        def minibatches(net: Trained, key: Key) -> Batch:
            batch, recall = shuffled_sequences(
                key, whole, rollout, carries, config.num_minibatches, config.sequence_length
            )
            return batch._replace(recall=recall)

        begun = training.packed(radam, Trained(state.params, state.optimiser))
        net, metrics = epochs(step, begun, minibatches, key, config.num_epochs)
        metrics = {name: value.mean() for name, value in metrics.items()}
        level = common.exploration_level(config, budget, state.steps)
        metrics |= {"exploration": level, "learning_rate": rate}
        return PQNState(*training.unpacked(net), training.counted(state.steps, rollout)), metrics

    return normalised(Agent(init, beginner(make_network), act, update), config)


ALGORITHM = on_policy(
    "pqn",
    PQNConfig,
    pqn,
    "parallelised Q-network: Q(lambda) from many environments, no replay, no target network; discrete actions",
    whole_minibatches,
)
