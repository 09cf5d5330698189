"""What the off-policy agents of continuous control share: their networks' training, exploration, and checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman import shards
from steersman.agents.parts import training
from steersman.agents.parts.checks import check_config
from steersman.agents.parts.training import Optimiser, Trained
from steersman.agents.parts.with_replay import BatchLearner, with_replay
from steersman.errors import UsageError
from steersman.memory import hindsight, uniform
from steersman.nets.actors import Actor
from steersman.nets.critics import Critic
from steersman.theory import exploration, surrogates
from steersman.types import Agent, EnvSpec, Key, PyTree

NetworkFactory = Callable[[Key, EnvSpec], tuple[Any, Any]]  # -> actor: obs -> distribution; critic: (obs, action) -> Q


@dataclass(frozen=True)
class OffPolicyConfig:
    """The settings that all of them have."""

    unroll_length: int = 1
    """Steps of each environment between two visits to the learner (T)."""
    update_ratio: float = 1.0
    """Gradient steps per environment step; times unroll_length * num_envs it must be whole."""
    batch_size: int = 256
    """Transitions in one gradient step (N)."""
    replay_capacity: int = 1_000_000
    """Transitions that replay holds; the oldest leave."""
    learning_starts: int = 5_000
    """Steps of a random policy that fill replay before learning starts."""
    n_step: int = 1
    """Rewards in a target before it bootstraps."""
    gamma: float = 0.99
    """Discount factor."""
    learning_rate: float = 3e-4
    """Adam's step size for the actor."""
    critic_learning_rate: float | None = None
    """Adam's step size for the critics; none: the actor's."""
    tau: float = 0.005
    """How far the targets move towards the networks in one gradient step."""
    exploration: str = "gaussian"
    """Noise of the acting policy: gaussian (white), ou (Ornstein-Uhlenbeck) or pink."""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of every network (after the convolutions, for images)."""
    activation: str = "relu"
    """Of the hidden layers: tanh, relu, elu, silu or gelu."""
    hindsight: float = 0.0
    """Share of a batch whose goal is replaced by one reached later in the episode (HER); 0: none."""

    def __post_init__(self) -> None:
        check_config(
            self,
            at_least_one=("unroll_length", "batch_size", "replay_capacity", "n_step"),
            positive=("update_ratio", "learning_rate", "critic_learning_rate"),
            non_negative=("learning_starts",),
            fraction=("gamma", "tau", "hindsight"),
            choices={
                "exploration": tuple(exploration.NOISES),
                "activation": ("tanh", "relu", "elu", "silu", "gelu"),
            },
            sizes=("hidden_sizes",),
        )

    @property
    def critic_rate(self) -> Any:
        return self.learning_rate if self.critic_learning_rate is None else self.critic_learning_rate


def replayed(learner: BatchLearner, config: OffPolicyConfig, spec: EnvSpec) -> Agent:
    """The agent that learns from uniform, or hindsight, replay as the config says."""
    size = config.replay_capacity, config.batch_size
    memory = uniform(*size, n_step=config.n_step, gamma=config.gamma)
    if config.hindsight:
        if config.n_step > 1:
            raise UsageError(f"hindsight replaces the goal of single steps: n_step = {config.n_step} must be 1.")
        horizon = spec.max_episode_steps
        if horizon is None:
            raise UsageError(f"hindsight needs episodes of a known greatest length; {spec.id} has no time limit.")
        reward = spec.goal_reward or no_goal_reward(spec)
        memory = hindsight(*size, reward, horizon=horizon, fraction=config.hindsight, gamma=config.gamma)
    return with_replay(learner, memory, ratio=config.update_ratio)


def no_goal_reward(spec: EnvSpec) -> Callable[..., Any]:
    """Stands for a reward that is not known: fine for a policy that only acts, an error once something is learned."""

    def refuse(achieved: Any, desired: Any) -> Any:
        raise UsageError(
            f"hindsight computes rewards anew, and the spec of {spec.id} has no goal_reward, a pure function "
            "(achieved, desired) -> reward. Set it (dataclasses.replace(spec, goal_reward=...)), or set hindsight to 0."
        )

    return refuse


def networks(
    config: OffPolicyConfig, spec: EnvSpec, network: NetworkFactory | None, **kinds: Any
) -> tuple[Callable[[Key], Any], Callable[[Key], Any]]:
    """-> (key -> actor, key -> one critic), of the user's factory or as the config says.

    kinds: ``deterministic`` of the actor, ``outputs`` of the critic.
    """
    if network is not None:
        return lambda key: network(key, spec)[0], lambda key: network(key, spec)[1]
    shape: Any = {"hidden_sizes": config.hidden_sizes, "activation": config.activation}
    outputs, deterministic = kinds.get("outputs", 1), kinds.get("deterministic", False)
    return (
        lambda key: Actor(spec, **shape, deterministic=deterministic, key=key),
        lambda key: Critic(spec, **shape, outputs=outputs, key=key),
    )


def values(critics: PyTree, obs: PyTree, *action: jax.Array) -> jax.Array:
    """What an ensemble of critics says of a batch: [K, N, outputs]. One pass, in which all members share a product."""
    return jax.vmap(lambda critic: jax.vmap(critic)(obs, *action))(critics)


def adapt_temperature(adam: Optimiser, temperature: Trained, log_prob: jax.Array, target: Any, rate: Any) -> Trained:
    """One step on log alpha towards the target entropy."""
    loss = lambda log_alpha: surrogates.temperature_loss(log_alpha, log_prob, target).mean()
    return training.descend(adam, temperature, jax.grad(loss)(temperature.params), rate)


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


def action_size(spec: EnvSpec) -> int:
    return math.prod(spec.action_space.shape or ())


def check_continuous(algorithm: str, spec: EnvSpec, network: Any, *, discrete: bool = False) -> None:
    """Raise UsageError unless the action space is a Box bounded on all sides (or Discrete, where that is served)."""
    space = spec.action_space
    if network is not None and not callable(network):
        raise UsageError(f"network must be a function (key, spec) -> (actor, critic), not {type(network).__name__}.")
    if discrete and isinstance(space, spaces.Discrete):
        return
    also = " or a Discrete one" if discrete else ""
    if not isinstance(space, spaces.Box):
        other = "dqn" if isinstance(space, spaces.Discrete) else "ppo"
        raise UsageError(
            f"{algorithm} needs a continuous (Box) action space{also}; {spec.id} has {space}. Try: steersman train "
            f"{other} {spec.id}"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UsageError(
            f"{algorithm} acts within bounds; {spec.id} has the action space {spec.native_action_space}, which lacks "
            f"some. Give the environment an action space with finite bounds, or try: steersman train ppo {spec.id}"
        )
