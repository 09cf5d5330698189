"""What the on-policy agents share: settings, the network, acting, the critic's targets, one step of descent.

``policy_gradient_agent`` is REINFORCE, A2C and IMPALA but for one thing, how a rollout's advantages and value targets
are estimated; that is what their files hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.agents.parts import config as groups
from steersman.agents.parts import own_networks, training
from steersman.agents.parts import remembering as parts
from steersman.agents.parts.checks import check_network
from steersman.agents.parts.constraint import UNLIMITED, Constraint, CostLimits
from steersman.agents.parts.minibatches import standardise
from steersman.agents.parts.observation_groups import entries, groups_of
from steersman.agents.parts.training import Trained
from steersman.errors import UsageError
from steersman.nets.actor_critic import ActorCritic, ActorCriticFactory
from steersman.nets.memory import remembering
from steersman.theory import returns, surrogates
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout

Scalar = float | jax.Array


@dataclass(frozen=True)
class PolicyConfig(groups.Config):
    """How the policy's and the value's networks are built."""

    share_trunk: bool = False
    """One trunk for policy and value."""
    log_std_init: float = 0.0
    """Log standard deviation of a Gaussian policy at the start."""
    state_dependent_std: bool = False
    """Let the network give the log-std instead of a free parameter."""
    share_memory: bool = True
    """One memory for policy and value, where there is one."""


@dataclass(frozen=True)
class OnPolicyConfig(
    PolicyConfig,
    groups.RewardScalingConfig,
    groups.ObservationGroupsConfig,
    groups.ObservationNormConfig,
    groups.MemoryConfig,
    groups.NetworkConfig,
    groups.OptimiserConfig,
    groups.RolloutConfig,
):
    """Settings of every on-policy agent; the defaults are for an environment that nobody has tuned: whatever the sizes
    of its observations and rewards, and whatever the budget, at whose end nothing depends on it (``docs/ppo.md``)."""

    max_grad_norm: float | None = 0.5
    """Clip the norm of the whole gradient to this; none: as it is."""
    normalize_observations: bool = True
    """Standardise observations by running moments, saved with the policy."""
    scale_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory != "none" and self.share_trunk and not self.share_memory:
            raise UsageError("share_trunk = True is one trunk behind one memory; share_memory = False asks for two.")


class LearnerState(NamedTuple):
    """What an agent with one network and Adam learns and remembers."""

    params: PyTree  # the network
    optimiser: PyTree  # Adam's moments
    steps: jax.Array  # uint32, environment steps learned from
    constraint: PyTree = ()  # with limits: CostState or ConstraintState


def adam(config: OnPolicyConfig) -> training.Optimiser:
    """The optimiser of the on-policy agents."""
    return training.adam(max_grad_norm=config.max_grad_norm, eps=1e-5)


def start(config: OnPolicyConfig, params: PyTree, constraint: PyTree = ()) -> LearnerState:
    """The state before the first rollout."""
    return LearnerState(*training.trained(adam(config), params), jnp.zeros((), jnp.uint32), constraint)


def network_maker(
    name: str,
    config: OnPolicyConfig,
    spec: EnvSpec,
    network: ActorCriticFactory | None,
    *,
    kl: bool = False,
    remembers: bool = True,
    heads: tuple[int, ...] = (),
) -> Callable[[Key], PyTree]:
    """key -> the user's network, or ``ActorCritic`` as the config describes it. Raises UsageError for an action space
    that no policy head serves, and for a network that does not do.

    kl: whether the policy's KL divergence is asked for. remembers: whether it may have a memory. heads: the value's
    shape (``CostLimits.heads``).
    """
    check_network(name, spec, network)
    parts.check_own(config, network)
    if network is not None:
        methods = (*own_networks.DISTRIBUTION, "kl") if kl else own_networks.DISTRIBUTION
        wrong = partial(own_networks.actor_critic, methods, heads, spec)
        return own_networks.own_network(name, spec, network, "obs -> (distribution, value)", wrong, remembers=remembers)
    seen, remembers = groups_of(config, spec), config.memory != "none"
    apart = remembers and not config.share_memory
    shared = "share_trunk" if config.share_trunk else "share_memory"
    if seen.differ and (config.share_trunk or (remembers and not apart)):
        raise UsageError(
            f"{shared} = True: what policy and value share would show the policy what the value sees. Set {shared} to "
            "False, or let policy_sees and value_sees be the same."
        )
    named = lambda group, memory: () if remembers and not apart else [memory] if apart else entries(group, spec)
    sees = {"policy_sees": named(seen.policy, "policy"), "value_sees": named(seen.value, "value")}

    def own(spec: EnvSpec, settings: Mapping[str, Any], key: Key) -> ActorCritic:
        return ActorCritic(
            spec,
            **settings,
            **sees,
            share_trunk=config.share_trunk,
            value_shape=heads,
            log_std_init=config.log_std_init,
            state_dependent_std=config.state_dependent_std,
            key=key,
        )

    memories = {"policy": seen.policy, "value": seen.value} if apart else {"known": seen.policy}
    return parts.behind_memory(config, spec, own, sees=memories)


def act(state: Any, carry: PyTree, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
    """An agent's ``act``, for a state with ``params``: a sample and its log-probability, or the mode."""
    carry, seen = remembering.step(state.params, carry, obs, first)
    policy, _ = jax.vmap(state.params)(seen)
    if not explore:
        action = policy.mode()
        return action, remembering.acted(state.params, carry, action), {}
    keys = shards.member_keys(key, first.shape[0])
    action = jax.vmap(lambda p, k: p.sample(k))(policy, keys)
    return action, remembering.acted(state.params, carry, action), {"log_prob": policy.log_prob(action)}


