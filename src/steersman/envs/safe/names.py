"""The names of ``safe/``, and what each is made from. Light: imports no JAX and no simulator."""

from __future__ import annotations

from typing import NamedTuple


class Limit(NamedTuple):
    """A step costs 1 where the speed is above ``speed``, in m/s."""

    speed: float
    planar: bool  # sqrt(x_velocity^2 + y_velocity^2), else x_velocity


# The velocity tasks of safety-gymnasium, v1 (Ji et al. 2023): half the speed that PPO reaches without a limit.
VELOCITY = {
    "Ant-v5": Limit(2.6222, True),
    "HalfCheetah-v5": Limit(3.2096, False),
    "Hopper-v5": Limit(0.7402, False),
    "Humanoid-v5": Limit(1.4149, True),
    "Swimmer-v5": Limit(0.2282, False),
    "Walker2d-v5": Limit(2.3415, False),
}
TWINS = {"cartpole": "CartPole-v1", "pendulum": "Pendulum-v1"}
COMPILED = (*TWINS, "gridworld", "point-goal")


def original(name: str) -> str | None:
    """The task without costs, for its presets and its pictures; None where there is none.

    >>> original("safe/pendulum"), original("safe/Ant-v5"), original("safe/point-goal")
    ('Pendulum-v1', 'Ant-v5', None)
    """
    family, _, rest = name.partition("/")
    if family != "safe":
        return None
    return rest if rest in VELOCITY else TWINS.get(rest)
