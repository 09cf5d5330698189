"""Soft actor-critic (Haarnoja et al. 2018, arXiv:1801.01290 and 1812.05905), for continuous and for discrete actions.

The return that is maximised has an entropy bonus at every step: sum_t gamma^t (r_t + alpha H(pi(. | s_t))). One
gradient step, from a batch of N transitions out of replay:

1. Target y = r + gamma_t [min_k Qbar_k(s', a') - alpha log pi(a' | s')],  a' ~ pi(. | s'), no gradient.
   gamma_t = gamma (1 - terminated): a truncated step bootstraps like any other, from its true successor.
2. Critics: one Adam step on sum_k mean (Q_k(s, a) - y)^2 / 2.
3. Actor: one Adam step on mean [alpha log pi(a | s) - min_k Q_k(s, a)], a = tanh(mu + sigma eps), through the action,
   with the critics just updated.
4. Temperature: one Adam step on -log alpha mean (log pi(a | s) + target entropy); or alpha is fixed.
5. Target critics: Qbar <- Qbar + tau (Q - Qbar).

n steps (``n_step``) are followed to their end, unless ``n_step_correction`` is retrace (or cut, for discrete actions):
y is then the return of ``theory.returns.retrace`` with V = min_k Qbar_k(s', a') - alpha log pi(a' | s') at each step.

Discrete actions (Christodoulou 2019, arXiv:1910.07207): the critics give Q(s, .), and expectations over the policy are
sums instead of samples, in 1, 3 and 4. The target entropy is 0.89 log A.

With ``cost_limit`` there are critics of the costs beside those of the reward, and the actor ascends the mix of both
(``off_policy.costs``).

With ``memory`` it learns from sequences (``parts.replay.sequences``): actor and critics remember each by itself, the
actor from what acting had stored, a critic from nothing at the start of a sequence, both through ``burn_in`` steps
first.

Details: orthogonal initialisation, gain sqrt(2) hidden, 0.01 policy head, 1 critics' head, zero biases; 256 x 256 ReLU
networks, nothing shared between them; the log-std from the network, clipped to [-20, 2]; log pi of a tanh computed
without cancellation; Adam with eps 1e-8, no clipping of gradients; the critics are one module with a leading axis [K];
a random policy fills replay first; every update the policy acts with is the newest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman import shards
from steersman.agents.off_policy import common
from steersman.agents.off_policy.common import NetworkFactory, OffPolicyConfig, Seen
from steersman.agents.off_policy.costs import GAINS, cost_learner
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import replayed
from steersman.agents.parts.config import TargetConfig
from steersman.agents.parts.constraint import ConstraintConfig
from steersman.agents.parts.replay import multi_step
from steersman.agents.parts.replay.sequences import Items, items_of, with_memory
from steersman.agents.parts.replay.with_replay import BatchLearner
from steersman.agents.parts.training import Trained
from steersman.config import Rules
from steersman.memory import Sample
from steersman.nets.critics import ensemble
from steersman.theory import trees
from steersman.theory.values import expected_soft_value, soft_value
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class SoftConfig(OffPolicyConfig):
    """Settings of SAC and of those made of it."""

    num_critics: int = 2
    """Critics in the ensemble (K)."""
    policy_delay: int = 1
    """Gradient steps of the critics for one of actor and temperature."""
    temperature: float = 0.01
    """Alpha, the weight of the entropy, at the start: 1 - gamma is the size that weighs as much as scaled rewards; 1 is
    usual for rewards as they are."""
    learn_temperature: bool = True
    """Steer alpha so that the policy keeps its target entropy; otherwise it stays."""
    target_entropy: float | None = None
    """In nats; none: minus the number of action entries, or 0.89 log A for A discrete actions."""

    rules = Rules(at_least_one=("num_critics", "policy_delay"), positive=("temperature",))


@dataclass(frozen=True)
class SACConfig(ConstraintConfig, TargetConfig, SoftConfig):
    """Settings of SAC."""

    pid_gains: tuple[float, ...] = GAINS
    """Proportional, integral and derivative gain, on the relative error of the episodes that have just ended."""


class SACState(NamedTuple):
    """What SAC learns."""

    actor: Trained
    critics: Trained  # leaves [K, ...]
    targets: PyTree  # Qbar, leaves [K, ...]
    log_temperature: Trained
    updates: jax.Array  # int32, gradient steps taken
    steps: jax.Array  # uint32, environment steps learned from
    costs: Any  # CostCritics; () without a limit


class Parts(NamedTuple):
    """What differs between the members of SAC's family. M items, K critics, J targets; seen: ``common.Seen``."""

    target: Callable[..., Any]  # (actor, target critics, alpha, seen after, items, key) -> y [M, J]
    judge: Callable[..., Any]  # (actor, target critics, alpha, seen, action, key) -> (V, Q, log pi of the action), [M]
    critic_loss: Callable[..., tuple[jax.Array, jax.Array]]  # (critics, seen, action, y) -> (loss [K, M], Q [K, M])
    actor_loss: Callable[..., tuple[jax.Array, jax.Array]]  # (actor, critics, alpha, seen, key) -> (loss, log pi), [M]
    taken: Callable[..., jax.Array]  # (critics, seen, action) -> Q [K, M]
    expected: Callable[..., jax.Array]  # (actor, critics, seen, key) -> Q of the policy's actions [K, M]


