"""Trust region policy optimisation (Schulman et al. 2015, arXiv:1502.05477), and the natural policy gradient.

One update, from a rollout collected by the policy pi_old with parameters theta, raises the surrogate L under a limit on
how far the policy moves:

    maximise  L(theta') = mean[pi'(a|s) / pi_old(a|s) A]    subject to  mean_s KL(pi_old || pi') <= delta

1. Advantages A: GAE, standardised over the rollout.
2. Direction x = (F + damping I)^-1 g by conjugate gradient, with g = grad L and F the Fisher matrix, known by its
   products with vectors only (``theory.natural.fisher_product``): the natural policy gradient (Kakade 2001).
3. The longest step that the quadratic model of the KL allows: sqrt(2 delta / x^T F x) x.
4. Line search: the step shrinks until the *exact* mean KL is at most delta and L has risen; if it never does, the
   policy stays. Without it (``line_search`` = False) step 3 is taken as it is: the natural policy gradient with a
   normalised step, whose KL is near delta and may exceed it.
5. The critic: ``value_epochs`` passes of Adam over minibatches, down (V - G)^2 / 2, G the lambda-return.

With ``cost_limit`` A is a mix of the reward's advantage and the costs' (``parts.constraint``). CPO (``cpo.py``) has the
limit in steps 2 to 4 instead.

PPO replaces steps 2 to 4 by clipping or a penalty. Details: policy and value have trunks of their own (a shared one
would move the policy in step 5, so it is refused); the Fisher matrix is that of the whole rollout; damping acts on the
direction, not on the length of the step; learning_rate and max_grad_norm are the critic's; observations and rewards are
normalised by choice; initialisation as PPO's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from steersman import shards
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import on_policy, whole_minibatches
from steersman.agents.parts.constraint import ConstraintConfig, CostLimits, constraint_of
from steersman.agents.parts.minibatches import epochs, standardise
from steersman.agents.parts.remembering import beginner, seen_again, shuffled_sequences
from steersman.agents.parts.training import Trained
from steersman.agents.parts.wrappers import normalised
from steersman.agents.policy_gradient import common
from steersman.agents.policy_gradient.common import LearnerState, OnPolicyConfig
from steersman.config import Rules
from steersman.nets.actor_critic import ActorCriticFactory
from steersman.nets.memory import remembering
from steersman.theory import natural, surrogates
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class TrustRegionConfig(OnPolicyConfig):
    """How far the policy moves in one update, and how the critic is fitted."""

    unroll_length: int = 256
    """Steps of each environment between two updates (T)."""
    learning_rate: float = 1e-3
    """Adam's step size for the critic at the start."""
    anneal_learning_rate: bool = False
    """Let the critic's learning rate fall linearly to zero over the run."""
    gae_lambda: float = 0.95
    """Lambda of the advantage estimate: 0 is the TD error, 1 the Monte-Carlo advantage."""
    max_kl: float = 0.01
    """Delta: the mean KL divergence of one update, at most."""
    damping: float = 0.1
    """Added to the Fisher matrix's diagonal when the direction is solved for."""
    cg_iterations: int = 15
    """Steps of conjugate gradient, one product with the Fisher matrix each."""
    backtracks: int = 10
    """Most times that the line search shrinks the step."""
    backtrack_ratio: float = 0.8
    """How much it shrinks each time."""
    value_epochs: int = 10
    """Passes of the critic over the rollout in one update."""
    num_minibatches: int = 8
    """Minibatches of the critic in one pass; it must divide unroll_length * num_envs."""
    sequence_length: int | None = None
    """Steps of one environment that stay together in a minibatch, of an agent with memory, and over which the critic's
    gradients flow back; none: as many as num_minibatches allows."""
    share_memory: bool = False
    """One memory for policy and value; here each has its own."""

    rules = Rules(
        at_least_one=("cg_iterations", "value_epochs", "num_minibatches", "sequence_length"),
        positive=("max_kl",),
        non_negative=("damping", "backtracks"),
        fraction=("gae_lambda", "backtrack_ratio"),
        refused=dict.fromkeys(
            ("share_trunk", "share_memory"),
            "the critic's steps would move the policy out of its trust region. PPO can share.",
        ),
    )


@dataclass(frozen=True)
class TRPOConfig(ConstraintConfig, TrustRegionConfig):
    """Settings of TRPO."""

    line_search: bool = True
    """Shrink the step until the exact KL is within max_kl and the surrogate has risen; off: natural gradient."""


class Local(NamedTuple):
    """The policy around its parameters [P], for one rollout."""

    vector: jax.Array
    policy_of: Callable[[jax.Array], Any]  # parameters -> the distributions at the rollout's rows [T, B]
    old: Any  # those at ``vector``
    rollout: Rollout

    def gradient(self, advantage: jax.Array) -> tuple[jax.Array, jax.Array]:
        """-> (the surrogate L at ``vector``, its gradient), over all shards."""
        of = lambda v: surrogate(self.policy_of(v), self.rollout, advantage)
        return shards.cross_mean(jax.value_and_grad(of)(self.vector))

    def judged(self, vector: jax.Array, *advantages: jax.Array) -> tuple[jax.Array, ...]:
        """-> (the surrogate of each advantage, mean KL(pi_old || pi)), over all shards."""
        policy = self.policy_of(vector)
        gains = (surrogate(policy, self.rollout, advantage) for advantage in advantages)
        return shards.cross_mean((*gains, self.old.kl(policy).mean()))


