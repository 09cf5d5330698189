"""Gymnasium's robots with a limit of speed: the velocity tasks of safety-gymnasium on today's simulators. On the host.

Thresholds and costs are the published ones (v1). Rewards, observations and ends are those of the robot's newest
version, v5; the published tasks stand on v4, which differs in small things.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium

from steersman.envs.host import gymnasium_ids
from steersman.envs.host.costs import InfoCosts
from steersman.envs.safe.names import VELOCITY, Limit


def robot(name: str, **kwargs: Any) -> Callable[[], gymnasium.Env]:
    """A function that makes ``HalfCheetah-v5`` and its like with one cost, ``velocity``; kwargs are the robot's own.

    cost_t = 1 where speed_t > limit, else 0
    """
    return partial(_limited, gymnasium_ids.factory(gymnasium_ids.find(name), kwargs), VELOCITY[name])


def _limited(make: Callable[[], gymnasium.Env], limit: Limit) -> gymnasium.Env:
    return InfoCosts(make(), partial(too_fast, limit), ["velocity"])


def too_fast(limit: Limit, obs: Any, action: Any, info: dict[str, Any]) -> list[float]:
    """1 or 0, of the speed in the info of a step."""
    speed = math.hypot(info["x_velocity"], info["y_velocity"]) if limit.planar else info["x_velocity"]
    return [float(speed > limit.speed)]