def evaluate(params: PyTree, rollout: Rollout) -> tuple[Any, jax.Array, jax.Array]:
    """The policy's distributions, V(obs) and V(next_obs), each in one batch: [T, B]; V with limits [T, B, 1 + C]."""
    return evaluated(params, rollout)[:3]


def evaluated(params: PyTree, rollout: Rollout) -> tuple[Any, jax.Array, jax.Array, PyTree]:
    """As ``evaluate``, and the carries after each row, [T, B], of a network with memory."""
    seen, carries = remembering.recalled(params, rollout)
    batched = jax.vmap(jax.vmap(params))
    policy, v_tm1 = batched(seen.obs)
    return policy, v_tm1, batched(seen.next_obs)[1], carries


def lambda_targets(
    rollout: Rollout, v_t: jax.Array, gamma: Scalar, lambda_: Scalar, limits: CostLimits = UNLIMITED
) -> jax.Array:
    """The critic's targets G, lambda-returns of v_t's shape; minus V(obs) they are GAE."""
    r_t, discount_t, lambda_t = limits.signals(rollout, gamma, lambda_)
    return returns.lambda_returns(r_t, discount_t, v_t, lambda_t)


class Estimates(NamedTuple):
    """What the actor and the critic learn from a rollout, each [T, B]; with limits [T, B, 1 + C] but for the weight."""

    advantage: jax.Array
    target: jax.Array | None  # of V(obs); None: the critic does not learn
    weight: jax.Array | None = None  # of each step in all terms of the loss; None: one


Estimate = Callable[
    [Rollout, jax.Array, jax.Array, jax.Array], Estimates
]  # (rollout, log pi(a|s), V(obs), V(next_obs))


def policy_gradient_loss(
    config: Any, estimate: Estimate, constraint: Constraint = UNLIMITED
) -> Callable[..., tuple[jax.Array, Metrics]]:
    """``loss(params, rollout)`` = mean over [T, B] of weight [-log pi(a|s) A + c_v (V - G)^2 / 2 - c_e entropy].

    No gradient flows through the estimates. config has value_coefficient, entropy_coefficient, normalize_advantages.
    With limits the loss takes the constraint's state too: A is the mix, and every head of V has a term.
    """

    def loss(params: PyTree, rollout: Rollout, limits: PyTree = ()) -> tuple[jax.Array, Metrics]:
        policy, value, next_value = evaluate(params, rollout)
        log_prob = policy.log_prob(rollout.action)
        advantage, target, weight = estimate(rollout, *jax.lax.stop_gradient((log_prob, value, next_value)))
        advantage = constraint.mixed(limits, advantage)
        if config.normalize_advantages:
            advantage = standardise(advantage, weight)
        mean = lambda x: (x if weight is None else weight * x).mean()
        policy_loss = mean(surrogates.policy_gradient_loss(log_prob, advantage))
        value_loss = jnp.zeros(()) if target is None else mean(constraint.summed(surrogates.value_loss(value, target)))
        entropy = mean(policy.entropy())
        total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
        return total, {"loss": total, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

    return loss


def policy_gradient_agent(
    config: Any,
    make: Callable[[Key], PyTree],
    estimate: Estimate,
    budget: int | None = None,
    constraint: Constraint = UNLIMITED,
) -> Agent:
    """An agent that takes one Adam step down ``policy_gradient_loss`` on each rollout.

    make: key -> the network, a module ``obs -> (distribution, value)``.
    """
    optimiser, loss = adam(config), policy_gradient_loss(config, estimate, constraint)

    def init(key: Key, first_rollout: Rollout) -> LearnerState:
        return start(config, make(key), constraint.begin(first_rollout))

    def update(state: LearnerState, rollout: Rollout, key: Key) -> tuple[LearnerState, Metrics]:
        rate = training.annealed(config, budget, state.steps)
        limits, told = constraint.moved(state.constraint, rollout)
        net = Trained(state.params, state.optimiser)
        net, metrics, norm = training.descend(optimiser, loss, net, rate, rollout, limits)
        after = LearnerState(*net, training.counted(state.steps, rollout), limits)
        return after, metrics | told | {"grad_norm": norm, "learning_rate": rate}

    return Agent(init, parts.beginner(make), act, update)
