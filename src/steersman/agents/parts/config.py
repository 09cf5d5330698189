"""Groups of settings that algorithms' configs are composed of, by inheritance: fields stay flat, one name is one thing.

A config lists its groups, says other defaults where it has them, and adds fields of its own; the command line's help is
grouped by the class that names a field first. A class's ``rules`` are the ranges of its fields, checked when a config
is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steersman.config import Config, Rules, check_config
from steersman.errors import UsageError
from steersman.nets.encoders import ENCODERS
from steersman.nets.layers.conv import CHANNELS
from steersman.nets.layers.mlp import ACTIVATIONS
from steersman.nets.memory.cells import SCANS
from steersman.nets.memory.remembered import MEMORIES, MemorySettings
from steersman.theory.exploration import NOISES


@dataclass(frozen=True)
class RolloutConfig(Config):
    """How much is played between updates, and how far ahead it counts."""

    unroll_length: int = 128
    """Steps of each environment between two updates (T)."""
    gamma: float = 0.99
    """Discount factor."""

    rules = Rules(at_least_one=("unroll_length",), fraction=("gamma",))


@dataclass(frozen=True)
class NetworkConfig(Config):
    """How networks are built."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of every network (after the convolutions, for images)."""
    activation: str = "tanh"
    """Of the hidden layers: tanh, relu, elu, silu or gelu."""
    encoder: str = "auto"
    """What reads images: auto, flatten, nature, impala or minatar."""
    channels: str = "auto"
    """Which axis of an image or board holds the channels: first, last, smallest, or auto, which tells by the sizes."""
    layer_norm: bool = False
    """Normalise every hidden layer, of convolutions too (LayerNorm)."""

    rules = Rules(
        choices={"activation": tuple(ACTIVATIONS), "encoder": ENCODERS, "channels": CHANNELS}, sizes=("hidden_sizes",)
    )

    @property
    def network(self) -> dict[str, Any]:
        """The settings above, as the networks take them."""
        names = ("hidden_sizes", "activation", "encoder", "channels", "layer_norm")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class MemoryConfig(Config):
    """What is remembered of an episode, where one observation does not tell enough."""

    memory: str = "none"
    """Of the network: none, gru, lstm, lru (linear, complex poles), tcn (temporal convolutions) or window (the last
    observations, joined)."""
    memory_size: int = 64
    """Width of the memory; a window is as wide as what it holds."""
    memory_context: int | None = None
    """How far back: the steps of a window (none: 4), those that convolutions see (32), the longest time constant that
    the gates of gru and lstm (64) and the poles of lru (1000) start with."""
    memory_slow: bool = True
    """Start with gates and poles of all time constants up to memory_context; off: the cells' plain initialisation."""
    memory_scan: str = "auto"
    """How an lru goes over a sequence: sequential, parallel, or auto, which is the faster one (by the backend)."""
    previous_action: bool = True
    """Let memory see the previous action too, and whether there was one."""

    rules = Rules(at_least_one=("memory_size", "memory_context"), choices={"memory": MEMORIES, "memory_scan": SCANS})

    @property
    def remembers(self) -> MemorySettings:
        """The settings above, as the networks take them."""
        return MemorySettings(
            self.memory, self.memory_size, self.memory_context, self.memory_slow, self.memory_scan, self.previous_action
        )


@dataclass(frozen=True)
class ReplayedMemoryConfig(MemoryConfig):
    """What is remembered, and how it is brought back from replay: in sequences of steps."""

    sequence_length: int | None = None
    """Steps of a replayed sequence, burn-in included, of an agent with memory; none: 32 after burn-in."""
    burn_in: int = 8
    """Steps at its start that bring the memory up to date, and that nothing is learned from."""
    stored_carry: bool = True
    """Begin it with the memory that acting had there; off: with an empty one."""

    rules = Rules(at_least_one=("sequence_length",), non_negative=("burn_in",))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.burn_in >= self.sequence_steps:
            raise UsageError(
                f"burn_in = {self.burn_in} leaves nothing to learn from of sequences of sequence_length = "
                f"{self.sequence_length}. Lower burn_in, or raise sequence_length."
            )

    @property
    def sequence_steps(self) -> int:
        """S, however it is given."""
        return self.burn_in + 32 if self.sequence_length is None else self.sequence_length


@dataclass(frozen=True)
class OptimiserConfig(Config):
    """How parameters move."""

    learning_rate: float = 3e-4
    """The step size at the start."""
    anneal_learning_rate: bool = False
    """Let the step sizes fall linearly to zero over the run."""
    max_grad_norm: float | None = None
    """Clip the norm of a network's whole gradient to this; none: as it is."""

    rules = Rules(positive=("learning_rate", "max_grad_norm"))