def sac(config: SACConfig, spec: EnvSpec, *, budget: int | None = None, network: NetworkFactory | None = None) -> Agent:
    """SAC as an agent for an environment with a bounded Box or a Discrete action space.

    network: ``(key, spec) -> (actor, critic)`` in place of ``nets.actors.Actor`` and ``nets.critics.Critic``. Raises
    UsageError for other action spaces.
    """
    return common.replayed(sac_learner(config, spec, budget=budget, network=network), config, spec)


def sac_learner(
    config: SACConfig, spec: EnvSpec, *, budget: int | None = None, network: NetworkFactory | None = None
) -> BatchLearner:
    """SAC as a learner from batches, for a replay of one's own."""
    common.check_continuous("SAC", spec, discrete=True)
    if isinstance(spec.action_space, spaces.Discrete):
        return soft_learner("SAC", config, spec, network, discrete_parts(), budget=budget)
    common.check_density("SAC", config)
    least = lambda z: z.min(0)  # [K, N, 1] -> [N, 1]
    loss = lambda z, y: 0.5 * jnp.square(z - y[None])[..., 0]
    parts = continuous_parts(least, loss, lambda z: least(z)[:, 0])
    return soft_learner("SAC", config, spec, network, parts, budget=budget)


def continuous_parts(
    bootstrap: Callable[[jax.Array], jax.Array],
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    value: Callable[[jax.Array], jax.Array],
) -> Parts:
    """The parts for continuous actions, given what is made of the critics' outputs z [K, N, M].

    bootstrap: z of the targets -> [N, J]; loss: (z, y [N, J]) -> [K, N]; value: z -> what the actor maximises, [N].
    """

    def target(actor: Any, targets: PyTree, alpha: jax.Array, after: Seen, items: Items, key: Key):
        action, log_prob = jax.vmap(actor)(after.actor).sample_and_log_prob(key)
        soft = soft_value(bootstrap(common.values(targets, after.critics, action)), log_prob[:, None], alpha)
        return items.reward[:, None] + items.discount[:, None] * trees.kept(items.discount[:, None], soft)

    def judge(actor: Any, targets: PyTree, alpha: jax.Array, seen: Seen, action: jax.Array, key: Key):
        policy, action = jax.vmap(actor)(seen.actor), common.flat_actions(action)
        drawn, log_prob = policy.sample_and_log_prob(key)
        q = lambda action: value(common.values(targets, seen.critics, action))
        return soft_value(q(drawn), log_prob, alpha), q(action), policy.log_prob(action)

    def critic_loss(critics: PyTree, seen: PyTree, action: jax.Array, y: jax.Array):
        z = common.values(critics, seen, common.flat_actions(action))
        return loss(z, y), z.mean(-1)

    def actor_loss(actor: Any, critics: PyTree, alpha: jax.Array, seen: Seen, key: Key):
        action, log_prob = jax.vmap(actor)(seen.actor).sample_and_log_prob(key)
        return -soft_value(value(common.values(critics, seen.critics, action)), log_prob, alpha), log_prob

    def taken(critics: PyTree, seen: PyTree, action: jax.Array):
        return common.values(critics, seen, common.flat_actions(action)).mean(-1)

    def expected(actor: Any, critics: PyTree, seen: Seen, key: Key):
        return taken(critics, seen.critics, jax.vmap(actor)(seen.actor).sample_and_log_prob(key)[0])

    return Parts(target, judge, critic_loss, actor_loss, taken, expected)


