"""Proximal policy optimisation, PPO-Clip and PPO-Penalty (Schulman et al. 2017, arXiv:1707.06347).

One update, from a rollout of T steps of B environments collected by the policy pi_old:

1. Values and advantages: G_t = r_t + gamma_t [(1 - lambda_t) V(s_{t+1}) + lambda_t G_{t+1}],  A_t = G_t - V(s_t): GAE.
   gamma_t = 0 where the state is terminal, lambda_t = 0 where the clock cut the episode, V of the *true* successor.
2. For each epoch, for each minibatch: one Adam step on
   L = -surrogate(pi / pi_old, A) + c_v (V - G)^2 / 2 - c_e entropy.
   clip:     surrogate = min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)
   penalty:  surrogate = ratio A - beta KL(pi_old, pi); after the update beta doubles where KL > 1.5 target and halves
             where KL < target / 1.5.

With ``cost_limit`` (PPO-Lagrangian; ``parts.constraint``) the multipliers move first, by the episodes that ended in the
rollout; V has a head for each cost, the same recursion gives each its advantage, and A is their mix
(A_r - sum lambda_i A_i) / (1 + sum lambda_i), standardised after mixing.

Details that decide returns (Huang et al. 2022, "The 37 implementation details of PPO"):
orthogonal initialisation, gain sqrt(2) hidden, 0.01 policy head, 1 value head, zero biases; separate tanh trunks for
vectors, the Nature CNN for images; Adam with eps 1e-5; the whole gradient's norm clipped; linear decay of learning rate
and clip range by choice; advantages normalised per minibatch; every epoch shuffles the time steps of each environment
on its own and every minibatch takes its share of each, so all data is used once an epoch and the result does not depend
on how many devices share the work; a Gaussian's log-std is a free parameter, its samples are stored unclipped and
clipped only at the environment's door; observations normalised and clipped to +-10 and rewards scaled by the running
standard deviation of the discounted return, by choice (``parts.wrappers``), both frozen during one update.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import on_policy, whole_minibatches
from steersman.agents.parts.config import ActorCriticLossConfig, EpochsConfig
from steersman.agents.parts.constraint import ConstraintConfig, constraint_of
from steersman.agents.parts.minibatches import epochs, standardise
from steersman.agents.parts.remembering import beginner, seen_again, shuffled_sequences
from steersman.agents.parts.wrappers import normalised
from steersman.agents.policy_gradient import common
from steersman.agents.policy_gradient.common import OnPolicyConfig
from steersman.config import Rules
from steersman.nets.actor_critic import ActorCriticFactory
from steersman.theory import surrogates
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class PPOConfig(EpochsConfig, ConstraintConfig, ActorCriticLossConfig, OnPolicyConfig):
    """Settings of PPO."""

    unroll_length: int = 256
    """Steps of each environment between two updates (T)."""
    num_epochs: int = 10
    """Passes over the rollout in one update."""
    num_minibatches: int = 32
    """Minibatches in one pass; it must divide unroll_length * num_envs."""
    gae_lambda: float = 0.95
    """Lambda of the advantage estimate: 0 is the TD error, 1 the Monte-Carlo advantage."""
    objective: str = "clip"
    """The surrogate: clip or penalty."""
    clip: float = 0.2
    """Epsilon: how far the probability ratio may move before its gradient is cut (objective clip)."""
    anneal_clip: bool = False
    """Let the clip range fall linearly to zero over the run."""
    kl_coefficient: float = 1.0
    """Beta at the start (objective penalty)."""
    kl_target: float = 0.01
    """The KL divergence that beta is steered to (objective penalty)."""
    stop_kl: float | None = None
    """Skip the rest of an update once a minibatch's approximate KL exceeds this."""
    value_clip: float | None = None
    """Largest move of a value prediction per update; none: the plain squared error."""
    normalize_advantages: bool = True
    """Standardise advantages within each minibatch."""
    recompute_advantages: bool = False
    """Estimate values and advantages anew before every epoch."""

    rules = Rules(
        positive=("clip", "kl_target", "kl_coefficient", "stop_kl", "value_clip"),
        fraction=("gae_lambda",),
        choices={"objective": ("clip", "penalty")},
    )


class PPOState(NamedTuple):
    """What PPO learns and remembers."""

    params: PyTree  # the network
    optimiser: PyTree  # Adam's moments
    kl_coefficient: jax.Array  # beta
    steps: jax.Array  # uint32, environment steps learned from
    constraint: PyTree = ()  # with limits: ConstraintState


class Batch(NamedTuple):
    """A rollout made ready for the epochs: ``[T, B, ...]``, then ``[M, T * B / M, ...]``."""

    obs: PyTree
    action: PyTree
    log_prob: jax.Array  # under pi_old
    old_policy: Any  # pi_old's distribution; () unless the objective is penalty
    old_value: jax.Array  # with limits [..., 1 + C], as V and G are
    advantage: jax.Array
    target: jax.Array  # G
    recall: Any = ()  # of a network with memory, in a minibatch