# (the policy around its parameters, the advantages of all signals, the limits' state) -> (parameters, metrics)
Improve = Callable[[Local, jax.Array, PyTree], tuple[jax.Array, Metrics]]


def surrogate(policy: PyTree, rollout: Rollout, advantage: jax.Array) -> jax.Array:
    """L = mean[ratio A], a scalar; policy: distributions [T, B]. At pi_old its gradient is the policy gradient's."""
    log_ratio = policy.log_prob(rollout.action) - rollout.extras["log_prob"]
    return (surrogates.ratios(log_ratio) * advantage).mean()


def trust_region_agent(
    config: TrustRegionConfig,
    make_network: Callable[[Key], PyTree],
    limits: CostLimits,
    improve: Improve,
    budget: int | None,
) -> Agent:
    """An agent that moves its policy by ``improve`` once a rollout, and then fits its critic: steps 1 and 5."""
    adam = common.adam(config)

    def init(key: Key, first_rollout: Rollout) -> LearnerState:
        return common.start(config, make_network(key), limits.begin(first_rollout))

    def value_loss(params: PyTree, batch: tuple[Any, Any]) -> tuple[jax.Array, Metrics]:
        (obs, action, target), recall = batch
        value = jax.vmap(params)(seen_again(params, recall, obs, action))[1]
        loss = limits.summed(surrogates.value_loss(value, target)).mean()
        return loss, {"value_loss": loss}

    def update(state: LearnerState, rollout: Rollout, key: Key) -> tuple[LearnerState, Metrics]:
        _, v_tm1, v_t, carries = common.evaluated(state.params, rollout)
        target = common.lambda_targets(rollout, v_t, config.gamma, config.gae_lambda, limits)
        moved, told = limits.moved(state.constraint, rollout)
        vector, unravel = ravel_pytree(state.params)

        def policy_of(vector: jax.Array):
            network = unravel(vector)
            _, seen = remembering.sequence(network, rollout.carry, rollout.obs, rollout.first, rollout.action)
            return jax.vmap(jax.vmap(lambda obs: network(obs)[0]))(seen)

        local = Local(vector, policy_of, policy_of(vector), rollout)
        vector, metrics = improve(local, target - v_tm1, moved)
        rate = training.annealed(config, budget, state.steps)

        def step(net: Trained, batch):
            net, metrics, norm = training.descend(adam, value_loss, net, rate, batch)
            return net, metrics | {"grad_norm": norm}

        def minibatches(net: Trained, key: Key):
            batch = rollout.obs, rollout.action, target
            return shuffled_sequences(key, batch, rollout, carries, config.num_minibatches, config.sequence_length)

        net = training.packed(adam, Trained(unravel(vector), state.optimiser))
        net, fitted = epochs(step, net, minibatches, key, config.value_epochs)
        metrics |= {name: value.mean() for name, value in fitted.items()} | told
        metrics |= {"entropy": local.old.entropy().mean(), "learning_rate": rate}
        return LearnerState(*training.unpacked(net), training.counted(state.steps, rollout), moved), metrics

    return normalised(Agent(init, beginner(make_network), common.act, update), config)


def trpo(
    config: TRPOConfig, spec: EnvSpec, *, budget: int | None = None, network: ActorCriticFactory | None = None
) -> Agent:
    """TRPO as an agent for an environment.

    network: ``(key, spec) -> module``, the module mapping one observation to ``(distribution, value)``, the two without
    common parameters; by default ``nets.actor_critic.ActorCritic`` as the config says. Raises UsageError for an action
    space that no policy head serves, and for limits that are not the environment's.
    """
    constraint = constraint_of("TRPO", config, spec)
    make_network = common.network_maker("TRPO", config, spec, network, kl=True, heads=constraint.heads)

    def improve(local: Local, signals: jax.Array, limits: PyTree) -> tuple[jax.Array, Metrics]:
        """Steps 2 to 4."""
        advantage, vector = standardise(constraint.mixed(limits, signals)), local.vector
        before, gradient = local.gradient(advantage)
        fisher = natural.fisher_product(local.policy_of, vector)
        solved = natural.conjugate_gradient(lambda v: fisher(v) + config.damping * v, gradient, config.cg_iterations)
        curvature = jnp.vdot(solved.x, fisher(solved.x))
        step = jnp.sqrt(2.0 * config.max_kl / jnp.maximum(curvature, 1e-12)) * solved.x

        def gain_and_kl(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
            after, kl = local.judged(vector, advantage)
            return after - before, kl

        if config.line_search:
            found = natural.line_search(
                gain_and_kl, vector, step, config.max_kl, backtracks=config.backtracks, shrink=config.backtrack_ratio
            )
        else:
            gain, kl = gain_and_kl(vector + step)
            found = natural.Searched(vector + step, jnp.ones((), bool), jnp.zeros((), jnp.int32), gain, kl)
        metrics = {
            "surrogate_gain": found.gain,
            "kl": found.kl,
            "accepted": found.accepted,
            "backtracks": found.backtracks,
            "cg_residual": solved.residual,
        }
        return found.params, metrics

    return trust_region_agent(config, make_network, constraint, improve, budget)


ALGORITHM = on_policy(
    "trpo",
    TRPOConfig,
    trpo,
    "trust region policy optimisation, natural policy gradient: an exact limit on the KL of each update",
    whole_minibatches,
)
