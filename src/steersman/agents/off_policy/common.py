"""What the off-policy agents of continuous control share: their networks' training, exploration, and checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman import shards
from steersman.agents.parts import config as groups
from steersman.agents.parts import own_networks, training
from steersman.agents.parts.observation_groups import groups_of
from steersman.agents.parts.remembering import behind_memory, check_own
from steersman.agents.parts.replay import multi_step
from steersman.agents.parts.replay.sequences import Items, sequence_replay
from steersman.agents.parts.replay.with_replay import BatchLearner, with_replay
from steersman.agents.parts.training import Optimiser, Trained
from steersman.agents.parts.wrappers import normalised
from steersman.config import Rules
from steersman.errors import UsageError
from steersman.memory import hindsight, uniform
from steersman.nets.actors import Actor
from steersman.nets.critics import Critic
from steersman.nets.memory.remembering import Remembering
from steersman.theory import exploration, surrogates
from steersman.theory.distributions import Categorical, TanhGaussian
from steersman.types import Agent, EnvSpec, Key, PyTree, Rollout

NetworkFactory = Callable[[Key, EnvSpec], tuple[Any, Any]]  # -> actor: obs -> distribution; critic: (obs, action) -> Q


@dataclass(frozen=True)
class OffPolicyConfig(
    groups.NoiseConfig,
    groups.ReplayConfig,
    groups.RewardScalingConfig,
    groups.ObservationGroupsConfig,
    groups.ObservationNormConfig,
    groups.ReplayedMemoryConfig,
    groups.NetworkConfig,
    groups.OptimiserConfig,
    groups.RolloutConfig,
):
    """Settings of every off-policy agent of continuous control; the defaults are for an environment that nobody has
    tuned: those usual for MuJoCo, whatever the sizes of observations and rewards, and for short budgets too."""

    unroll_length: int = 1
    """Steps of each environment between two visits to the learner (T)."""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of every network (after the convolutions, for images)."""
    activation: str = "relu"
    """Of the hidden layers: tanh, relu, elu, silu or gelu."""
    learning_starts: int = 500
    """Environment steps of a random policy that fill replay before learning starts."""
    normalize_observations: bool = True
    """Standardise observations by running moments, saved with the policy."""
    scale_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""
    critic_learning_rate: float | None = None
    """The critics' step size at the start; none: the actor's."""
    hindsight: float = 0.0
    """Share of a batch whose goal is replaced by one reached later in the episode (HER); 0: none."""

    rules = Rules(positive=("critic_learning_rate",), fraction=("hindsight",))


# Where there is a memory: sequences in a batch, each learned from about as often as a batch of single steps would be.
WITH_MEMORY = {"unroll_length": 8, "update_ratio": 1 / 8, "batch_size": 32}


def adam(config: OffPolicyConfig, *, b1: float = 0.9) -> Optimiser:
    """The optimiser of each of their networks."""
    return training.adam(max_grad_norm=config.max_grad_norm, b1=b1, flat=0)


