"""The ground floor: what one step, one rollout, one environment and one agent are.

Axes: ``T`` time, ``B`` environments side by side, ``N`` transitions of a batch, ``C`` cost signals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from gymnasium import spaces

from steersman.errors import UsageError

Array = jax.Array | np.ndarray
Key = jax.Array  # a typed PRNG key: jax.random.key(seed)
PyTree = Any  # a tree of arrays
Metrics = dict[str, Any]  # name -> scalar, or (sum, weight) for a mean over what was seen


class TimeStep(NamedTuple):
    """What one step of an environment yields. Leading axes: none, ``[B]`` or ``[T, B]``."""

    obs: PyTree  # what the policy sees next: after a reset, the first observation of the new episode
    reward: Array
    terminated: Array  # the state is absorbing: nothing follows, discount_t = 0
    truncated: Array  # the clock stopped, not the task: bootstrap from final_obs, lambda_t = 0
    final_obs: PyTree  # the true successor, before any reset; equals obs elsewhere
    costs: Array  # [..., C]; C = 0 for most
    # Fixed keys; from vectorised environments episode_return, episode_length, episode_cost [..., C], and episode_over
    # where the episodes that are counted end elsewhere than those that are learned from (a game of several lives).
    info: Mapping[str, Array]

    @property
    def over(self) -> Array:
        """Where an episode that is counted ends: bool, as ``terminated``."""
        return self.info["episode_over"] if "episode_over" in self.info else self.terminated | self.truncated


class Rollout(NamedTuple):
    """Experience: ``[T, B, ...]`` from a loop, ``[N, ...]`` from replay."""

    obs: PyTree
    action: PyTree
    reward: Array
    terminated: Array
    truncated: Array
    next_obs: PyTree  # the true successor of obs, never a reset observation
    first: Array  # obs opens an episode
    costs: Array  # [..., C]
    extras: Mapping[str, Any]  # what act recorded, e.g. the behaviour policy's log_prob
    carry: PyTree = ()  # the acting memory before the first row, [B, ...], one per rollout; () for the memoryless


def cost_names(count: int) -> tuple[str, ...]:
    """What ``count`` costs are called that nobody has named.

    >>> cost_names(1), cost_names(2)
    (('cost',), ('cost_0', 'cost_1'))
    """
    return ("cost",) if count == 1 else tuple(f"cost_{i}" for i in range(count))


@dataclass(frozen=True)
class EnvSpec:
    """What an agent needs to know of an environment; nothing here changes while it runs.

    ``action_space`` is canonical: a bounded Box is [-1, 1] (``native_action_space`` keeps the environment's own bounds
    and units). ``observation_space`` is what agents see (``spaces.inside_space``: float32, counts from 0); where the
    environment's own may differ, ``native_observation_space`` keeps that. A Dict observation space with an entry
    ``action_mask``, shape ``(A,)``, 1 = allowed, gives the legal actions of a Discrete space; the mask is never fed to
    a network. ``cost_names`` are the costs of ``TimeStep.costs`` in their order; UsageError where two are the same. A
    goal environment (``achieved_goal``, ``desired_goal``) says its reward as a pure function of the two: what hindsight
    replay needs. ``unseen``, of a policy that sees some entries of a Dict only: those that training had beside them,
    and its ``observation_space`` has not.
    """

    id: str
    observation_space: spaces.Space
    action_space: spaces.Space
    native_action_space: spaces.Space
    max_episode_steps: int | None = None
    cost_names: tuple[str, ...] = ()
    native_observation_space: spaces.Space | None = None  # None: observation_space
    goal_reward: Callable[[Array, Array], Array] | None = None  # (achieved [G], desired [G]) -> reward
    unseen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        twice = [name for i, name in enumerate(self.cost_names) if name in self.cost_names[:i]]
        if twice:
            raise UsageError(
                f"{self.id} has two costs of the name {twice[0]!r}. Give one another: --cost 'NAME = ENTRY > NUMBER'."
            )

    @property
    def num_costs(self) -> int:
        """C."""
        return len(self.cost_names)


class Env(Protocol):
    """A pure environment: one member, no auto-reset, every random number from the key it is given.

    ``spec.action_space`` is canonical; ``step`` takes canonical actions.
    """

    @property
    def spec(self) -> EnvSpec: ...

    def reset(self, key: Key) -> tuple[PyTree, PyTree]:
        """-> (state, obs)"""
        ...

    def step(self, state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        """-> (next state, TimeStep) with ``obs`` = ``final_obs`` = the successor and ``info`` of fixed keys."""
        ...


class Filter(NamedTuple):
    """How a belief about what is not seen is kept: pure functions over a belief, a NamedTuple of arrays.

    begin(obs, key) -> belief                  at the first observation of an episode
    step(belief, action, obs, key) -> belief   after an action, as ``Env.step`` takes it, and what was seen then
    features(belief) -> float32 [size]         what an agent is shown of it, within ``low`` and ``high``
    check(spec)                                raises UsageError for an environment that it is not a filter of

    Every belief has ``log_likelihood``, log p(obs | all that was before), a scalar. It is -inf where the model holds
    the observation for impossible; the belief is then what was predicted without it.
    """

    begin: Callable[[PyTree, Key], Any]
    step: Callable[[Any, PyTree, PyTree, Key], Any]
    features: Callable[[Any], Array]
    size: int
    low: float = -float("inf")
    high: float = float("inf")
    check: Callable[[EnvSpec], None] = lambda spec: None


class DeviceEnvs(NamedTuple):
    """Environments stepped inside compiled code, made by ``vector.vectorize``. Keys live in the state."""

    spec: EnvSpec
    num_envs: int
    reset: Callable[..., tuple[PyTree, PyTree]]  # (key, *, offset=0) -> (state, obs [B, ...]); offset: member 0's index
    step: Callable[[PyTree, PyTree], tuple[PyTree, TimeStep]]  # (state, action [B, ...]) -> (state, TimeStep [B, ...])


class HostEnvs(ABC):
    """Environments stepped outside compiled code: numpy in, numpy out, auto-reset in the same step."""

    spec: EnvSpec
    num_envs: int

    @abstractmethod
    def reset(self, seed: int) -> PyTree:
        """Reset every member, member ``i`` from its own seed derived from ``seed``; -> obs [B, ...]."""

    @abstractmethod
    def step(self, action: PyTree) -> TimeStep:
        """Step every member with canonical actions [B, ...]. The arrays returned are the caller's to keep."""

    def render(self) -> Any:
        """A picture of member 0, uint8 ``[H, W, 3]``; raises UsageError where there is none."""
        raise UsageError(f"{self.spec.id} cannot be drawn.")

    def best_workers(self, steps: int, processes: int) -> int:
        """With how many workers ``steps`` steps of each member are done the soonest; the members stay as they are.

        processes: most that are to step at a time, this one among them. 0 where the members cannot be shared out.
        """
        return 0

    def share_out(self, workers: int) -> None:
        """Before the first reset: let so many worker processes step a share of the members each, beside this one."""
        raise UsageError(f"{self.spec.id} has no use for worker processes. Leave workers out.")

    @abstractmethod
    def close(self) -> None:
        """Free processes, windows and simulators. Safe to call twice."""


