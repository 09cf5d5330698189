"""Environments of gymnax (1.0 and later), the extra ``steersman[gymnax]``: ``gymnax/Breakout-MinAtar``.

gymnax's ``step`` resets by itself; here its ``step_env`` and ``is_truncated`` are used, so that there is one
auto-reset, ours, and one place where the true successor is kept. gymnax 1.0 wants jax < 0.12 and gymnasium < 1.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.wrappers import PureEnv
from steersman.errors import UsageError, nearest, to_install
from steersman.spaces import canonical_action_space, inside_space, native_map, to_inside
from steersman.types import Env, EnvSpec, Key, PyTree, TimeStep


def make(name: str, **kwargs: Any) -> Env:
    """The gymnax environment of that name (without "gymnax/"), as a pure environment without auto-reset.

    ``kwargs`` that name a field of the environment's parameters (``max_steps_in_episode``, ``gravity`` ...) set it; the
    others go to the environment's constructor.

    Raises UsageError when gymnax is not installed, or too old, or has no such name or argument.
    """
    try:
        import gymnax  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        what = "gymnax is" if error.name == "gymnax" else f"gymnax needs {error.name}, which is"
        raise UsageError(f"{what} not installed. Install it with: {to_install('gymnax')}") from error
    known = list(gymnax.registered_envs)
    if name not in known:
        raise UsageError(f"gymnax has no environment {name}. {nearest(name, known)}")
    try:
        with _lenient():
            settable = {field.name for field in fields(gymnax.make(name)[1])}
            env, params = gymnax.make(name, **{k: v for k, v in kwargs.items() if k not in settable})
    except TypeError as error:
        raise UsageError(f"gymnax/{name} does not take these arguments: {error}.") from None
    except OSError as error:
        raise UsageError(f"gymnax/{name} could not get its data: {error}.") from None
    params = replace(params, **{k: v for k, v in kwargs.items() if k in settable})
    return _adapt(f"gymnax/{name}", env, params)


def _adapt(env_id: str, env: Any, params: Any) -> Env:
    native_obs = _space(env.observation_space(params), env_id)
    native_action = _space(env.action_space(params), env_id)
    to_native = native_map(native_action)
    spec = EnvSpec(
        env_id,
        inside_space(native_obs),
        canonical_action_space(native_action),
        native_action,
        int(params.max_steps_in_episode),
        native_observation_space=native_obs,
    )

    def reset(key: Key) -> tuple[PyTree, PyTree]:
        with _lenient():
            obs, state = env.reset_env(key, params)
            return jax.tree.map(jnp.asarray, state), to_inside(native_obs, obs)

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        with _lenient():
            obs, after, reward, terminated, _ = env.step_env(key, state, to_native(action), params)
            truncated = jnp.asarray(env.is_truncated(after, params), bool)
            obs = to_inside(native_obs, obs)
            # Some tasks reset a field as a float and step it as an int, or the other way: the first form is kept.
            after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state)
        reward = jnp.asarray(reward, jnp.float32).reshape(())
        terminated = jnp.asarray(terminated, bool).reshape(())
        none = jnp.zeros((0,), jnp.float32)
        return after, TimeStep(obs, reward, terminated, truncated.reshape(()), obs, none, {})

    return PureEnv(spec, reset, step)


@contextmanager
def _lenient() -> Iterator[None]:
    """gymnax relies on promotions that strict numerics forbid; they matter only while its code is traced."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _space(space: Any, env_id: str) -> spaces.Space:
    """gymnax's spaces in Gymnasium's words. Matched by name: gymnax may not be imported here."""
    match type(space).__name__:
        case "Discrete":
            return spaces.Discrete(int(space.n))
        case "Box":
            dtype = np.uint8 if space.dtype == np.uint8 else np.float32
            low, high = (np.broadcast_to(np.asarray(x, dtype), space.shape) for x in (space.low, space.high))
            return spaces.Box(low, high, dtype=dtype)
        case "Dict":
            return spaces.Dict({name: _space(part, env_id) for name, part in space.spaces.items()})
        case "Tuple":
            return spaces.Tuple([_space(part, env_id) for part in space.spaces])
    raise UsageError(f"{env_id} has the space {space}, which has no equal in gymnasium.spaces.")
