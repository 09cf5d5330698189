"""What lies between a policy and its environment, pure and of one member: delays, noise, filters, penalties, histories.

An ``Effect`` takes actions on their way in, and observations and rewards on their way out. ``around`` puts it around
environments of both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.partial.parts import encoded, exchanged, named, width
from steersman.envs.transfer.settings import PHYSICS, Amounts, Transfer
from steersman.errors import UsageError, nearest
from steersman.spaces import MASK, abstract
from steersman.types import EnvSpec, Key, PyTree

PREVIOUS_ACTIONS = "previous_actions"


class Effect(NamedTuple):
    """Three pure functions and the spec of what a policy then sees.

    reset(obs, key) -> (state, obs)                      as an episode begins
    act(state, action, key) -> (state, action)           before a step; canonical actions
    see(state, obs, reward, key) -> (state, obs, reward)    after it, of the step's own successor
    """

    spec: EnvSpec
    reset: Callable[[PyTree, Key], tuple[PyTree, PyTree]] = lambda obs, key: ((), obs)
    act: Callable[[PyTree, PyTree, Key], tuple[PyTree, PyTree]] = lambda state, action, key: (state, action)
    see: Callable[..., tuple[PyTree, PyTree, Any]] = lambda state, obs, reward, key: (state, obs, reward)


def effect_of(spec: EnvSpec, settings: Transfer) -> Effect | None:
    """All that the settings ask for around an environment of this spec; None where that is nothing.

    An action is counted and charged, filtered, then delayed; an observation is biased, blurred, then remembered.

    Raises UsageError where the spec has no such thing.
    """
    low, high = settings.action_delay
    wanted: list[tuple[Any, Callable[[EnvSpec], Effect]]] = [
        (high, partial(delayed, low=low, high=high)),
        (settings.action_smoothing, partial(smoothed, s=settings.action_smoothing)),
        (settings.observation_bias, partial(biased, deviation=settings.observation_bias)),
        (settings.observation_noise, partial(blurred, deviation=settings.observation_noise)),
        (settings.action_rate_penalty, partial(charged, weight=settings.action_rate_penalty)),
        (settings.observation_history, partial(remembered, length=settings.observation_history)),
    ]
    effects: list[Effect] = []
    for value, make in wanted:
        if value:
            effects.append(make(effects[-1].spec if effects else spec))
    return chained(effects) if effects else None


def chained(effects: Sequence[Effect]) -> Effect:
    """Effects as one, the innermost first; Box actions are within their bounds from the door on."""
    spec = effects[-1].spec
    keys = lambda key: jax.random.split(key, len(effects))

    def reset(obs: PyTree, key: Key) -> tuple[PyTree, PyTree]:
        states = []
        for effect, own in zip(effects, keys(key), strict=True):
            state, obs = effect.reset(obs, own)
            states.append(state)
        return tuple(states), obs

    def act(states: PyTree, action: PyTree, key: Key) -> tuple[PyTree, PyTree]:
        action, after = _within(spec.action_space, action), list(states)
        for i, own in reversed(list(enumerate(keys(key)))):
            after[i], action = effects[i].act(states[i], action, own)
        return tuple(after), action

    def see(states: PyTree, obs: PyTree, reward: Any, key: Key) -> tuple[PyTree, PyTree, Any]:
        after = []
        for effect, state, own in zip(effects, states, keys(key), strict=True):
            state, obs, reward = effect.see(state, obs, reward, own)
            after.append(state)
        return tuple(after), obs, reward

    return Effect(spec, reset, act, see)


# --- actions ---


class Delay(NamedTuple):
    steps: jax.Array  # int32, of this episode
    waiting: PyTree  # [high, ...]: chosen and not done yet, the oldest first


def delayed(spec: EnvSpec, low: int, high: int) -> Effect:
    """Do a_{t-d} in place of a_t, with d drawn for each episode between the bounds; at rest (0) before the first.

    Raises UsageError where actions are masked: what was legal need not be when it is done; and for a delay as long as
    an episode.
    """
    if isinstance(spec.observation_space, spaces.Dict) and MASK in spec.observation_space.spaces:
        raise UsageError(f"{spec.id} masks actions: one that comes late may not be legal any more. No action_delay.")
    if high >= (spec.max_episode_steps or np.inf):
        raise UsageError(
            f"action_delay = {high}: an episode of {spec.id} is over after {spec.max_episode_steps} steps, before its "
            f"first action would be done. Give fewer steps than that."
        )

    def reset(obs: PyTree, key: Key) -> tuple[Delay, PyTree]:
        waiting = jax.tree.map(lambda x: jnp.broadcast_to(x[None], (high, *x.shape)), rest(spec.action_space))
        return Delay(jax.random.randint(key, (), low, high + 1, jnp.int32), waiting), obs

    def act(state: Delay, action: PyTree, key: Key) -> tuple[Delay, PyTree]:
        line = jax.tree.map(lambda old, new: jnp.concatenate([old, new[None]]), state.waiting, action)
        done = jax.tree.map(lambda x: x[np.int32(high) - state.steps], line)
        return Delay(state.steps, jax.tree.map(lambda x: x[1:], line)), done

    return Effect(spec, reset, act)


def smoothed(spec: EnvSpec, s: float) -> Effect:
    """u_t = s u_{t-1} + (1 - s) a_t with u_{-1} at rest, a filter of first order: 63 % of a jump after -1 / ln s steps.

    Raises UsageError for actions that are no Box.
    """
    actions = _box(spec, "action_smoothing")

    def act(state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
        state = np.float32(s) * state + np.float32(1 - s) * action
        return state, state

    return Effect(spec, lambda obs, key: (rest(actions), obs), act)


class Rate(NamedTuple):
    last: jax.Array  # a_{t-1}
    change: jax.Array  # |a_t - a_{t-1}|^2


def charged(spec: EnvSpec, weight: float) -> Effect:
    """reward_t - weight |a_t - a_{t-1}|^2, of the actions as the policy gives them, at rest before the first."""
    actions = _box(spec, "action_rate_penalty")

    def act(state: Rate, action: jax.Array, key: Key) -> tuple[Rate, jax.Array]:
        return Rate(action, jnp.square(action - state.last).sum()), action

    def see(state: Rate, obs: PyTree, reward: Any, key: Key) -> tuple[Rate, PyTree, jax.Array]:
        return state, obs, jnp.asarray(reward) - np.float32(weight) * state.change

    start = lambda obs, key: (Rate(rest(actions), jnp.float32(0)), obs)
    return Effect(replace(spec, goal_reward=None), start, act, see)


# --- observations ---


def blurred(spec: EnvSpec, deviation: Amounts) -> Effect:
    """o_t + deviation N(0, 1), anew at every step, by entry. Raises UsageError for an entry that has no numbers."""
    sigma, space = _deviations(spec, deviation, "observation_noise")

    def noisy(obs: PyTree, key: Key) -> PyTree:
        return _plus(obs, _normal(sigma, space, key))

    return Effect(
        _seeing(spec, _unbounded(space, sigma)),
        lambda obs, key: ((), noisy(obs, key)),
        see=lambda state, obs, reward, key: (state, noisy(obs, key), reward),
    )


def biased(spec: EnvSpec, deviation: Amounts) -> Effect:
    """o_t + b with b = deviation N(0, 1) drawn once an episode, by entry. Raises UsageError as ``blurred``."""
    sigma, space = _deviations(spec, deviation, "observation_bias")

    def reset(obs: PyTree, key: Key) -> tuple[PyTree, PyTree]:
        bias = _normal(sigma, space, key)
        return bias, _plus(obs, bias)

    see = lambda bias, obs, reward, key: (bias, _plus(obs, bias), reward)
    return Effect(_seeing(spec, _unbounded(space, sigma)), reset, see=see)


class History(NamedTuple):
    frames: dict[str, jax.Array]  # by entry [K, ...], the oldest first
    action: jax.Array  # the last, [width + 1] with the 1 that says that there is one


def remembered(spec: EnvSpec, length: int) -> Effect:
    """See the last ``length`` observations, the newest last, and the actions that led to each.

    A vector or a count (one-hot) becomes one vector of [observation, action, 1 where an action was taken], ``length``
    times: the state of a Markov process of that order. In a Dict every Box of numbers with an axis is joined along
    the last, but the factors of ``randomize``; the actions are an entry of their own, ``previous_actions``. An episode
    begins with its first observation ``length`` times and zeros for the actions.

    Raises UsageError for other spaces and where the name is taken. For images: ``envs.wrappers.frame_stack``.
    """
    space, actions = spec.observation_space, spec.action_space
    size = width(actions) + 1
    within = (actions.low.ravel(), actions.high.ravel()) if isinstance(actions, spaces.Box) else (0, 1)
    ends = (np.minimum(within[0], 0), np.maximum(within[1], 0))
    done = [np.append(np.broadcast_to(end, size - 1), i).astype(np.float32) for i, end in enumerate(ends)]
    whole = not isinstance(space, spaces.Dict)
    if whole:
        flat, low, high = _vector(spec)
        parts = {"": spaces.Box(np.concatenate([low, done[0]]), np.concatenate([high, done[1]]))}
        frame = lambda obs, action: {"": jnp.concatenate([flat(obs), action])}
    else:
        if PREVIOUS_ACTIONS in space.spaces:
            raise UsageError(f"{spec.id} has an entry {PREVIOUS_ACTIONS!r} already: a history is taken once.")
        kept = {name: part for name, part in numbers(space).items() if part.shape and name != PHYSICS}
        parts = {**kept, PREVIOUS_ACTIONS: spaces.Box(done[0], done[1])}
        frame = lambda obs, action: {**named(obs, kept), PREVIOUS_ACTIONS: action}
    ends = {name: [np.concatenate([x] * length, -1) for x in (part.low, part.high)] for name, part in parts.items()}
    seen = exchanged(space, {name: spaces.Box(low, high) for name, (low, high) in ends.items()})

    def joined(frames: dict[str, jax.Array], obs: PyTree) -> PyTree:
        return exchanged(obs, {name: jnp.concatenate(list(x), -1) for name, x in frames.items()})

    def reset(obs: PyTree, key: Key) -> tuple[History, PyTree]:
        none = jnp.zeros((size,), jnp.float32)
        frames = {name: jnp.stack([x] * length) for name, x in frame(obs, none).items()}
        return History(frames, none), joined(frames, obs)

    def act(state: History, action: PyTree, key: Key) -> tuple[History, PyTree]:
        return History(state.frames, jnp.append(encoded(actions, action, jnp), np.float32(1))), action

    def see(state: History, obs: PyTree, reward: Any, key: Key) -> tuple[History, PyTree, Any]:
        newest = frame(obs, state.action)
        frames = {name: jnp.concatenate([x[1:], newest[name][None]]) for name, x in state.frames.items()}
        return History(frames, state.action), joined(frames, obs), reward

    return Effect(_seeing(spec, seen), reset, act, see)


# --- the parts of the above ---


def numbers(space: spaces.Space) -> dict[str, spaces.Box]:
    """The entries that are Boxes of floats, by name, without the mask; the whole, where it is no Dict, as ""."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    floats = {name: x for name, x in parts.items() if isinstance(x, spaces.Box) and x.dtype == np.float32}
    return {name: part for name, part in floats.items() if name != MASK}


