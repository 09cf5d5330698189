"""The classic tasks with their velocities masked: ``CartPoleNoVel-v1`` and its like. Light: imports no JAX by itself.

As MaskVelocityWrapper of rl-baselines3-zoo does, whose results are under the same names: masked entries are zero, the
observation keeps its shape. (Acrobot's is not among theirs.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from steersman.types import Env


class Masked(NamedTuple):
    original: str  # a twin, and Gymnasium's environment of that id
    velocities: tuple[int, ...]  # their places in its observation


NO_VELOCITY = {
    "AcrobotNoVel-v1": Masked("Acrobot-v1", (4, 5)),
    "CartPoleNoVel-v1": Masked("CartPole-v1", (1, 3)),
    "MountainCarNoVel-v0": Masked("MountainCar-v0", (1,)),
    "MountainCarContinuousNoVel-v0": Masked("MountainCarContinuous-v0", (1,)),
    "PendulumNoVel-v1": Masked("Pendulum-v1", (2,)),
}


def make(name: str, **kwargs: Any) -> Env:
    """The compiled twin of that name; ``kwargs`` are the original's."""
    from steersman.envs import classic
    from steersman.envs.partial.hiding import mask_observation
    from steersman.envs.wrappers import PureEnv

    original, velocities = NO_VELOCITY[name]
    env = mask_observation(classic.make(original, **kwargs), velocities)
    return PureEnv(replace(env.spec, id=name), env.reset, env.step)