def discrete_parts() -> Parts:
    """The parts for discrete actions: every expectation over the policy is a sum."""

    def target(actor: Any, targets: PyTree, alpha: jax.Array, after: Seen, items: Items, key: Key):
        log_p = jax.vmap(actor)(after.actor).log_probabilities()
        soft = expected_soft_value(common.values(targets, after.critics).min(0), log_p, alpha)
        return (items.reward + items.discount * trees.kept(items.discount, soft))[:, None]

    def judge(actor: Any, targets: PyTree, alpha: jax.Array, seen: Seen, action: jax.Array, key: Key):
        log_p, q = jax.vmap(actor)(seen.actor).log_probabilities(), common.values(targets, seen.critics).min(0)
        return expected_soft_value(q, log_p, alpha), trees.take(q, action), trees.take(log_p, action)

    def critic_loss(critics: PyTree, seen: PyTree, action: jax.Array, y: jax.Array):
        z = common.values(critics, seen)  # [K, M, A]
        q = trees.take(z, jnp.broadcast_to(action[None], z.shape[:2]))
        return 0.5 * jnp.square(q - y[:, 0][None]), q

    def actor_loss(actor: Any, critics: PyTree, alpha: jax.Array, seen: Seen, key: Key):
        policy = jax.vmap(actor)(seen.actor)
        q = jax.lax.stop_gradient(common.values(critics, seen.critics).min(0))
        return -expected_soft_value(q, policy.log_probabilities(), alpha), -policy.entropy()

    def taken(critics: PyTree, seen: PyTree, action: jax.Array):
        z = common.values(critics, seen)
        return trees.take(z, jnp.broadcast_to(action[None], z.shape[:2]))

    def expected(actor: Any, critics: PyTree, seen: Seen, key: Key):
        p = jnp.exp(jax.vmap(actor)(seen.actor).log_probabilities())
        return (p[None] * jax.lax.stop_gradient(common.values(critics, seen.critics))).sum(-1)

    return Parts(target, judge, critic_loss, actor_loss, taken, expected)