def ppo(
    config: PPOConfig, spec: EnvSpec, *, budget: int | None = None, network: ActorCriticFactory | None = None
) -> Agent:
    """PPO as an agent for an environment.

    network: ``(key, spec) -> module``, the module mapping one observation to ``(distribution, value)``; by default
    ``nets.actor_critic.ActorCritic`` as the config says. Raises UsageError for actions that no policy head serves, and
    for limits that are not the environment's.
    """
    adam, penalty = common.adam(config), config.objective == "penalty"
    constraint = constraint_of("PPO", config, spec)
    make_network = common.network_maker("PPO", config, spec, network, kl=penalty, heads=constraint.heads)

    def init(key: Key, first_rollout: Rollout) -> PPOState:
        net, beta = training.trained(adam, make_network(key)), jnp.asarray(config.kl_coefficient, jnp.float32)
        return PPOState(*net, beta, jnp.zeros((), jnp.uint32), constraint.begin(first_rollout))

    def prepare(params: PyTree, rollout: Rollout, limits: PyTree) -> tuple[Batch, PyTree]:
        policy, v_tm1, v_t, carries = common.evaluated(params, rollout)
        target = common.lambda_targets(rollout, v_t, config.gamma, config.gae_lambda, constraint)
        advantage = constraint.mixed(limits, target - v_tm1)
        old_policy = policy if penalty else ()
        log_prob = rollout.extras["log_prob"]
        return Batch(rollout.obs, rollout.action, log_prob, old_policy, v_tm1, advantage, target), carries

    def loss(params: PyTree, batch: Batch, clip: jax.Array, beta: jax.Array) -> tuple[jax.Array, Metrics]:
        policy, value = jax.vmap(params)(seen_again(params, batch.recall, batch.obs, batch.action))
        log_ratio = policy.log_prob(batch.action) - batch.log_prob
        kl = surrogates.approximate_kl(log_ratio).mean()
        if penalty:
            exact = batch.old_policy.kl(policy)
            policy_loss, kl = surrogates.ppo_penalty_loss(log_ratio, batch.advantage, exact, beta).mean(), exact.mean()
        else:
            policy_loss = surrogates.ppo_clip_loss(log_ratio, batch.advantage, clip).mean()
        errors = surrogates.clipped_value_loss(value, batch.old_value, batch.target, config.value_clip)
        value_loss = constraint.summed(errors).mean()
        entropy = policy.entropy().mean()
        total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
        metrics = {"loss": total, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy, "kl": kl}
        return total, metrics | {"clip_fraction": surrogates.clip_fraction(log_ratio, clip).mean()}

    def update(state: PPOState, rollout: Rollout, key: Key) -> tuple[PPOState, Metrics]:
        rate = training.annealed(config, budget, state.steps)
        clip = config.clip * (training.remaining(budget, state.steps) if config.anneal_clip else jnp.ones(()))
        limits, told = constraint.moved(state.constraint, rollout)
        whole = None if config.recompute_advantages else prepare(state.params, rollout, limits)

        def step(carry: tuple[training.Trained, jax.Array], batch: Batch):
            net, going = carry
            after, metrics, norm = training.descend(adam, loss, net, rate, batch, clip, state.kl_coefficient)
            if config.stop_kl is not None:
                going = going & (shards.cross_mean(metrics["kl"]) <= config.stop_kl)
                after = jax.tree.map(partial(jnp.where, going), after, net)
            return (after, going), metrics | {"grad_norm": norm}

        def minibatches(carry: tuple[training.Trained, jax.Array], key: Key) -> Batch:
            batch, carries = prepare(carry[0].network, rollout, limits) if whole is None else whole
            batch, recall = shuffled_sequences(
                key, batch, rollout, carries, config.num_minibatches, config.sequence_length
            )
            batch = batch._replace(recall=recall)
            if not config.normalize_advantages:
                return batch
            return batch._replace(advantage=standardise(batch.advantage, axis=-1))

        begun = training.packed(adam, training.Trained(state.params, state.optimiser)), jnp.ones((), bool)
        (net, going), metrics = epochs(step, begun, minibatches, key, config.num_epochs)
        beta = state.kl_coefficient
        if penalty:
            kl = shards.cross_mean(metrics["kl"][-1].mean())
            beta = surrogates.adapt_kl_coefficient(beta, kl, config.kl_target)
        metrics = {name: value.mean() for name, value in metrics.items()}
        metrics |= told | {"learning_rate": rate, "kl_coefficient": beta, "stopped_early": ~going}
        return PPOState(*training.unpacked(net), beta, training.counted(state.steps, rollout), limits), metrics

    return normalised(Agent(init, beginner(make_network), common.act, update), config)


ALGORITHM = on_policy("ppo", PPOConfig, ppo, "proximal policy optimisation, clipped or KL-penalised", whole_minibatches)