def rates(config: OffPolicyConfig, budget: int | None, steps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The step sizes of the actor and of the critics."""
    critics = config.learning_rate if config.critic_learning_rate is None else config.critic_learning_rate
    return training.annealed(config, budget, steps), training.annealed(config, budget, steps, critics)


def began(config: OffPolicyConfig) -> jax.Array:
    """The count of environment steps that replay starts with, uint32."""
    return jnp.asarray(config.learning_starts, jnp.uint32)


def observe(state: Any, rollout: Rollout) -> Any:
    """A learner's ``observe``, for a state with ``steps``: the environment steps are counted."""
    return state._replace(steps=training.counted(state.steps, rollout))


def replayed(learner: BatchLearner, config: OffPolicyConfig, spec: EnvSpec) -> Agent:
    """The agent that learns from uniform, or hindsight, replay as the config says; from sequences, with a memory."""
    size = config.replay_capacity, config.batch_size
    options: Any = {"gamma": config.gamma, "frame_stack": config.frame_stack, "path": multi_step.corrects(config)}
    memory = sequence_replay(config) if learner.remembers else uniform(*size, n_step=config.n_step, **options)
    if not (isinstance(config.hindsight, Real) and config.hindsight == 0):  # a swept one may be any
        if learner.remembers:
            raise UsageError("hindsight replaces the goal of single steps, and a memory has seen the old one before.")
        if config.n_step > 1:
            raise UsageError(f"hindsight replaces the goal of single steps: n_step = {config.n_step} must be 1.")
        if config.frame_stack > 1:
            raise UsageError(f"hindsight stores whole observations: frame_stack = {config.frame_stack} must be 1.")
        horizon = spec.max_episode_steps
        if horizon is None:
            raise UsageError(f"hindsight needs episodes of a known greatest length; {spec.id} has no time limit.")
        if spec.cost_names:
            raise UsageError(
                f"hindsight replaces the goals of steps, and knows no costs for other goals; {spec.id} has costs "
                f"({', '.join(spec.cost_names)}). Leave out either."
            )
        reward = spec.goal_reward or no_goal_reward(spec)
        memory = hindsight(*size, reward, horizon=horizon, fraction=config.hindsight, gamma=config.gamma)
    return with_replay(normalised(learner, config), memory, ratio=config.update_ratio)


def no_goal_reward(spec: EnvSpec) -> Callable[..., Any]:
    """Stands for a reward that is not known: fine for a policy that only acts, an error once something is learned."""

    def refuse(achieved: Any, desired: Any) -> Any:
        raise UsageError(
            f"hindsight computes rewards anew, and the spec of {spec.id} has no goal_reward, a pure function "
            "(achieved, desired) -> reward. Set it (dataclasses.replace(spec, goal_reward=...)), or set hindsight to 0."
        )

    return refuse


def networks(
    algorithm: str, config: OffPolicyConfig, spec: EnvSpec, network: NetworkFactory | None, **kinds: Any
) -> tuple[Callable[[Key], Any], Callable[[Key], Any]]:
    """-> (key -> actor, key -> one critic), of the user's factory or as the config says. Raises UsageError for networks
    that do not do.

    kinds: ``deterministic`` of the actor, ``outputs`` of the critic. Each of them may have a memory, of its own.
    """
    outputs, deterministic = kinds.get("outputs", 1), kinds.get("deterministic", False)
    check_own(config, network)
    if network is not None:
        form = f"a pair: actor, obs -> distribution, and critic, obs, action -> [{outputs}]"
        wrong = partial(_wrong_pair, spec, outputs, deterministic)
        make = own_networks.own_network(algorithm, spec, network, form, wrong)
        return lambda key: make(key)[0], lambda key: make(key)[1]
    policy, value = groups_of(config, spec)
    return (
        behind_memory(config, policy, lambda spec, net, key: Actor(spec, **net, deterministic=deterministic, key=key)),
        behind_memory(config, value, lambda spec, net, key: Critic(spec, **net, outputs=outputs, key=key)),
    )


def _wrong_pair(spec: EnvSpec, outputs: int, deterministic: bool, made: Any, obs: PyTree, key: Key) -> str:
    """What is wrong with an actor and a critic of the user's; empty where nothing is."""
    if problem := own_networks.pair(made, "the function", "(actor, critic)"):
        return problem
    discrete = isinstance(spec.action_space, spaces.Discrete)
    seen = []
    for module, name in zip(made, ("actor", "critic"), strict=True):
        known, problem = own_networks.memory(module, obs, spec) if isinstance(module, Remembering) else (obs, "")
        if problem:
            return f"of its {name}, {problem}"
        seen.append(known)
    policy, problem = own_networks.called(made[0], seen[0])
    kind = Categorical if discrete else TanhGaussian
    if not problem and not deterministic and not isinstance(policy, kind):
        found = own_networks.describe(policy)
        return f"its actor gives {found}; it is to give a steersman.theory.distributions.{kind.__name__}"
    methods = ("mode",) if deterministic else own_networks.DISTRIBUTION
    if problem or (problem := own_networks.distribution(policy, spec, key, methods)):
        return problem
    action = () if discrete else (jnp.zeros(action_size(spec), jnp.float32),)
    q, problem = own_networks.called(made[1], seen[1], *action)
    shape = (int(spec.action_space.n),) if isinstance(spec.action_space, spaces.Discrete) else (outputs,)
    return problem or own_networks.numbers(q, shape, "its critic's output")


class Own(NamedTuple):
    """What each critic of an ensemble sees, by its own memory: [K, M, ...]."""

    seen: PyTree


class Seen(NamedTuple):
    """What the networks see of M states."""

    actor: PyTree  # [M, ...]
    critics: PyTree  # [M, ...] the same for all, or Own


def critics_see(critics: PyTree, items: Items) -> tuple[Any, Any]:
    """``items.sees`` for an ensemble: before and after each step. Its memories begin anew in each sequence."""
    if not items.sequences:
        return items.sees(critics)
    before, after = jax.vmap(items.sees)(critics)
    return Own(before), Own(after)


def values(critics: PyTree, obs: PyTree, *action: jax.Array) -> jax.Array:
    """What an ensemble of critics says of a batch: [K, N, outputs]. One pass, in which all members share a product."""
    if isinstance(obs, Own):
        return jax.vmap(lambda critic, seen: jax.vmap(critic)(seen, *action))(critics, obs.seen)
    return jax.vmap(lambda critic: jax.vmap(critic)(obs, *action))(critics)


def adapt_temperature(
    adam: Optimiser, temperature: Trained, log_prob: jax.Array, target: Any, rate: Any, mean: Any = jnp.mean
) -> Trained:
    """One step on log alpha towards the target entropy. mean: over what is there of the batch."""
    loss = lambda log_alpha: (mean(surrogates.temperature_loss(log_alpha, log_prob, target)), ())
    return training.descend(adam, loss, temperature, rate)[0]


class ActionNoise(NamedTuple):
    """Standard normal noise for actions, white or correlated in time; its memory is part of an agent's carry."""

    begin: Callable[[int], PyTree]  # num_envs -> memory [B, ...]
    step: Callable[[PyTree, jax.Array, Key], tuple[PyTree, jax.Array]]  # (memory, first [B], key) -> (.., z [B, A])


def action_noise(kind: str, size: int) -> ActionNoise:
    """Noise of a kind (``exploration.NOISES``) for flat actions [A]; each episode starts with a fresh draw."""
    decays = np.asarray(exploration.NOISES[kind], np.float32)
    white = not decays.any()

    def begin(num_envs: int) -> PyTree:
        return () if white else jnp.zeros((num_envs, size, len(decays)), jnp.float32)

    def step(memory: PyTree, first: jax.Array, key: Key) -> tuple[PyTree, jax.Array]:
        keys = shards.member_keys(key, first.shape[0])
        if white:
            return (), jax.vmap(lambda k: jax.random.normal(k, (size,), jnp.float32))(keys)

        def one(x: jax.Array, opens: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
            return exploration.noise_step(x, key, jnp.where(opens, 0.0, jnp.asarray(decays))[None])

        return jax.vmap(one)(memory, jnp.asarray(first), keys)

    return ActionNoise(begin, step)


def noisy_acting(spec: EnvSpec, kind: str, std: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``begin`` and ``act`` of a deterministic policy: clip(mu(s) + std z, -1, 1), and mu(s) where not exploring."""
    noise = action_noise(kind, action_size(spec))

    def act(state: Any, carry: PyTree, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        action = jax.vmap(state.actor.params)(obs).mode()
        if explore:
            carry, z = noise.step(carry, first, key)
            action = jnp.clip(action + std * z, -1.0, 1.0)
        return shaped(action, spec), carry, {}

    return noise.begin, act


def flat_actions(action: jax.Array) -> jax.Array:
    """[N, ...] -> [N, A]."""
    return action.reshape(action.shape[0], -1)


def shaped(action: jax.Array, spec: EnvSpec) -> jax.Array:
    """[B, A] -> [B, ...] as the action space has it."""
    return action.reshape(action.shape[0], *(spec.action_space.shape or ()))


def check_density(algorithm: str, config: OffPolicyConfig) -> None:
    """Raise UsageError where n-step targets cannot be corrected by the densities of actions that are not counted."""
    why = "of a density no action has a probability, so none that was stored is the one to follow"
    multi_step.check_correction(algorithm, config, why, "retrace")
    if config.n_step_correction == "retrace" and config.exploration_noise != "gaussian":
        raise UsageError(
            f"{algorithm}: n_step_correction retrace needs the density that actions were drawn from, and with "
            f"exploration_noise {config.exploration_noise} it depends on the noise before. Set exploration_noise to "
            "gaussian, or n_step_correction to none."
        )


def action_size(spec: EnvSpec) -> int:
    return math.prod(spec.action_space.shape or ())


def check_continuous(algorithm: str, spec: EnvSpec, *, discrete: bool = False) -> None:
    """Raise UsageError unless the action space is a Box bounded on all sides (or Discrete, where that is served)."""
    space = spec.action_space
    if discrete and isinstance(space, spaces.Discrete):
        return
    also = " or a Discrete one" if discrete else ""
    if not isinstance(space, spaces.Box):
        other = "dqn" if isinstance(space, spaces.Discrete) else "ppo"
        raise UsageError(
            f"{algorithm} needs a continuous (Box) action space{also}; {spec.id} has {spec.native_action_space}. "
            f"Try: steersman train {other} {spec.id}"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UsageError(
            f"{algorithm} acts within bounds; {spec.id} has the action space {spec.native_action_space}, which lacks "
            f"some. Give the environment an action space with finite bounds, or try: steersman train ppo {spec.id}"
        )