def soft_learner(
    algorithm: str,
    config: SACConfig,
    spec: EnvSpec,
    network: NetworkFactory | None,
    parts: Parts,
    *,
    outputs: int = 1,
    budget: int | None = None,
) -> BatchLearner:
    """The learner that SAC and its descendants share: what they do not is in ``parts``."""
    discrete = isinstance(spec.action_space, spaces.Discrete)
    make_actor, make_critic = common.networks(algorithm, config, spec, network, outputs=outputs)
    costs = cost_learner(algorithm, config, spec, make_critic)
    size = common.action_size(spec)
    goal = config.target_entropy
    if goal is None:
        goal = 0.89 * math.log(spec.action_space.n) if isinstance(spec.action_space, spaces.Discrete) else -float(size)
    adam, noise = common.adam(config), common.action_noise(config.exploration_noise, size)
    kept = multi_step.keeps(config)

    def recorded(policy: Any, action: jax.Array) -> dict[str, jax.Array]:
        return {"log_prob": policy.log_prob(action)} if kept else {}

    def init(key: Key, first_rollout: Rollout) -> SACState:
        actor_key, critic_key = jax.random.split(key)
        critics = ensemble(make_critic, critic_key, config.num_critics)
        log_alpha = jnp.log(jnp.asarray(config.temperature, jnp.float32))
        return SACState(
            training.trained(adam, make_actor(actor_key)),
            training.trained(adam, critics),
            training.copied(critics),
            training.trained(adam, log_alpha),
            jnp.zeros((), jnp.int32),
            common.began(config),
            costs.init(critic_key, first_rollout),
        )

    def begin(num_envs: int) -> PyTree:
        return () if discrete else noise.begin(num_envs)

    def act(state: SACState, carry: PyTree, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        policy = jax.vmap(state.actor.params)(obs)
        if discrete:
            if not explore:
                return policy.mode(), carry, {}
            action = jax.vmap(lambda p, k: p.sample(k))(policy, shards.member_keys(key, first.shape[0]))
            return action, carry, recorded(policy, action)
        if not explore:
            return common.shaped(policy.mode(), spec), carry, {}
        carry, z = noise.step(carry, first, key)
        action = jnp.tanh(policy.loc + jnp.exp(policy.log_std) * z)
        return common.shaped(action, spec), carry, recorded(policy, action)

    def learn(state: SACState, sample: Sample, key: Key) -> tuple[SACState, jax.Array, Metrics]:
        items = items_of(config, sample)
        target_key, actor_key = jax.random.split(key)
        alpha = jnp.exp(state.log_temperature.params)
        nets, agreement = (state.actor.params, state.targets, alpha), {}
        after = Seen(items.sees(state.actor.params, items.carry)[1], common.critics_see(state.targets, items)[1])
        if items.steps is None:
            y = parts.target(*nets, after, items, target_key)
        else:
            judged = parts.judge(*nets, after, items.steps.action_t, target_key)
            y, agreement = multi_step.target(config, items.steps, *judged)
            y = y[:, None]

        actor_rate, critic_rate = common.rates(config, budget, state.steps)

        def critic_loss(critics: PyTree):
            each, q = parts.critic_loss(critics, common.critics_see(critics, items)[0], items.action, y)
            loss = (items.weight[None] * each).mean(1).sum()
            return loss, (loss, each, q)

        critics, (loss, each, q), _ = training.descend(adam, critic_loss, state.critics, critic_rate)
        priced, told = costs.learn(
            state.costs,
            items,
            critic_rate,
            lambda critics, seen: parts.taken(critics, seen, items.action),
            lambda critics, seen: parts.expected(state.actor.params, critics, Seen(after.actor, seen), target_key),
        )

        def improve(actor: Trained, log_temperature: Trained) -> tuple[Trained, Trained]:
            by_critics, _ = common.critics_see(critics.params, items)

            def actor_loss(params: PyTree):
                seen = Seen(items.sees(params, items.carry)[0], by_critics)
                loss, log_prob = parts.actor_loss(params, critics.params, alpha, seen, actor_key)
                at = lambda critics, by: parts.expected(params, critics, Seen(seen.actor, by), actor_key)
                return items.mean(costs.weighed(priced, items, loss, at)), log_prob

            actor, log_prob, _ = training.descend(adam, actor_loss, actor, actor_rate)
            if config.learn_temperature:
                log_temperature = common.adapt_temperature(
                    adam, log_temperature, log_prob, goal, actor_rate, items.mean
                )
            return actor, log_temperature

        actor, log_temperature = training.every(
            config.policy_delay, state.updates, improve, state.actor, state.log_temperature
        )
        targets = trees.polyak(state.targets, critics.params, config.tau)
        metrics = {"critic_loss": loss, "q": q.mean(), "target": y.mean(), "temperature": alpha, **agreement, **told}
        state = SACState(
            actor, critics, targets, log_temperature, state.updates + 1, state.steps, costs.averaged(priced)
        )
        return state, items.priority(jnp.sqrt(2.0 * each.mean(0))), metrics

    learner = BatchLearner(init, begin, act, learn, costs.observe, kept)
    return with_memory(learner, make_actor, lambda state: state.actor.params, make_critic)


ALGORITHM = replayed(
    "sac", SACConfig, sac, "soft actor-critic: continuous or discrete actions, replay", common.WITH_MEMORY
)
