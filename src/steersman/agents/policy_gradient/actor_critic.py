"""The online actor-critic: it learns from one transition at a time (Sutton and Barto 2018, section 13.5).

At each step every environment gives one transition (s, a, r, s'), and one Adam step follows.

As the lecture gives it (``critic`` = q), with a~ drawn from pi(.|s'), and not the action taken next:

    delta = r + gamma q(s', a~) - q(s, a)
    critic:  up  delta grad q(s, a)             actor:  up  q(s, a) grad log pi(a|s)

Its advantage form (``critic`` = v), the default, in which the TD error is the advantage, and its variance is less:

    delta = r + gamma V(s') - V(s)
    critic:  up  delta grad V(s)                actor:  up  delta grad log pi(a|s)

Eligibility traces (``trace_lambda``): every environment remembers z <- gamma lambda z + grad, from zero at the start of
an episode, and delta multiplies z in place of grad: for the critic and for the actor, but not for the actor of the q
form, whose factor is no TD error. They cost memory and time for as many copies of the parameters as there are
environments. lambda = 0 is the plain form.

Details: with several environments the step is up the mean over them; delta and q carry no gradient (semi-gradient
TD); gamma = 0 where s' is terminal, and a truncation bootstraps from the true s'; critic steps are weighted by c_v and
the entropy's gradient (no trace) by c_e; one Adam (eps 1e-5, the whole gradient's norm clipped) for both, where the
lecture has two step sizes; the factor gamma^t of the discounted objective is dropped, as is usual. With unroll_length
above 1 the steps of a rollout are still learned from one after another, but were acted before the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from steersman import shards
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import on_policy
from steersman.agents.parts.config import ActorCriticLossConfig
from steersman.agents.parts.observation_groups import groups_of
from steersman.agents.parts.training import Trained
from steersman.agents.parts.wrappers import normalised
from steersman.agents.policy_gradient import common
from steersman.agents.policy_gradient.common import OnPolicyConfig
from steersman.config import Rules
from steersman.nets.actor_critic import ActorCriticFactory
from steersman.nets.critics import ActionValue, Critic
from steersman.theory import returns, values
from steersman.types import Agent, EnvSpec, Key, Metrics, PerEnv, PyTree, Rollout


@dataclass(frozen=True)
class ActorCriticConfig(ActorCriticLossConfig, OnPolicyConfig):
    """Settings of the online actor-critic."""

    unroll_length: int = 1
    """Steps acted before they are learned from, one after another: 1 is online."""
    critic: str = "v"
    """What the critic learns: q (the lecture's plain form) or v (the advantage form)."""
    trace_lambda: float | None = None
    """Decay of the eligibility traces; none: no traces, which is lambda = 0."""
    normalize_observations: bool = False
    """Standardise observations by running moments, saved with the policy; of the first few steps they say little."""
    scale_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""

    rules = Rules(
        fraction=("trace_lambda",),
        choices={"critic": ("q", "v")},
        refused={
            "memory": "it is learned from sequences, and this learns from one step at a time. Train a2c, ppo, impala, "
            "trpo, reinforce or pqn with it."
        },
    )


class Networks(NamedTuple):
    """The two networks; of the form v the critic is the actor's second output, and ``q`` is None."""

    policy: PyTree  # obs -> (distribution, V)
    q: PyTree  # (obs, action) -> Q

    def __call__(self, obs: PyTree) -> tuple[Any, jax.Array]:
        return self.policy(obs)


class ActorCriticState(NamedTuple):
    """What the online actor-critic learns and remembers."""

    params: Networks
    optimiser: PyTree  # Adam's moments
    traces: PyTree  # [B, P] of each environment, or ()
    steps: jax.Array  # uint32, environment steps learned from


class Errors(NamedTuple):
    """What the gradients of actor and critic are multiplied with, each [B]."""

    actor: jax.Array
    critic: jax.Array


def errors(config: ActorCriticConfig, params: Networks, step: Rollout, key: Key) -> Errors:
    """The factors of one step of each environment; step [B, ...]."""
    discount_t = returns.discounts(step.terminated, config.gamma)
    policy, v_t = jax.vmap(params.policy)(step.next_obs)
    if params.q is None:
        delta = values.td_error(jax.vmap(params.policy)(step.obs)[1], step.reward, discount_t, v_t)
        return Errors(delta, delta)
    keys = shards.member_keys(key, discount_t.shape[0])
    next_action = jax.vmap(lambda p, k: p.sample(k))(policy, keys)
    q_tm1, q_t = jax.vmap(params.q)(step.obs, step.action), jax.vmap(params.q)(step.next_obs, next_action)
    return Errors(q_tm1, values.td_error(q_tm1, step.reward, discount_t, q_t))


def eligibility(config: ActorCriticConfig, params: Networks, obs: PyTree, action: PyTree, err: Errors) -> jax.Array:
    """Of one transition: its gradient is the step that the errors ask for."""
    policy, value = params.policy(obs)
    critic = value if params.q is None else params.q(obs, action)
    return err.actor * policy.log_prob(action) + config.value_coefficient * err.critic * critic


def actor_critic(
    config: ActorCriticConfig, spec: EnvSpec, *, budget: int | None = None, network: ActorCriticFactory | None = None
) -> Agent:
    """The online actor-critic as an agent for an environment.

    network: ``(key, spec) -> module``, the module mapping one observation to ``(distribution, value)``; by default
    ``nets.actor_critic.ActorCritic`` as the config says. The q form has a second one, ``nets.critics.ActionValue``.
    Raises UsageError for an action space that no policy head serves.
    """
    make_network = common.network_maker("actor_critic", config, spec, network, remembers=False)
    adam = common.adam(config)

    def init(key: Key, first_rollout: Rollout) -> ActorCriticState:
        keys = jax.random.split(key)
        q = None
        if config.critic == "q":
            q = ActionValue(Critic(groups_of(config, spec).value, **config.network, key=keys[1]))
        net, traces = training.trained(adam, Networks(make_network(keys[0]), q)), ()
        if config.trace_lambda is not None:
            vector, _ = ravel_pytree(net.params)
            traces = PerEnv(jnp.zeros((first_rollout.reward.shape[1], vector.size), vector.dtype))
        return ActorCriticState(*net, traces, jnp.zeros((), jnp.uint32))

    def loss(params: Networks, step: Rollout, err: Errors, along: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """Minus what is to rise, for one step of each environment; ``along``: a direction [P] that is added to it."""
        policy, _ = jax.vmap(params.policy)(step.obs)
        entropy = policy.entropy().mean()
        if along is None:
            ups = jax.vmap(lambda o, a, e: eligibility(config, params, o, a, e))(step.obs, step.action, err).mean()
        else:
            ups = jnp.vdot(along, ravel_pytree(params)[0])
        metrics = {"entropy": entropy, "td_error": jnp.abs(err.critic).mean()}
        return -ups - config.entropy_coefficient * entropy, metrics

    def remember(traces: jax.Array, params: Networks, step: Rollout) -> jax.Array:
        """z <- gamma lambda z + grad, [B, P]; where the actor's factor is no TD error its part does not last."""
        one = Errors(jnp.ones(()), jnp.ones(()))
        grad = jax.grad(lambda p, o, a: eligibility(config, p, o, a, one))
        fresh = jax.vmap(lambda o, a: ravel_pytree(grad(params, o, a))[0])(step.obs, step.action)
        decay = jnp.where(jnp.asarray(step.first), 0.0, config.gamma * jnp.float32(config.trace_lambda))[:, None]
        return (decay if params.q is None else decay * critics_part(params)) * traces + fresh

    def critics_part(params: Networks) -> jax.Array:
        """1 for the parameters of q, 0 for the others: [1, P]."""
        parts = Networks(jax.tree.map(jnp.zeros_like, params.policy), jax.tree.map(jnp.ones_like, params.q))
        return ravel_pytree(parts)[0][None]

    def direction(traces: jax.Array, params: Networks, err: Errors) -> jax.Array:
        """The mean over environments of error x trace, [P]."""
        if params.q is None:
            return err.critic @ traces / err.critic.size
        part = critics_part(params)[0]
        return (part * (err.critic @ traces) + (1.0 - part) * (err.actor @ traces)) / err.critic.size

    def update(state: ActorCriticState, rollout: Rollout, key: Key) -> tuple[ActorCriticState, Metrics]:
        rate = training.annealed(config, budget, state.steps)

        def learn(carry: tuple[Trained, PyTree], now: tuple[Rollout, jax.Array]):
            net, traces = carry
            step, t = now
            params = net.network
            err = errors(config, params, step, jax.random.fold_in(key, t))
            along = None
            if config.trace_lambda is not None:
                traces = PerEnv(remember(traces.value, params, step))
                along = direction(traces.value, params, err)
            net, metrics, norm = training.descend(adam, loss, net, rate, step, err, along)
            return (net, traces), metrics | {"grad_norm": norm}

        start = training.packed(adam, Trained(state.params, state.optimiser)), state.traces
        times = jnp.arange(rollout.reward.shape[0], dtype=jnp.int32)
        (net, traces), metrics = jax.lax.scan(learn, start, (rollout._replace(carry=()), times))
        metrics = {name: value.mean() for name, value in metrics.items()} | {"learning_rate": rate}
        after = training.unpacked(net)
        return ActorCriticState(*after, traces, training.counted(state.steps, rollout)), metrics

    return normalised(Agent(init, lambda num_envs: (), common.act, update), config)


ALGORITHM = on_policy(
    "actor_critic",
    ActorCriticConfig,
    actor_critic,
    "online actor-critic: one transition at a time, Q or TD-error form, eligibility traces",
)