class Agent(NamedTuple):
    """Four pure functions over an explicit state of arrays. A loop drives them; they cannot tell which loop.

    init(key, first_rollout) -> S            a random-policy rollout [T, B, ...] gives shapes and seeds normalisers
    begin(num_envs) -> Carry                 acting memory, leading axis [B]; () for the memoryless
    act(S, carry, obs, first, key, *, explore) -> (action, carry, extras)      obs [B, ...], first [B]
    update(S, rollout, key) -> (S, metrics)  absorb experience, return an improved state

    What learns from recorded data alone is given that in place of a rollout: see ``Algorithm.data``.
    """

    init: Callable[[Key, Rollout], PyTree]
    begin: Callable[[int], PyTree]
    act: Callable[..., tuple[PyTree, PyTree, dict[str, Any]]]
    update: Callable[[PyTree, Rollout, Key], tuple[PyTree, Metrics]]


class PerEnv(NamedTuple):
    """Marks a part of an agent's state whose arrays have the leading axis ``[B]``: sharded as environments are."""

    value: PyTree


class Algorithm(NamedTuple):
    """An algorithm: its name, its settings and how an agent is made from them.

    Every config has ``unroll_length`` (T), the steps of each environment between two updates; that of an algorithm that
    learns from recorded data alone has none. The budget is the environment steps over which schedules run; None: they
    stand still.
    """

    name: str
    config: type  # a frozen dataclass of plain values, each with a one-line docstring
    factory: Callable[..., Agent]  # (config, spec, *, budget=None, network=None) -> Agent
    summary: str
    first_length: Callable[[Any, int], int] = lambda config, num_envs: 1  # T of the random-policy rollout for init
    check: Callable[[Any, int], None] = lambda config, num_envs: None  # UsageError where a shard cannot be cut so
    # Recorded transitions: it learns from "none", may "start" from them, or learns from them "only". Then ``update(S,
    # memory, key)`` is one gradient step, on a batch drawn from the state of a ``memory.uniform`` that holds them.
    data: str = "none"
    shardable: bool = True  # False: one seed trains on one device (replay); several seeds still go round the devices
    presets: Mapping[str, Mapping[str, Any]] = {}  # settings that are known to be good, by environment
    with_memory: Mapping[str, Any] = {}  # settings that take the defaults' place where ``memory`` is asked for
