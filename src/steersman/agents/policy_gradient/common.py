"""What the on-policy agents share: settings, the network, acting, the critic's targets, one step of descent.

``policy_gradient_agent`` is REINFORCE, A2C and IMPALA but for one thing, how a rollout's advantages and value targets
are estimated; that is what their files hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from steersman import shards
from steersman.agents.parts.checks import check_config, check_network
from steersman.agents.parts.minibatches import standardise
from steersman.agents.parts.training import Optimiser, clipped_adam
from steersman.nets.actor_critic import ActorCritic, ActorCriticFactory
from steersman.nets.encoders import ENCODERS
from steersman.nets.layers.mlp import ACTIVATIONS
from steersman.theory import returns, surrogates
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout

Scalar = float | jax.Array


@dataclass(frozen=True)
class OnPolicyConfig:
    """Settings of every on-policy agent; the defaults are general ones for vector observations."""

    unroll_length: int = 128
    """Steps of each environment between two updates (T)."""
    learning_rate: float = 3e-4
    """Adam's step size at the start."""
    anneal_learning_rate: bool = True
    """Let the learning rate fall linearly to zero over the run."""
    gamma: float = 0.99
    """Discount factor."""
    max_grad_norm: float = 0.5
    """Clip the norm of the whole gradient to this."""
    normalize_observations: bool = False
    """Standardise observations by running moments, saved with the policy."""
    scale_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of each trunk's hidden layers (after the convolutions, for images)."""
    activation: str = "tanh"
    """Of the hidden layers: tanh, relu, elu, silu or gelu."""
    encoder: str = "auto"
    """What reads images: auto, flatten, nature, impala or minatar."""
    layer_norm: bool = False
    """Normalise the layers of the trunks (LayerNorm)."""
    share_trunk: bool = False
    """One trunk for policy and value."""
    log_std_init: float = 0.0
    """Log standard deviation of a Gaussian policy at the start."""
    state_dependent_std: bool = False
    """Let the network give the log-std instead of a free parameter."""

    def __post_init__(self) -> None:
        check_config(
            self,
            at_least_one=("unroll_length",),
            positive=("learning_rate", "max_grad_norm"),
            fraction=("gamma",),
            choices={"activation": tuple(ACTIVATIONS), "encoder": ENCODERS},
            sizes=("hidden_sizes",),
        )


class LearnerState(NamedTuple):
    """What an agent with one network and Adam learns and remembers."""

    params: PyTree  # the network
    optimiser: PyTree  # Adam's moments, of the ravelled parameters
    updates: jax.Array  # int32, rollouts absorbed so far


def network_maker(
    name: str, config: OnPolicyConfig, spec: EnvSpec, network: ActorCriticFactory | None
) -> Callable[[Key], PyTree]:
    """key -> the user's network, or ``ActorCritic`` as the config describes it. Raises UsageError for an action space
    that no policy head serves."""
    check_network(name, spec, network)
    if network is not None:
        return lambda key: network(key, spec)
    return lambda key: ActorCritic(
        spec,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        share_trunk=config.share_trunk,
        encoder=config.encoder,
        layer_norm=config.layer_norm,
        log_std_init=config.log_std_init,
        state_dependent_std=config.state_dependent_std,
        key=key,
    )