def rest(actions: spaces.Space) -> PyTree:
    """The action that is done before the first comes: zeros, within the bounds."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract(actions))
    return _within(actions, zeros)


def _within(actions: spaces.Space, action: PyTree) -> PyTree:
    match actions:
        case spaces.Box():
            return jnp.clip(action, actions.low.astype(np.float32), actions.high.astype(np.float32))
        case spaces.Dict():
            return {name: _within(part, action[name]) for name, part in actions.spaces.items()}
        case spaces.Tuple():
            return tuple(_within(part, x) for part, x in zip(actions.spaces, action, strict=True))
    return action


def _box(spec: EnvSpec, setting: str) -> spaces.Box:
    if not isinstance(spec.action_space, spaces.Box):
        raise UsageError(f"{setting} is for actions that are numbers; those of {spec.id} are {spec.action_space}.")
    return spec.action_space


def _deviations(spec: EnvSpec, deviation: Amounts, setting: str) -> tuple[dict[str, np.ndarray], spaces.Space]:
    """By entry, of its shape."""
    space = spec.observation_space
    known = numbers(space)
    if not known:
        raise UsageError(f"{spec.id} observes {space}: there are no numbers that {setting} could be added to.")
    every = deviation.get("")
    given = {name: every for name in known if name != PHYSICS} if every is not None else dict(deviation)
    sigma = {}
    for name, amount in given.items():
        if name not in known:
            near = f" {nearest(name, known)}".rstrip()
            has = "no entries at all: give one number" if "" in known else ", ".join(known)
            raise UsageError(f"{setting}: {spec.id} has no entry of numbers {name!r}.{near} It has {has}.")
        shape = known[name].shape
        if np.ndim(amount) and np.shape(amount) != shape:
            raise UsageError(f"{setting} of {name or spec.id}: a number, or {shape} of them; got {np.shape(amount)}.")
        sigma[name] = np.broadcast_to(amount, shape).astype(np.float32)
    return sigma, space


def _normal(sigma: dict[str, np.ndarray], space: spaces.Space, key: Key) -> dict[str, jax.Array]:
    keys = jax.random.split(key, len(sigma))
    drawn = zip(sigma.items(), keys, strict=True)
    return {name: jnp.asarray(x) * jax.random.normal(own, x.shape, jnp.float32) for (name, x), own in drawn}


def _plus(obs: PyTree, added: dict[str, jax.Array]) -> PyTree:
    return exchanged(obs, {name: x + added[name] for name, x in named(obs, added).items()})


def _unbounded(space: spaces.Space, sigma: dict[str, np.ndarray]) -> spaces.Space:
    blurred = {name: part for name, part in numbers(space).items() if name in sigma}
    ends = lambda x, s, sign: np.where(s > 0, np.float32(sign * np.inf), x)
    boxes = {n: spaces.Box(ends(x.low, sigma[n], -1), ends(x.high, sigma[n], 1)) for n, x in blurred.items()}
    return exchanged(space, boxes)


def _seeing(spec: EnvSpec, space: spaces.Space) -> EnvSpec:
    return replace(spec, observation_space=space, native_observation_space=None, goal_reward=None)


def _vector(spec: EnvSpec) -> tuple[Callable[[Any], jax.Array], np.ndarray, np.ndarray]:
    """How an observation becomes a vector, and the vector's bounds."""
    match space := spec.observation_space:
        case spaces.Box() if space.dtype == np.float32:
            return jnp.ravel, space.low.ravel(), space.high.ravel()
        case spaces.Discrete():
            n = int(space.n)
            return lambda x: jax.nn.one_hot(x, n, dtype=jnp.float32), np.zeros(n, np.float32), np.ones(n, np.float32)
    raise UsageError(f"{spec.id} observes {space}; a history is of numbers, counts, and Dicts of numbers.")
