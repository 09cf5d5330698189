"""Environments made from environments: Env -> Env, pure, each with its spec brought up to date.

Host environments have Gymnasium's own wrappers for the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.spaces import MASK, canonical_action_space, is_image, native_map
from steersman.types import Env, EnvSpec, Key, PyTree, TimeStep


@dataclass(frozen=True)
class PureEnv:
    """An Env made of its spec and two pure functions, ``reset_fn(key)`` and ``step_fn(state, action, key)``."""

    spec: EnvSpec
    reset_fn: Callable[[Key], tuple[PyTree, PyTree]]
    step_fn: Callable[[PyTree, PyTree, Key], tuple[PyTree, TimeStep]]

    def reset(self, key: Key) -> tuple[PyTree, PyTree]:
        return self.reset_fn(key)

    def step(self, state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        return self.step_fn(state, action, key)


class Clocked(NamedTuple):
    env: PyTree
    steps: jax.Array  # int32, of this episode


def time_limit(env: Env, max_episode_steps: int) -> Env:
    """Truncate every episode at its ``max_episode_steps``-th step. Both flags are set where that step also terminates.

    Raises UsageError unless ``max_episode_steps`` is at least 1.
    """
    if max_episode_steps < 1:
        raise UsageError(f"max_episode_steps is at least 1; got {max_episode_steps}.")

    def reset(key: Key) -> tuple[Clocked, PyTree]:
        state, obs = env.reset(key)
        return Clocked(state, jnp.zeros((), jnp.int32)), obs

    def step(state: Clocked, action: PyTree, key: Key) -> tuple[Clocked, TimeStep]:
        inner, seen = env.step(state.env, action, key)
        steps = state.steps + np.int32(1)
        return Clocked(inner, steps), seen._replace(truncated=seen.truncated | (steps >= max_episode_steps))

    return PureEnv(replace(env.spec, max_episode_steps=max_episode_steps), reset, step)


def transform_observation(env: Env, function: Callable[[PyTree], PyTree], space: spaces.Space) -> Env:
    """Pass every observation (``obs`` and ``final_obs``) through a pure ``function``; ``space`` is what comes out.

    >>> from steersman.envs.classic.pendulum import Pendulum
    >>> env = transform_observation(Pendulum(), lambda obs: obs[:2], spaces.Box(-1, 1, (2,)))  # hide the velocity
    >>> env.reset(jax.random.key(0))[1].shape
    (2,)
    """

    def reset(key: Key) -> tuple[PyTree, PyTree]:
        state, obs = env.reset(key)
        return state, function(obs)

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        state, seen = env.step(state, action, key)
        obs = function(seen.final_obs)
        return state, seen._replace(obs=obs, final_obs=obs)

    return PureEnv(_observing(env.spec, space), reset, step)


def _observing(spec: EnvSpec, space: spaces.Space) -> EnvSpec:
    return replace(spec, observation_space=space, native_observation_space=None)


def transform_reward(env: Env, function: Callable[[jax.Array], jax.Array]) -> Env:
    """Pass every reward through a pure ``function``.

    The environment's own reward goes to ``info["native_reward"]``; ``vectorize`` counts episode returns in it.
    """

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        state, seen = env.step(state, action, key)
        info = {**seen.info, "native_reward": seen.info.get("native_reward", seen.reward)}
        return state, seen._replace(reward=function(jnp.asarray(seen.reward)), info=info)

    return PureEnv(env.spec, env.reset, step)


class Discounted(NamedTuple):
    env: PyTree
    total: jax.Array  # float32: sum_k gamma^k r_k so far
    discount: jax.Array  # float32: gamma^t


def discounted_return(env: Env, gamma: float) -> Env:
    """Say the discounted return of the running episode, this step included, in ``info["discounted_return"]``.

        sum_{k <= t} gamma^k r_k

    Rewards, and the returns that ``vectorize`` counts, stay without a discount. It is logged and evaluated by itself.
    """

    def reset(key: Key) -> tuple[Discounted, PyTree]:
        state, obs = env.reset(key)
        return Discounted(state, jnp.float32(0), jnp.float32(1)), obs

    def step(state: Discounted, action: PyTree, key: Key) -> tuple[Discounted, TimeStep]:
        inner, seen = env.step(state.env, action, key)
        reward = jnp.asarray(seen.info.get("native_reward", seen.reward))
        total = state.total + state.discount * reward
        after = Discounted(inner, total, state.discount * np.float32(gamma))
        return after, seen._replace(info={**seen.info, "discounted_return": total})

    return PureEnv(env.spec, reset, step)


def canonical_actions(env: Env) -> Env:
    """Give an environment that takes actions in its own units the canonical ones: clip to [-1, 1], then one affine map.

    The spec of ``env`` has its own action space; the result's has the canonical one, and ``env``'s as native.
    """
    native = env.spec.action_space
    canonical = canonical_action_space(native)
    to_native = native_map(native)

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        return env.step(state, to_native(action), key)

    return PureEnv(replace(env.spec, action_space=canonical, native_action_space=native), env.reset, step)


class Stacked(NamedTuple):
    env: PyTree
    frames: PyTree  # [k, ...] per stacked leaf, the oldest first; None for the action mask


def frame_stack(env: Env, num_frames: int) -> Env:
    """Observe the last ``num_frames`` observations, joined along the last axis, the newest last.

    A vector (D,) becomes (num_frames * D,), an image (H, W, C) becomes (H, W, num_frames * C) and an image without
    channels (H, W) becomes (H, W, num_frames). A new episode starts with its first observation ``num_frames`` times:
    nothing of the last one is left. In a Dict every Box is stacked, the action mask stays.

    Raises UsageError for ``num_frames`` below 1 and for observations that are not Boxes, or Dicts of them.
    """
    if num_frames < 1:
        raise UsageError(f"num_frames is at least 1; got {num_frames}.")
    space = env.spec.observation_space
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    stacked = {name: part for name, part in parts.items() if name != MASK}

    def frame(name: str, obs: Any) -> Any:
        return obs[..., None] if is_image(stacked[name]) and obs.ndim == 2 else obs

    def split(obs: Any) -> dict[str, jax.Array]:
        named = obs if isinstance(space, spaces.Dict) else {"": obs}
        return {name: frame(name, named[name]) for name in stacked}

    def join(frames: dict[str, jax.Array], obs: Any) -> Any:
        joined = {name: jnp.concatenate([f[i] for i in range(num_frames)], axis=-1) for name, f in frames.items()}
        return {**obs, **joined} if isinstance(space, spaces.Dict) else joined[""]

    def joined_space(name: str, part: spaces.Space) -> spaces.Space:
        if not isinstance(part, spaces.Box) or not part.shape:
            raise UsageError(f"{env.spec.id} observes {space}; only Boxes with at least one axis can be stacked.")
        low, high = (np.concatenate([frame(name, x)] * num_frames, axis=-1) for x in (part.low, part.high))
        return spaces.Box(low, high, dtype=part.dtype.type)

    joined_parts = {name: part if name == MASK else joined_space(name, part) for name, part in parts.items()}

    def reset(key: Key) -> tuple[Stacked, PyTree]:
        state, obs = env.reset(key)
        frames = {name: jnp.stack([x] * num_frames) for name, x in split(obs).items()}
        return Stacked(state, frames), join(frames, obs)

    def step(state: Stacked, action: PyTree, key: Key) -> tuple[Stacked, TimeStep]:
        inner, seen = env.step(state.env, action, key)
        newest = split(seen.final_obs)
        frames = {name: jnp.concatenate([f[1:], newest[name][None]]) for name, f in state.frames.items()}
        obs = join(frames, seen.final_obs)
        return Stacked(inner, frames), seen._replace(obs=obs, final_obs=obs)

    outer = spaces.Dict(joined_parts) if isinstance(space, spaces.Dict) else joined_parts[""]
    return PureEnv(_observing(env.spec, outer), reset, step)
