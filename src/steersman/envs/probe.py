"""Probe environments: tasks so small that the right answer is known, each of which one mistake makes unlearnable.

Train an agent on one and compare its values, policy or return with ``known_values``; the first probe that fails says
where the mistake is (after Andy Jones, "Debugging RL, Without the Agonizing Pain", 2021). Every observation is a
vector. ``continuous=True`` gives the probes of values a Box action, which they ignore, for agents that need one; and
probe/memory one whose sign counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.wrappers import PureEnv
from steersman.errors import UsageError, nearest
from steersman.spaces import MASK
from steersman.types import Env, EnvSpec, Key, PyTree, TimeStep

MEMORY_STEPS = 3  # of an episode of probe/memory
TRUNCATION_STEPS = 4  # of an episode of the two truncation probes
ILLEGAL_REWARD = -100.0

_CHOICE = spaces.Discrete(2)
_BOX = spaces.Box(-1.0, 1.0, (1,))
_STEPS = {"two-steps": 2, "memory": MEMORY_STEPS, "truncation": TRUNCATION_STEPS, "truncation-ring": TRUNCATION_STEPS}


def one_step(continuous: bool = False) -> Env:
    """One step, reward 1, the same observation always. V = 1. Fails: the loss or the optimiser of the value."""

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        return state, _step(state[None], jnp.float32(1), True)

    return _env("one-step", step, lambda key: _same(jnp.float32(0)), continuous)


def observation(continuous: bool = False) -> Env:
    """One step; the observation is -1 or 1 and so is the reward. V(o) = o. Fails: gradients to the network's input."""

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        return state, _step(state[None], state, True)

    return _env("observation", step, lambda key: _same(_sign(key)), continuous)


def two_steps(continuous: bool = False) -> Env:
    """Observations 0, then 1; rewards 0, then 1. V(1) = 1, V(0) = gamma. Fails: discounting and bootstrapping."""

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        return jnp.float32(1), _step(jnp.ones((1,)), state, state > 0)

    return _env("two-steps", step, lambda key: _same(jnp.float32(0)), continuous)


def action() -> Env:
    """One step; reward 1 for action 1, -1 for action 0. pi(1) = 1 and V = 1. Fails: the policy's loss, advantages."""

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        return state, _step(state[None], _plus_minus(action == 1), True)

    return _env("action", step, lambda key: _same(jnp.float32(0)))


def action_observation() -> Env:
    """One step; reward 1 where action 1 meets observation 1 or action 0 observation -1, else -1. V = 1.

    Fails: observations, actions and advantages that belong to different steps of a batch.
    """

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        return state, _step(state[None], _plus_minus((action == 1) == (state > 0)), True)

    return _env("action-observation", step, lambda key: _same(_sign(key)))


def continuous_action() -> Env:
    """One step; the observation o is uniform in [-1, 1], the reward -(a - o/2)^2. The best action is o/2, and V = 0."""

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        a = jnp.clip(action[0], -1, 1)
        return state, _step(state[None], -((a - state / 2) ** 2), True)

    start = lambda key: _same(jax.random.uniform(key, (), jnp.float32, -1, 1))
    return _env("continuous-action", step, start, continuous=True)


def memory(continuous: bool = False) -> Env:
    """A cue of -1 or 1 is seen first, then 0s; the last action has to name it. Observation: (cue or 0, clock in [0,
    1]).

    Reward at the last step: 1 for action 1 after cue 1 or action 0 after cue -1, else -1. With memory the return is 1
    and V(first) = gamma^(MEMORY_STEPS - 1); without, the best return is 0 on average. ``continuous``: an action above 0
    is action 1.
    """
    last = MEMORY_STEPS - 1
    named = (lambda action: action[0] > 0) if continuous else (lambda action: action == 1)

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        cue, t = state
        done = t == last
        reward = jnp.where(done, _plus_minus(named(action) == (cue > 0)), jnp.float32(0))
        clock = jnp.minimum((t + 1).astype(jnp.float32) / last, 1)
        return (cue, t + 1), _step(jnp.stack([jnp.float32(0), clock]), reward, done)

    def start(key: Key) -> tuple[PyTree, jax.Array]:
        cue = _sign(key)
        return (cue, jnp.int32(0)), jnp.stack([cue, jnp.float32(0)])

    return _env("memory", step, start, continuous, size=2)


def truncation(continuous: bool = False) -> Env:
    """Reward 1 for ever; the clock, not the task, stops an episode after TRUNCATION_STEPS steps. V = 1 / (1 - gamma).

    Fails: a value of 0 after a truncation, which gives at most TRUNCATION_STEPS.
    """

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        steps = state + np.int32(1)
        return steps, _step(jnp.zeros((1,)), jnp.float32(1), False, steps >= TRUNCATION_STEPS)

    return _env("truncation", step, lambda key: (jnp.int32(0), jnp.zeros((1,))), continuous)


