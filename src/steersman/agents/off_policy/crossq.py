"""CrossQ (Bhatt et al. 2024, arXiv:1902.05605): SAC without target networks, with batch renormalisation instead.

What target networks are for, slow targets, is given up; what makes that stable is that a critic sees (s, a) and (s',
a') in *one* batch, normalised together, so both sides of the Bellman equation are in the same distribution:

1. [Q_k(s, a); Q_k(s', a')] = one forward pass of each critic over the joined batch of 2N, a' ~ pi(. | s').
2. y = r + gamma_t [min_k Q_k(s', a') - alpha log pi(a' | s')], no gradient.
3. Critics: one Adam step on sum_k mean (Q_k(s, a) - y)^2 / 2; their running moments move with the joined batch.
4. At every ``policy_delay``-th step: actor and temperature as in SAC; the critics use their running moments there.

Details, as the authors': batch renormalisation (momentum 0.99, warm-up of 100,000 batches as plain batch normalisation)
before the first layer and after every activation, in actor and critics; Adam with beta_1 = 0.5 and learning rate 1e-3;
policy delay 3; wide critics. The paper's critics are 2048 wide and reach the returns of REDQ and DroQ, which take 20
updates per step, with one (figures 5 and 6). 1024 is what SBX ships.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.agents.off_policy import common
from steersman.agents.off_policy.sac import SoftConfig
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import replayed
from steersman.agents.parts.observation_groups import groups_of
from steersman.agents.parts.replay import multi_step
from steersman.agents.parts.replay.with_replay import BatchLearner
from steersman.agents.parts.training import Trained
from steersman.config import Rules
from steersman.errors import UsageError
from steersman.memory import Sample
from steersman.nets.actors import policy_of, policy_outputs
from steersman.nets.critics import ensemble
from steersman.nets.encoders import Encoder
from steersman.nets.heads import POLICY_GAIN
from steersman.nets.layers.batch_renorm import NormedMLP
from steersman.theory.values import soft_value, td_error
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class CrossQConfig(SoftConfig):
    """Settings of CrossQ; the defaults are those of SBX."""

    learning_rate: float = 1e-3
    """Adam's step size for the actor."""
    policy_delay: int = 3
    """Gradient steps of the critics for one of actor and temperature."""
    critic_sizes: tuple[int, ...] = (1024, 1024)
    """Widths of the critics' hidden layers."""
    adam_b1: float = 0.5
    """Decay of Adam's first moment."""
    norm_warm_up: int = 100_000
    """Batches that are normalised plainly before the renormalisation sets in."""

    rules = Rules(
        non_negative=("norm_warm_up",),
        fraction=("adam_b1",),
        sizes=("critic_sizes",),
        refused={
            "memory": "its networks, normalised over batches of single steps, have none. Train sac or tqc with it.",
            "layer_norm": "batch renormalisation takes its place: it is the algorithm. Train sac with it.",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        common.check_density("CrossQ", self)


class Net(eqx.Module):
    """An encoder, then an MLP with batch renormalisation: a batch of (obs, extra numbers) -> [N, outputs]."""

    encoder: Encoder
    mlp: NormedMLP

    def __call__(self, moments: PyTree, obs: PyTree, *action: jax.Array, train: bool) -> tuple[jax.Array, PyTree]:
        return self.mlp(jnp.concatenate([jax.vmap(self.encoder)(obs), *action], axis=1), moments, train=train)


class CrossQState(NamedTuple):
    """What CrossQ learns."""

    actor: Trained
    critics: Trained  # leaves [K, ...]
    actor_moments: PyTree
    critic_moments: PyTree  # leaves [K, ...]
    log_temperature: Trained
    updates: jax.Array  # int32, gradient steps taken
    steps: jax.Array  # uint32, environment steps learned from


def crossq(config: CrossQConfig, spec: EnvSpec, *, budget: int | None = None, network: Any = None) -> Agent:
    """CrossQ as an agent for an environment with a bounded Box action space; raises UsageError for others, and for a
    network of one's own: the normalisation in it is the algorithm."""
    return common.replayed(crossq_learner(config, spec, budget=budget, network=network), config, spec)


def crossq_learner(
    config: CrossQConfig, spec: EnvSpec, *, budget: int | None = None, network: Any = None
) -> BatchLearner:
    """CrossQ as a learner from batches, for a replay of one's own."""
    common.check_continuous("CrossQ", spec)
    if network is not None:
        raise UsageError("CrossQ takes no network of your own: batch renormalisation in it is the algorithm. Try sac.")
    size = common.action_size(spec)
    kind, outputs = policy_outputs(spec.action_space)
    goal = -float(size) if config.target_entropy is None else config.target_entropy
    adam, noise = common.adam(config, b1=config.adam_b1), common.action_noise(config.exploration_noise, size)
    kept = multi_step.keeps(config)

    sees = groups_of(config, spec)

    def make(seen: EnvSpec, sizes: tuple[int, ...], extra: int, outputs: int, gain: float) -> Callable[[Key], Net]:
        def one(key: Key) -> Net:
            encoder_key, mlp_key = jax.random.split(key)
            encoder = Encoder(seen.observation_space, config.encoder, channels=config.channels, key=encoder_key)
            options: Any = {"activation": config.activation, "gain": gain, "warm_up": config.norm_warm_up}
            return Net(encoder, NormedMLP(encoder.out_size + extra, sizes, outputs, key=mlp_key, **options))

        return one

    def init(key: Key, first_rollout: Rollout) -> CrossQState:
        actor_key, critic_key = jax.random.split(key)
        actor = make(sees.policy, config.hidden_sizes, 0, outputs, POLICY_GAIN)(actor_key)
        critics = ensemble(make(sees.value, config.critic_sizes, size, 1, 1.0), critic_key, config.num_critics)
        return CrossQState(
            training.trained(adam, actor),
            training.trained(adam, critics),
            actor.mlp.start(),
            jax.vmap(lambda critic: critic.mlp.start())(critics),
            training.trained(adam, jnp.log(jnp.asarray(config.temperature, jnp.float32))),
            jnp.zeros((), jnp.int32),
            common.began(config),
        )

    def act(state: CrossQState, carry: PyTree, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        policy: Any = policy_of(kind, state.actor.params(state.actor_moments, obs, train=False)[0])
        if not explore:
            return common.shaped(policy.mode(), spec), carry, {}
        carry, z = noise.step(carry, first, key)
        action = jnp.tanh(policy.loc + jnp.exp(policy.log_std) * z)
        return common.shaped(action, spec), carry, {"log_prob": policy.log_prob(action)} if kept else {}

    def judge(critics: PyTree, moments: PyTree, obs: PyTree, action: jax.Array, train: bool):
        """Q [K, N] and the moments after it."""
        q, moments = jax.vmap(lambda critic, m: critic(m, obs, action, train=train))(critics, moments)
        return q[..., 0], moments

    def learn(state: CrossQState, sample: Sample, key: Key) -> tuple[CrossQState, jax.Array, Metrics]:
        batch, weight = sample.batch, sample.weight
        next_key, actor_key = jax.random.split(key)
        alpha = jnp.exp(state.log_temperature.params)
        steps = None if sample.path is None else multi_step.steps_of(config, sample.path)
        next_obs = batch.next_obs if steps is None else steps.obs_t
        policy: Any = policy_of(kind, state.actor.params(state.actor_moments, next_obs, train=False)[0])
        next_action, log_prob = policy.sample_and_log_prob(next_key)
        size, judged = len(weight), [(batch.obs, common.flat_actions(batch.action)), (next_obs, next_action)]
        if steps is not None:  # the actions that were taken next, too; none after the last step
            before_last = jax.tree.map(lambda x: x[:-size], (steps.obs_t, common.flat_actions(steps.action_t)))
            judged.append(before_last)
        all_obs, all_actions = jax.tree.map(lambda *x: jnp.concatenate(x), *judged)

        actor_rate, critic_rate = common.rates(config, budget, state.steps)

        def critic_loss(critics: PyTree):
            q, moments = judge(critics, state.critic_moments, all_obs, all_actions, train=True)
            q_tm1, q_t, q_taken = jnp.split(q, [size, size + len(next_action)], axis=1)
            v_t = jax.lax.stop_gradient(soft_value(q_t.min(0), log_prob, alpha))
            if steps is None:
                error, agreement = td_error(q_tm1, batch.reward[None], sample.discount[None], v_t[None]), {}
            else:
                taken = jnp.pad(jax.lax.stop_gradient(q_taken.min(0)), (0, size))
                chance = policy.log_prob(common.flat_actions(steps.action_t))
                y, agreement = multi_step.target(config, steps, v_t, taken, chance)
                error = y[None] - q_tm1
            loss = (weight[None] * 0.5 * jnp.square(error)).mean(1).sum()
            return loss, (loss, error, q_tm1, moments, agreement)

        critics, found, _ = training.descend(adam, critic_loss, state.critics, critic_rate)
        loss, error, q, critic_moments, agreement = found

        def improve(actor: Trained, actor_moments: PyTree, log_temperature: Trained):
            def actor_loss(params: PyTree):
                out, moments = params(actor_moments, batch.obs, train=True)
                policy: Any = policy_of(kind, out)
                action, log_prob = policy.sample_and_log_prob(actor_key)
                q, _ = judge(critics.params, critic_moments, batch.obs, action, train=False)
                return -soft_value(q.min(0), log_prob, alpha).mean(), (log_prob, moments)

            actor, (log_prob, moments), _ = training.descend(adam, actor_loss, actor, actor_rate)
            if config.learn_temperature:
                log_temperature = common.adapt_temperature(adam, log_temperature, log_prob, goal, actor_rate)
            return actor, moments, log_temperature

        actor, actor_moments, log_temperature = training.every(
            config.policy_delay, state.updates, improve, state.actor, state.actor_moments, state.log_temperature
        )
        metrics = {"critic_loss": loss, "q": q.mean(), "temperature": alpha, **agreement}
        moments = actor_moments, critic_moments
        after = CrossQState(actor, critics, *moments, log_temperature, state.updates + 1, state.steps)
        return after, jnp.abs(error).mean(0), metrics

    return BatchLearner(init, noise.begin, act, learn, common.observe, kept)


ALGORITHM = replayed("crossq", CrossQConfig, crossq, "CrossQ: SAC with batch renormalisation, without target networks")
