"""The compiled tasks with costs: ``safe/pendulum``, ``safe/cartpole``, ``safe/gridworld``, ``safe/point-goal``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from steersman.envs import classic
from steersman.envs.costs import with_costs
from steersman.envs.safe.names import COMPILED, VELOCITY
from steersman.envs.safe.point_goal import point_goal
from steersman.envs.wrappers import PureEnv, discounted_return
from steersman.errors import UsageError, nearest
from steersman.tabular.planning.constrained import ConstrainedMDP
from steersman.tabular.problems.builders import from_text
from steersman.types import Env, cost_names


def pendulum(limit: float = 6.0, **kwargs: Any) -> Env:
    """Pendulum-v1 that is not to swing fast: a step costs 1 where |theta_dot| > ``limit`` after it, in rad/s.

    Whoever swings up from below passes 24 degrees past the lowest point at 5.2 rad/s or more, even with the full torque
    from there on: a lower ``limit`` cannot be kept without a cost. kwargs: the original's.
    """
    env = with_costs(
        classic.make("Pendulum-v1", **kwargs), lambda obs, action, after: jnp.abs(after[2]) > limit, "speed"
    )
    return _called(env, "safe/pendulum")


def cartpole(limit: float = 0.5, **kwargs: Any) -> Env:
    """CartPole-v1 that is to stay in the middle: a step costs 1 where |x| > ``limit`` after it, in m.

    Whoever balances in the middle has the whole return at no cost. kwargs: the original's.
    """
    env = with_costs(
        classic.make("CartPole-v1", **kwargs), lambda obs, action, after: jnp.abs(after[0]) > limit, "distance"
    )
    return _called(env, "safe/cartpole")


def constrained(problem: ConstrainedMDP, names: tuple[str, ...] = ()) -> Env:
    """Any constrained MDP as an environment: its states are seen, its costs c(s, a) are charged.

    The criterion and the limits are the agent's settings: the problem's are discounted sums, so give the agent the same
    gamma, for rewards and for costs, to compare it with ``solve_constrained``. ``info["discounted_return"]`` is
    sum_t gamma^t r_t.

    names: of the costs; by default ``cost``, or ``cost_0`` and so on.
    """
    table = np.asarray(problem.costs, np.float32)
    names = names or cost_names(len(table))
    env = with_costs(problem.mdp, lambda obs, action, after: jnp.asarray(table)[:, obs, action], names)
    return discounted_return(env, problem.mdp.gamma)


ROWS = ".....\nS...G\n....."
HAZARDS, GOAL = ((1, 1), (1, 2), (1, 3)), (1, 4)  # row and column: the straight way, and where it leads


def hazards(slip: float = 0.1, max_episode_steps: int = 100, limit: float = 0.3) -> ConstrainedMDP:
    """Five columns, three rows: from the left to the goal at the right, discount 0.95, past a row of hazards.

    Each step from a hazard costs 1. Discounted, the free optimum, straight through, is worth 0.824 at a cost of 2.28;
    with a limit of 0.3 the best is 0.753, with 1.0 it is 0.779, by a mixture of two ways (``solve_constrained``).
    """
    mdp = from_text(ROWS, gamma=0.95, slip=slip, max_episode_steps=max_episode_steps)
    assert mdp.grid is not None
    inside = np.array([tuple(cell) in HAZARDS for cell in mdp.grid.cells.tolist()]) & ~mdp.terminal
    costs = np.repeat(inside[None, :, None].astype(np.float64), mdp.num_actions, axis=2)
    return ConstrainedMDP(mdp, costs, np.array([limit]))


def gridworld(slip: float = 0.1, max_episode_steps: int = 100) -> Env:
    """``hazards`` as an environment."""
    return _called(constrained(hazards(slip, max_episode_steps), ("hazard",)), "safe/gridworld")


TASKS: dict[str, Callable[..., Env]] = {
    "cartpole": cartpole,
    "gridworld": gridworld,
    "pendulum": pendulum,
    "point-goal": point_goal,
}


def task(name: str) -> Callable[..., Env]:
    """What makes the task of that name, without ``safe/``; raises UsageError with the nearest."""
    if name not in TASKS:
        known = (*COMPILED, *VELOCITY)
        raise UsageError(f"There is no safe/{name}. {nearest(name, known)} There are {', '.join(known)}.")
    return TASKS[name]


def _called(env: Env, name: str) -> Env:
    return PureEnv(replace(env.spec, id=name), env.reset, env.step)