def truncation_ring(continuous: bool = False) -> Env:
    """Three places in a ring, reward 1 for leaving the last; starts anywhere, truncated after TRUNCATION_STEPS steps.

        V(2) = 1 / (1 - gamma^3),   V(1) = gamma V(2),   V(0) = gamma V(1)      (the observation is one-hot)

    Fails: bootstrapping at a truncation from the reset observation, or from the one before the step, instead of from
    the true successor.
    """

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        place, steps = state
        after = ((place + 1) % 3, steps + np.int32(1))
        reward = (place == 2).astype(jnp.float32)
        return after, _step(_one_hot(after[0]), reward, False, after[1] >= TRUNCATION_STEPS)

    def start(key: Key) -> tuple[PyTree, jax.Array]:
        place = jax.random.randint(key, (), 0, 3, jnp.int32)
        return (place, jnp.int32(0)), _one_hot(place)

    return _env("truncation-ring", step, start, continuous, size=3)


def mask() -> Env:
    """One step; action i pays i/2, but one of the three is illegal and pays ILLEGAL_REWARD. V = 1/2 where it is 2,
    else 1.

    The observation is a Dict: "observation", one-hot of the illegal action, and "action_mask".
    """

    def look(illegal: jax.Array) -> PyTree:
        hot = _one_hot(illegal)
        return {"observation": hot, MASK: 1 - hot}

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        reward = jnp.where(action == state, jnp.float32(ILLEGAL_REWARD), action.astype(jnp.float32) / 2)
        return state, _step(look(state), reward, True)

    def start(key: Key) -> tuple[PyTree, PyTree]:
        illegal = jax.random.randint(key, (), 0, 3, jnp.int32)
        return illegal, look(illegal)

    space = spaces.Dict({"observation": spaces.Box(0.0, 1.0, (3,)), MASK: spaces.Box(0.0, 1.0, (3,))})
    return PureEnv(EnvSpec("probe/mask", space, spaces.Discrete(3), spaces.Discrete(3), 1), start, step)


PROBES: dict[str, Callable[..., Env]] = {
    "probe/one-step": one_step,
    "probe/observation": observation,
    "probe/two-steps": two_steps,
    "probe/action": action,
    "probe/action-observation": action_observation,
    "probe/continuous-action": continuous_action,
    "probe/memory": memory,
    "probe/truncation": truncation,
    "probe/truncation-ring": truncation_ring,
    "probe/mask": mask,
}


class Known(NamedTuple):
    """What an agent has to learn: ``value`` [N] of the best policy at ``obs`` [N, ...], and its mean episode return."""

    obs: PyTree
    value: np.ndarray
    mean_return: float


def known_values(name: str, gamma: float) -> Known:
    """The answer to a probe, for a discount of ``gamma``. For probe/memory: of its first observations.

    >>> known_values("probe/two-steps", 0.9).value.tolist()
    [0.8999999761581421, 1.0]
    """
    signs, hot = np.array([[-1], [1]], np.float32), np.eye(3, dtype=np.float32)
    ring = np.array([gamma**2, gamma, 1]) / (1 - gamma**3) if gamma < 1 else np.full(3, np.inf)
    forever = [1 / (1 - gamma)] if gamma < 1 else [np.inf]
    answers: dict[str, tuple[PyTree, Any, float]] = {
        "probe/one-step": (np.zeros((1, 1), np.float32), [1], 1),
        "probe/observation": (signs, [-1, 1], 0),
        "probe/two-steps": (np.array([[0], [1]], np.float32), [gamma, 1], 1),
        "probe/action": (np.zeros((1, 1), np.float32), [1], 1),
        "probe/action-observation": (signs, [1, 1], 1),
        "probe/continuous-action": (np.array([[-0.8], [0], [0.8]], np.float32), [0, 0, 0], 0),
        "probe/memory": (np.array([[-1, 0], [1, 0]], np.float32), [gamma ** (MEMORY_STEPS - 1)] * 2, 1),
        "probe/truncation": (np.zeros((1, 1), np.float32), forever, TRUNCATION_STEPS),
        "probe/truncation-ring": (hot, ring, TRUNCATION_STEPS / 3),
        "probe/mask": ({"observation": hot, MASK: 1 - hot}, [1, 1, 0.5], 5 / 6),
    }
    if name not in answers:
        raise UsageError(f"Unknown probe {name}. {nearest(name, answers)}")
    obs, value, mean_return = answers[name]
    return Known(obs, np.asarray(value, np.float32), float(mean_return))


def _env(
    name: str,
    step: Callable[[PyTree, PyTree, Key], tuple[PyTree, TimeStep]],
    start: Callable[[Key], tuple[PyTree, PyTree]],
    continuous: bool = False,
    size: int = 1,
) -> Env:
    act = _BOX if continuous else _CHOICE
    limit = _STEPS.get(name, 1)
    return PureEnv(EnvSpec(f"probe/{name}", spaces.Box(-1, 1, (size,)), act, act, limit), start, step)


def _same(state: jax.Array) -> tuple[jax.Array, jax.Array]:
    return state, state[None]


def _step(obs: PyTree, reward: jax.Array, terminated: Any, truncated: Any = False) -> TimeStep:
    flags = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
    return TimeStep(obs, reward, *flags, obs, jnp.zeros((0,), jnp.float32), {})


def _sign(key: Key) -> jax.Array:
    return _plus_minus(jax.random.bernoulli(key))


def _plus_minus(yes: jax.Array) -> jax.Array:
    return jnp.where(yes, jnp.float32(1), jnp.float32(-1))


def _one_hot(i: jax.Array) -> jax.Array:
    return (jnp.arange(3) == i).astype(jnp.float32)
