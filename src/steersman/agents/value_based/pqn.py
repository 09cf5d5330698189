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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from steersman import shards
from steersman.agents.parts.algorithms import on_policy, whole_minibatches
from steersman.agents.parts.checks import check_config, check_discrete
from steersman.agents.parts.minibatches import shuffled_minibatches
from steersman.agents.parts.training import clipped_radam, packed
from steersman.agents.parts.wrappers import normalised
from steersman.nets.encoders import ENCODERS
from steersman.nets.layers.mlp import ACTIVATIONS
from steersman.nets.value import QNetwork, QNetworkFactory
from steersman.spaces import MASK
from steersman.theory import exploration, returns, trees
from steersman.theory.distributions import masked
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class PQNConfig:
    """Settings of PQN; the defaults are the paper's for MinAtar, with num_envs = 128."""

    unroll_length: int = 32
    """Steps of each environment between two updates (T)."""
    num_epochs: int = 2
    """Passes over the rollout in one update."""
    num_minibatches: int = 32
    """Minibatches in one pass; it must divide unroll_length * num_envs."""
    learning_rate: float = 5e-4
    """RAdam's step size at the start."""
    anneal_learning_rate: bool = True
    """Let the learning rate fall linearly to zero over the run."""
    gamma: float = 0.99
    """Discount factor."""
    q_lambda: float = 0.65
    """Lambda of the targets: 0 is one-step Q-learning, 1 the Monte-Carlo return of what was played."""
    epsilon_start: float = 1.0
    """Probability of a random action at the start."""
    epsilon_end: float = 0.05
    """Probability of a random action after the schedule; evaluation is greedy."""
    epsilon_fraction: float = 0.1
    """Share of the run over which epsilon falls linearly; without a schedule it is epsilon_end throughout."""
    max_grad_norm: float = 10.0
    """Clip the norm of the whole gradient to this."""
    normalize_observations: bool = False
    """Standardise observations by running moments, saved with the policy."""
    scale_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers (after the convolutions, for images; may be empty there)."""
    activation: str = "relu"
    """Of the hidden layers: tanh, relu, elu, silu or gelu."""
    encoder: str = "auto"
    """What reads images: auto, flatten, nature, impala or minatar."""
    layer_norm: bool = True
    """Normalise every layer (LayerNorm); without it Q-learning without a target network diverges easily."""

    def __post_init__(self) -> None:
        check_config(
            self,
            at_least_one=("unroll_length", "num_epochs", "num_minibatches"),
            positive=("learning_rate", "max_grad_norm"),
            fraction=("gamma", "q_lambda", "epsilon_start", "epsilon_end", "epsilon_fraction"),
            choices={"activation": tuple(ACTIVATIONS), "encoder": ENCODERS},
            sizes=("hidden_sizes",),
        )


class PQNState(NamedTuple):
    """What PQN learns and remembers."""

    params: PyTree  # the network
    optimiser: PyTree  # RAdam's moments, of the packed parameters
    epsilon: jax.Array  # of the next rollout
    updates: jax.Array  # int32, rollouts absorbed so far


class Batch(NamedTuple):
    """A rollout made ready for the epochs: ``[T, B, ...]``, then ``[M, T * B / M, ...]``."""

    obs: PyTree
    action: jax.Array
    target: jax.Array  # G


def pqn(
    config: PQNConfig, spec: EnvSpec, *, budget: int | None = None, network: QNetworkFactory | None = None
) -> Agent:
    """PQN as an agent for an environment with Discrete actions.

    network: ``(key, spec) -> module``, the module mapping one observation to action values ``[A]``; by default
    ``nets.value.QNetwork`` as the config describes it. Raises UsageError for another action space.
    """
    check_discrete("PQN", spec, network)

    def make_network(key: Key) -> PyTree:
        if network is not None:
            return network(key, spec)
        return QNetwork(
            spec,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            encoder=config.encoder,
            layer_norm=config.layer_norm,
            key=key,
        )

    radam = clipped_radam(config.max_grad_norm)

    def remaining(steps: jax.Array) -> jax.Array:
        """The share of the schedule that is still ahead, from 1 to 0; 1 without a schedule."""
        return 1.0 - jnp.clip(steps / budget, 0.0, 1.0) if budget else jnp.ones(())

    def epsilon(steps: jax.Array) -> jax.Array:
        over = config.epsilon_fraction * (budget or 0)
        return exploration.linear(steps, config.epsilon_start, config.epsilon_end, over)

    def init(key: Key, first_rollout: Rollout) -> PQNState:
        params = make_network(key)
        return PQNState(params, radam.init(packed(params)[0]), epsilon(jnp.float32(0.0)), jnp.zeros((), jnp.int32))

    def act(state: PQNState, carry, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        q = jax.vmap(state.params)(obs)
        if not explore:
            return jnp.argmax(legal(q, obs), axis=-1).astype(jnp.int32), carry, {}
        policy = exploration.epsilon_greedy(q, state.epsilon, mask_of(obs))
        keys = shards.member_keys(key, first.shape[0])
        return jax.vmap(lambda p, k: p.sample(k))(policy, keys), carry, {}

    def greedy_value(params: PyTree, obs: PyTree) -> jax.Array:
        """max_a Q(obs, a), ``[T, B, ...] -> [T, B]``, a minibatch's worth at a time: images take memory."""
        length, num_envs = jax.tree.leaves(obs)[0].shape[:2]
        flat = jax.tree.map(lambda x: jnp.asarray(x).reshape(length * num_envs, *x.shape[2:]), obs)
        value = lambda one: jnp.max(legal(params(one), one))
        size = length * num_envs // config.num_minibatches
        return jax.lax.map(value, flat, batch_size=size).reshape(length, num_envs)

    def loss(params: PyTree, batch: Batch) -> tuple[jax.Array, Metrics]:
        q = trees.take(jax.vmap(params)(batch.obs), batch.action)
        error = q - batch.target
        value = 0.5 * jnp.square(error).mean()
        return value, {"loss": value, "q": q.mean(), "td_error": jnp.abs(error).mean()}

    def update(state: PQNState, rollout: Rollout, key: Key) -> tuple[PQNState, Metrics]:
        length, num_envs = rollout.reward.shape
        taken = length * num_envs * shards.shard_count()
        steps = state.updates.astype(jnp.float32) * taken
        learning_rate = config.learning_rate * (remaining(steps) if config.anneal_learning_rate else jnp.ones(()))

        v_t = greedy_value(state.params, rollout.next_obs)
        discount_t = returns.discounts(rollout.terminated, config.gamma)
        lambda_t = returns.trace_decays(rollout.truncated, config.q_lambda)
        target = returns.lambda_returns(rollout.reward, discount_t, v_t, lambda_t)
        whole = Batch(rollout.obs, jnp.asarray(rollout.action), target)

        def step(carry, batch: Batch):
            params, optimiser = carry
            gradient, metrics = jax.grad(loss, has_aux=True)(unpack(params), batch)
            gradient, metrics = shards.cross_mean((packed(gradient)[0], metrics))
            metrics["grad_norm"] = optax.tree.norm(gradient)
            direction, optimiser = radam.update(gradient, optimiser)
            params = jax.tree.map(lambda p, d: p - learning_rate * d, params, direction)
            return (params, optimiser), metrics

        def epoch(carry, key: Key):
            return jax.lax.scan(step, carry, shuffled_minibatches(key, whole, config.num_minibatches))

        start, unpack = packed(state.params)
        (params, optimiser), metrics = jax.lax.scan(
            epoch, (start, state.optimiser), jax.random.split(key, config.num_epochs)
        )
        metrics = {name: value.mean() for name, value in metrics.items()}
        metrics |= {"epsilon": state.epsilon, "learning_rate": learning_rate}
        return PQNState(unpack(params), optimiser, epsilon(steps + taken), state.updates + 1), metrics

    return normalised(Agent(init, lambda num_envs: (), act, update), config)


def mask_of(obs: PyTree) -> jax.Array | None:
    """The legal actions of an observation that says them, ``[..., A]``; else None: all are."""
    return obs[MASK] if isinstance(obs, dict) and MASK in obs else None


def legal(q: jax.Array, obs: PyTree) -> jax.Array:
    """Action values with those of illegal actions made impossible."""
    mask = mask_of(obs)
    return q if mask is None else masked(q, mask)


ALGORITHM = on_policy(
    "pqn",
    PQNConfig,
    pqn,
    "parallelised Q-network: Q(lambda) from many environments, no replay, no target network; discrete actions",
    whole_minibatches,
)
