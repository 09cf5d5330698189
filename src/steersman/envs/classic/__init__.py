"""Compiled twins of Gymnasium's five classic-control tasks: the same dynamics, rewards and ends, in float32."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import fields
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from steersman.errors import UsageError, nearest

if TYPE_CHECKING:
    import gymnasium
    import numpy as np

    from steersman.types import Env, PyTree


class Twin(NamedTuple):
    module: str
    name: str
    max_episode_steps: int


TWINS = {
    "Acrobot-v1": Twin("acrobot", "Acrobot", 500),
    "CartPole-v1": Twin("cartpole", "CartPole", 500),
    "MountainCar-v0": Twin("mountain_car", "MountainCar", 200),
    "MountainCarContinuous-v0": Twin("mountain_car_continuous", "MountainCarContinuous", 999),
    "Pendulum-v1": Twin("pendulum", "Pendulum", 200),
}


class Native(NamedTuple):
    """The Gymnasium original of a twin: its id there, and ``to_state(twin's state) -> env.unwrapped.state``."""

    id: str
    to_state: Callable[[PyTree], np.ndarray]


def parameters(env_id: str) -> dict[str, float]:
    """The physical parameters of a twin and their values: arguments that the original mostly has as attributes.

    >>> parameters("Pendulum-v1")
    {'g': 10.0, 'mass': 1.0, 'length': 1.0, 'gain': 1.0, 'dt': 0.05}
    """
    twin = _twin(env_id)
    task = getattr(_module(twin), twin.name)
    return {field.name: field.default for field in fields(task) if isinstance(field.default, float) and field.default}


def make(env_id: str, **kwargs: Any) -> Env:
    """The compiled twin, with its time limit. ``kwargs`` are those of the original (``g``, ``goal_velocity`` ...), and
    its physical ``parameters``.

    Raises UsageError for an id that has no twin, an argument the task does not have, or a mass below 0.

    >>> make("Pendulum-v1", g=9.81).spec.max_episode_steps
    200
    """
    from steersman.envs.transfer.settings import NAMES
    from steersman.envs.wrappers import time_limit

    twin = _twin(env_id)
    task = getattr(_module(twin), twin.name)
    known, physical = [field.name for field in fields(task)], parameters(env_id)
    for name, value in kwargs.items():
        if name not in known:
            near = nearest(name, [*known, *NAMES])
            raise UsageError(f"{env_id} takes {', '.join(known)}; got {name}. {near}".rstrip())
        if isinstance(value, str):
            raise UsageError(f"{env_id}: {name} = {value}; it must be a number.")
        weightless = name in ("g", "gravity")
        if name in physical and isinstance(value, int | float) and not (0 < value < inf or (weightless and value == 0)):
            raise UsageError(f"{env_id}: {name} = {value}; it must be {'0 or more' if weightless else 'above 0'}.")
    return time_limit(task(**kwargs), twin.max_episode_steps)


def native(env_id: str) -> Native:
    """The original of a twin, for what only the original can do: rendering.

    >>> native("CartPole-v1").id
    'CartPole-v1'
    """
    return Native(env_id, _module(_twin(env_id)).to_gymnasium_state)


def set_parameters(original: gymnasium.Env, env_id: str, **kwargs: float) -> None:
    """Give the Gymnasium original the physical parameters of the twin that is made with these arguments."""
    twin = _twin(env_id)
    module = _module(twin)
    for name, value in module.to_gymnasium_attributes(getattr(module, twin.name)(**kwargs)).items():
        setattr(original.unwrapped, name, value)


def set_state(original: gymnasium.Env, env_id: str, state: PyTree) -> None:
    """Put the Gymnasium original into the state of the twin, to render it.

    ``state`` is one member's, as ``make(env_id)`` gives it: from ``DeviceEnvs``, ``jax.tree.map(lambda x: x[i],
    s.env)``.
    """
    unwrapped: Any = original.unwrapped
    unwrapped.state = native(env_id).to_state(state.env)
    if env_id == "Pendulum-v1":
        unwrapped.last_u = None  # the arrow of the last torque; absent until the original has been stepped


def _twin(env_id: str) -> Twin:
    if env_id not in TWINS:
        raise UsageError(f"{env_id} has no compiled twin; these have: {', '.join(TWINS)}. {nearest(env_id, TWINS)}")
    return TWINS[env_id]


def _module(twin: Twin) -> Any:
    return importlib.import_module(f"{__name__}.{twin.module}")
