"""The simulator itself, where it is compiled: other parameters in every episode, pushes at random times."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.transfer.settings import PHYSICS, Ranges, with_factors
from steersman.envs.wrappers import PureEnv
from steersman.errors import EnvironmentFault, UsageError, nearest
from steersman.spaces import abstract
from steersman.types import Env, Key, PyTree, TimeStep

_DRAWN, _PUSHED = 0x9401, 0x9402  # keys of our own: the environment draws the same with and without us
_CONCRETE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)
_VELOCITY = re.compile(r"velocity|\w+_dot(_\d+)?")


class Parametrised(NamedTuple):
    """A compiled environment that can be made again with other parameters, inside compiled code."""

    make: Callable[..., Env]  # (parameters by name) -> environment
    nominal: Mapping[str, float]


class Randomized(NamedTuple):
    env: PyTree
    factors: jax.Array  # float32 [parameters], of this episode


def parametrised(env: Env) -> Parametrised:
    """An environment that is a dataclass: its parameters are its fields with a float that is not 0."""
    found = {}
    if is_dataclass(env) and not isinstance(env, PureEnv | type):
        values = {field.name: getattr(env, field.name) for field in fields(env)}
        found = {name: value for name, value in values.items() if isinstance(value, float) and value}
    return Parametrised(lambda **changed: replace(env, **changed), found)  # pyright: ignore[reportArgumentType]


def randomized(env: Env | Parametrised, ranges: Ranges, *, shown: bool = False) -> Env:
    """Draw factors of physical parameters for every episode, log-uniform within their ranges.

    shown: the factors are the entry ``physics`` of a Dict observation, in the order of ``ranges``.

    Raises UsageError for a parameter that there is not, and for an environment whose Python code decides by one.
    """
    made = env if isinstance(env, Parametrised) else parametrised(env)
    env = made.make()
    check_parameters(env.spec.id, ranges, made.nominal)
    low, high = (np.array([ends[i] for ends in ranges.values()], np.float32) for i in (0, 1))
    whole = isinstance(env.spec.observation_space, spaces.Dict)
    space = with_factors(env.spec.observation_space, [*ranges.values()]) if shown else env.spec.observation_space

    def of(factors: jax.Array) -> Env:
        return made.make(**{name: made.nominal[name] * factors[i] for i, name in enumerate(ranges)})

    def seen(obs: PyTree, factors: jax.Array) -> PyTree:
        if not shown:
            return obs
        return {**(obs if whole else {"observation": obs}), PHYSICS: factors}

    def reset(key: Key) -> tuple[Randomized, PyTree]:
        u = jax.random.uniform(jax.random.fold_in(key, _DRAWN), low.shape, jnp.float32)
        factors = jnp.clip(low * (high / low) ** u, low, high)
        state, obs = of(factors).reset(key)
        return Randomized(state, factors), seen(obs, factors)

    def step(state: Randomized, action: PyTree, key: Key) -> tuple[Randomized, TimeStep]:
        inner, what = of(state.factors).step(state.env, action, key)
        obs = seen(what.final_obs, state.factors)
        return Randomized(inner, state.factors), what._replace(obs=obs, final_obs=obs)

    try:
        key, action = jax.random.key(0), abstract(env.spec.action_space)
        jax.eval_shape(lambda action: step(reset(key)[0], action, key)[1], action)  # before any program is made
    except (*_CONCRETE, EnvironmentFault) as error:
        if isinstance(error, EnvironmentFault) and not isinstance(error.__cause__, _CONCRETE):
            raise
        raise UsageError(
            f"randomize: {env.spec.id} cannot be given {', '.join(ranges)} as arrays, for its Python code decides by "
            "their values, or hands them to numpy. Use jax.numpy, and jnp.where in place of if."
        ) from error
    spec = env.spec if not shown else replace(env.spec, observation_space=space, native_observation_space=None)
    return PureEnv(spec, reset, step)


def check_parameters(id: str, wanted: Ranges, nominal: Mapping[str, float]) -> None:
    """Raise UsageError for a parameter that an environment has not."""
    for name in wanted:
        if not nominal:
            raise UsageError(
                f"randomize: {id} has no physical parameters. The classic tasks have some, dataclasses of your own "
                "with fields of floats, functions that make one with arguments of floats, and MuJoCo's of Gymnasium."
            )
        if name not in nominal:
            near = f" {nearest(name, nominal)}".rstrip()
            raise UsageError(f"randomize: {id} has no parameter {name!r}.{near} It has {', '.join(nominal)}.")


def pushed(env: Env, size: float, every: float) -> Env:
    """Before a step, with probability 1 / every, add a number uniform in [-size, size] to the velocity of the root.

    That is the first field of the state's named tuple that is called ``velocity`` or ends in ``_dot`` (``_dot_1``).

    Raises UsageError for a state without one.
    """
    shape = jax.eval_shape(lambda: env.reset(jax.random.key(0))[0])
    path = _velocity(shape)
    if path is None:
        raise UsageError(
            f"push: the state of {env.spec.id} has no velocity to push: no field of a NamedTuple that is called "
            "velocity or ends in _dot, as those of the classic tasks are."
        )

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        when, what = jax.random.split(jax.random.fold_in(key, _PUSHED))
        now = jax.random.bernoulli(when, 1 / every)

        def push(velocity: jax.Array) -> jax.Array:
            added = jax.random.uniform(what, velocity.shape, jnp.float32, -size, size)
            return velocity + jnp.where(now, added, jnp.zeros_like(added))

        return env.step(_changed(state, path, push), action, key)

    return PureEnv(env.spec, env.reset, step)


def _velocity(state: Any) -> tuple[str, ...] | None:
    """Where the root's velocity is, by the names of fields."""
    names = getattr(state, "_fields", ())
    for name in names:
        if _VELOCITY.fullmatch(name):
            return (name,)
    for name in names:
        if (below := _velocity(getattr(state, name))) is not None:
            return (name, *below)
    return None


def _changed(state: Any, path: tuple[str, ...], function: Callable[[jax.Array], jax.Array]) -> Any:
    if not path:
        return function(state)
    return state._replace(**{path[0]: _changed(getattr(state, path[0]), path[1:], function)})
