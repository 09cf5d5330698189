"""Wrappers that hide: Env -> Env, pure, for compiled environments. ``partial.host`` has their like for Gymnasium's.

They make a task partially observable (mask, flicker, delay), or give back some of what a memory needs (the previous
action and reward). The goals of a goal environment are no longer seen as they are, so its spec says no reward of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.partial import parts
from steersman.envs.wrappers import PureEnv
from steersman.errors import UsageError
from steersman.types import Env, EnvSpec, Key, PyTree, TimeStep


def mask_observation(env: Env, indices: parts.Indices) -> Env:
    """Set entries of a vector observation to zero; its shape stays.

    indices: their places, from 0. Of a Dict observation: of each part that is to be masked, by name.

    Raises UsageError for places outside the observation, and for observations that are no vectors.

    >>> from steersman.envs.classic.cartpole import CartPole
    >>> mask_observation(CartPole(), [1, 3]).reset(jax.random.key(0))[1].astype(bool).tolist()
    [True, False, True, False]
    """
    masks = parts.hidden(env.spec.observation_space, indices)

    def hide(obs: PyTree) -> PyTree:
        shown = {name: jnp.where(masks[name], 0, x).astype(x.dtype) for name, x in parts.named(obs, masks).items()}
        return parts.exchanged(obs, shown)

    def reset(key: Key) -> tuple[PyTree, PyTree]:
        state, obs = env.reset(key)
        return state, hide(obs)

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        state, seen = env.step(state, action, key)
        return state, _showing(seen, hide(seen.final_obs))

    return PureEnv(_seeing(env.spec, parts.masked_space(env.spec.observation_space, masks)), reset, step)


def flicker(env: Env, probability: float = 0.5) -> Env:
    """Lose the whole observation, each with ``probability``: zeros are seen instead, but for an action mask.

    (Hausknecht & Stone 2015, "Deep Recurrent Q-Learning for Partially Observable MDPs", with 0.5 on Atari.)

    Raises UsageError for a probability outside [0, 1] and for observations that are not Boxes or Dicts of them.
    """
    parts.check_probability(probability)
    space = env.spec.observation_space
    shown = parts.boxes(space, "lost")

    def hide(obs: PyTree, key: Key) -> PyTree:
        lost = jax.random.bernoulli(key, probability)
        kept = {name: jnp.where(lost, jnp.zeros_like(x), x) for name, x in parts.named(obs, shown).items()}
        return parts.exchanged(obs, kept)

    def reset(key: Key) -> tuple[PyTree, PyTree]:
        start, eye = jax.random.split(key)
        state, obs = env.reset(start)
        return state, hide(obs, eye)

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        move, eye = jax.random.split(key)
        state, seen = env.step(state, action, move)
        return state, _showing(seen, hide(seen.final_obs, eye))

    widened = {name: parts.with_zero(part) for name, part in shown.items()}
    return PureEnv(_seeing(env.spec, parts.exchanged(space, widened)), reset, step)


class Delayed(NamedTuple):
    env: PyTree
    waiting: dict[str, jax.Array]  # [steps, ...] of each part: not seen yet, the oldest first


def delay_observation(env: Env, steps: int) -> Env:
    """See every observation ``steps`` steps late, and zeros before the first.

        seen_t = o_{t - steps}   for t >= steps,   0 before

    An action mask is that of now. Gymnasium's DelayObservation does the same where zero is in the space.

    Raises UsageError for fewer than 1 step and for observations that are not Boxes or Dicts of them.
    """
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise UsageError(f"A delay is a whole number of at least 1 steps; got {steps!r}.")
    space = env.spec.observation_space
    shown = parts.boxes(space, "delayed")

    def reset(key: Key) -> tuple[Delayed, PyTree]:
        state, obs = env.reset(key)
        now = parts.named(obs, shown)
        waiting = {name: jnp.zeros((steps, *x.shape), x.dtype).at[-1].set(x) for name, x in now.items()}
        return Delayed(state, waiting), parts.exchanged(obs, jax.tree.map(jnp.zeros_like, now))

    def step(state: Delayed, action: PyTree, key: Key) -> tuple[Delayed, TimeStep]:
        inner, seen = env.step(state.env, action, key)
        now = parts.named(seen.final_obs, shown)
        late = {name: x[0] for name, x in state.waiting.items()}
        waiting = {name: jnp.concatenate([x[1:], now[name][None]]) for name, x in state.waiting.items()}
        return Delayed(inner, waiting), _showing(seen, parts.exchanged(seen.final_obs, late))

    widened = {name: parts.with_zero(part) for name, part in shown.items()}
    return PureEnv(_seeing(env.spec, parts.exchanged(space, widened)), reset, step)


def observe_previous(env: Env, action: bool = True, reward: bool = True) -> Env:
    """Observe the previous action and reward as well, so that a memory can relate them to what followed (RL^2).

    The observation becomes a Dict: its own parts, or itself as ``observation``; ``previous_action`` [width], one-hot or
    canonical numbers; ``previous_reward`` [1]; and ``has_previous`` [1], 0 in an episode's first observation, where the
    others are zero, else 1: no action is told apart from one of zeros. (Duan et al. 2016.)

    Raises UsageError where neither is wanted, for Dict and Tuple actions, and where the names are taken.
    """
    space, actions = env.spec.observation_space, env.spec.action_space
    outer = parts.with_previous(space, actions, action, reward)
    added = {name: outer[name] for name in outer.spaces if name in parts.PREVIOUS}

    def joined(obs: PyTree, previous: dict[str, jax.Array]) -> PyTree:
        own = obs if isinstance(space, spaces.Dict) else {"observation": obs}
        return {**own, **{name: previous[name] for name in added}}

    def reset(key: Key) -> tuple[PyTree, PyTree]:
        state, obs = env.reset(key)
        return state, joined(obs, {name: jnp.zeros(part.shape, jnp.float32) for name, part in added.items()})

    def step(state: PyTree, chosen: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        state, seen = env.step(state, chosen, key)
        previous = {"previous_reward": jnp.asarray(seen.reward, jnp.float32)[None], parts.FLAG: jnp.ones((1,))}
        if action:
            previous["previous_action"] = parts.encoded(actions, chosen, jnp)
        return state, _showing(seen, joined(seen.final_obs, previous))

    return PureEnv(replace(env.spec, observation_space=outer, native_observation_space=None), reset, step)


def _showing(seen: TimeStep, obs: PyTree) -> TimeStep:
    return seen._replace(obs=obs, final_obs=obs)


def _seeing(spec: EnvSpec, space: spaces.Space) -> EnvSpec:
    return replace(spec, observation_space=space, native_observation_space=None, goal_reward=None)