def act(state: Any, carry: PyTree, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
    """An agent's ``act``, for a state with ``params``: a sample and its log-probability, or the mode."""
    policy, _ = jax.vmap(state.params)(obs)
    if not explore:
        return policy.mode(), carry, {}
    keys = shards.member_keys(key, first.shape[0])
    action = jax.vmap(lambda p, k: p.sample(k))(policy, keys)
    return action, carry, {"log_prob": policy.log_prob(action)}


def evaluate(params: PyTree, rollout: Rollout) -> tuple[Any, jax.Array, jax.Array]:
    """The policy's distributions, V(obs) and V(next_obs), all [T, B], each in one batch."""
    batched = jax.vmap(jax.vmap(params))
    policy, v_tm1 = batched(rollout.obs)
    return policy, v_tm1, batched(rollout.next_obs)[1]


def lambda_targets(rollout: Rollout, v_t: jax.Array, gamma: Scalar, lambda_: Scalar) -> jax.Array:
    """The critic's targets G [T, B], lambda-returns; minus V(obs) they are GAE."""
    discount_t = returns.discounts(rollout.terminated, gamma)
    return returns.lambda_returns(rollout.reward, discount_t, v_t, returns.trace_decays(rollout.truncated, lambda_))


def remaining(budget: int | None, updates: jax.Array, rollout: Rollout) -> jax.Array:
    """The share of the budget of environment steps that is still ahead, from 1 to 0; 1 without a budget."""
    if not budget:
        return jnp.ones(())
    length, num_envs = rollout.reward.shape
    steps = updates.astype(jnp.float32) * (length * num_envs * shards.shard_count())
    return 1.0 - jnp.clip(steps / budget, 0.0, 1.0)


def learning_rate(config: OnPolicyConfig, budget: int | None, updates: jax.Array, rollout: Rollout) -> jax.Array:
    """Adam's step size for this update."""
    share = remaining(budget, updates, rollout) if config.anneal_learning_rate else jnp.ones(())
    return jnp.asarray(config.learning_rate * share)


def descend(
    adam: Optimiser,
    loss: Callable[..., tuple[jax.Array, Metrics]],
    unravel: Callable[[jax.Array], PyTree],
    rate: Scalar,
) -> Callable[..., tuple[jax.Array, PyTree, Metrics]]:
    """``(parameters [P], Adam's moments, *batch) -> (the same after one step down loss(params, *batch), metrics)``."""

    def step(vector: jax.Array, optimiser: PyTree, *batch: Any) -> tuple[jax.Array, PyTree, Metrics]:
        gradient, metrics = jax.grad(loss, has_aux=True)(unravel(vector), *batch)
        # One ravelled vector: one collective and a few large operations, not several per parameter.
        gradient, metrics = shards.cross_mean((ravel_pytree(gradient)[0], metrics))
        metrics["grad_norm"] = jnp.linalg.norm(gradient)
        direction, optimiser = adam.update(gradient, optimiser)
        return vector - rate * direction, optimiser, metrics

    return step


class Estimates(NamedTuple):
    """What the actor and the critic learn from a rollout, each [T, B]."""

    advantage: jax.Array
    target: jax.Array | None  # of V(obs); None: the critic does not learn
    weight: jax.Array | None = None  # of each step in all terms of the loss; None: one


Estimate = Callable[
    [Rollout, jax.Array, jax.Array, jax.Array], Estimates
]  # (rollout, log pi(a|s), V(obs), V(next_obs))


def policy_gradient_loss(config: Any, estimate: Estimate) -> Callable[[PyTree, Rollout], tuple[jax.Array, Metrics]]:
    """``loss(params, rollout)`` = mean over [T, B] of weight [-log pi(a|s) A + c_v (V - G)^2 / 2 - c_e entropy].

    No gradient flows through the estimates. config has value_coefficient, entropy_coefficient, normalize_advantages.
    """

    def loss(params: PyTree, rollout: Rollout) -> tuple[jax.Array, Metrics]:
        policy, value, next_value = evaluate(params, rollout)
        log_prob = policy.log_prob(rollout.action)
        advantage, target, weight = estimate(rollout, *jax.lax.stop_gradient((log_prob, value, next_value)))
        if config.normalize_advantages:
            advantage = standardise(advantage, weight)
        mean = lambda x: (x if weight is None else weight * x).mean()
        policy_loss = mean(surrogates.policy_gradient_loss(log_prob, advantage))
        value_loss = jnp.zeros(()) if target is None else mean(surrogates.value_loss(value, target))
        entropy = mean(policy.entropy())
        total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
        return total, {"loss": total, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

    return loss


def policy_gradient_agent(
    config: Any, make: Callable[[Key], PyTree], estimate: Estimate, budget: int | None = None
) -> Agent:
    """An agent that takes one Adam step down ``policy_gradient_loss`` on each rollout.

    make: key -> the network, a module ``obs -> (distribution, value)``.
    """
    adam = clipped_adam(config.max_grad_norm)
    loss = policy_gradient_loss(config, estimate)

    def init(key: Key, first_rollout: Rollout) -> LearnerState:
        params = make(key)
        return LearnerState(params, adam.init(ravel_pytree(params)[0]), jnp.zeros((), jnp.int32))

    def update(state: LearnerState, rollout: Rollout, key: Key) -> tuple[LearnerState, Metrics]:
        vector, unravel = ravel_pytree(state.params)
        rate = learning_rate(config, budget, state.updates, rollout)
        vector, optimiser, metrics = descend(adam, loss, unravel, rate)(vector, state.optimiser, rollout)
        return LearnerState(unravel(vector), optimiser, state.updates + 1), metrics | {"learning_rate": rate}

    return Agent(init, lambda num_envs: (), act, update)