@dataclass(frozen=True)
class ObservationNormConfig(Config):
    """What is made of observations."""

    normalize_observations: bool = False
    """Standardise observations by running moments, saved with the policy."""


@dataclass(frozen=True)
class ObservationGroupsConfig(Config):
    """Which entries of a Dict observation are for whom (asymmetric actor-critic): NAME,NAME or 'all but NAME'. A policy
    that is loaded or exported asks for its own alone."""

    policy_sees: tuple[str, ...] = ()
    """Entries that the policy sees, as in state or 'all but privileged_state'; none given: all."""
    value_sees: tuple[str, ...] = ()
    """Entries that the value, or the critics, see, as in state,privileged_state; none given: all."""


@dataclass(frozen=True)
class RewardScalingConfig(Config):
    """What is made of rewards."""

    scale_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""


@dataclass(frozen=True)
class EpochsConfig(Config):
    """How often a rollout is gone over."""

    num_epochs: int = 4
    """Passes over the rollout in one update."""
    num_minibatches: int = 4
    """Minibatches in one pass; it must divide unroll_length * num_envs."""
    sequence_length: int | None = None
    """Steps of one environment that stay together in a minibatch, of an agent with memory, and over which gradients
    flow back; none: as many as num_minibatches allows."""

    rules = Rules(at_least_one=("num_epochs", "num_minibatches", "sequence_length"))


@dataclass(frozen=True)
class ReplayConfig(Config):
    """What is remembered, and how often it is learned from."""

    update_ratio: float = 1.0
    """Gradient steps per environment step; times unroll_length * num_envs it must be whole."""
    batch_size: int = 256
    """Transitions in one gradient step (N)."""
    replay_capacity: int = 1_000_000
    """Transitions that replay holds, over all environments; the oldest leave."""
    learning_starts: int = 5_000
    """Environment steps of a random policy that fill replay before learning starts."""
    n_step: int = 1
    """Rewards in a target before it bootstraps (n)."""
    n_step_correction: str = "none"
    """How far stored actions are followed that the policy may not take now: none, cut or retrace (n_step above 1)."""
    retrace_lambda: float = 1.0
    """Decay of the traces: 0 is one step, 1 follows as far as is safe (retrace)."""
    frame_stack: int = 1
    """Frames in one image observation: above 1 each is stored once."""

    rules = Rules(
        at_least_one=("batch_size", "replay_capacity", "n_step", "frame_stack"),
        positive=("update_ratio",),
        non_negative=("learning_starts",),
        fraction=("retrace_lambda",),
        choices={"n_step_correction": ("none", "cut", "retrace")},
    )


@dataclass(frozen=True)
class ExplorationConfig(Config):
    """Which actions are tried, where they can be counted."""

    exploration: str = "epsilon_greedy"
    """The exploring policy: epsilon_greedy or boltzmann."""
    exploration_start: float = 1.0
    """Epsilon, or the temperature, at the start."""
    exploration_end: float = 0.05
    """Epsilon, or the temperature, at the end; evaluation is greedy."""
    exploration_fraction: float = 0.1
    """The part of the run over which it falls linearly; without a budget it is exploration_end throughout."""

    rules = Rules(
        non_negative=("exploration_start", "exploration_end"),
        fraction=("exploration_fraction",),
        choices={"exploration": ("epsilon_greedy", "boltzmann")},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exploration == "epsilon_greedy":
            check_config(self, fraction=("exploration_start", "exploration_end"))


@dataclass(frozen=True)
class NoiseConfig(Config):
    """Which actions are tried, where they are continuous."""

    exploration_noise: str = "gaussian"
    """Noise of the acting policy: gaussian (white), ou (Ornstein-Uhlenbeck) or pink."""

    rules = Rules(choices={"exploration_noise": tuple(NOISES)})


@dataclass(frozen=True)
class TargetConfig(Config):
    """The slow copies that targets are made with."""

    tau: float = 0.005
    """How far the targets move towards the networks when they do: 1 copies, less averages (Polyak)."""

    rules = Rules(fraction=("tau",))


@dataclass(frozen=True)
class HuberLossConfig(Config):
    """How much large errors count."""

    huber_threshold: float = 1.0
    """Errors below it count squared, above it linearly (kappa); quantiles need it well below the returns' spread."""

    rules = Rules(positive=("huber_threshold",))


@dataclass(frozen=True)
class ActorCriticLossConfig(Config):
    """The terms of the loss."""

    value_coefficient: float = 0.5
    """c_v, weight of the value loss."""
    entropy_coefficient: float = 0.0
    """c_e, weight of the entropy bonus."""

    rules = Rules(non_negative=("value_coefficient", "entropy_coefficient"))
