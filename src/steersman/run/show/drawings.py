"""Pictures of compiled tasks that have no renderer and show no grid: drawn from their states."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from steersman.envs.safe import point_goal, tasks
from steersman.run.show.frames import enlarged

PIXELS = 320
PAPER, INK, DANGER, AIM = (245, 245, 242), (40, 40, 48), (222, 120, 90), (0, 158, 115)


def draw_point_goal(state: Any, obs: np.ndarray) -> np.ndarray:
    """The square from above: hazards, the goal and the point; uint8 [H, W, 3]."""
    point = state.env  # inside its clock
    axis = np.linspace(-point_goal.SIDE, point_goal.SIDE, PIXELS)
    pixels = np.stack(np.meshgrid(axis, axis[::-1]), -1)
    picture = np.full((PIXELS, PIXELS, 3), PAPER, np.uint8)
    discs = [(place, point_goal.HAZARD, DANGER) for place in point.hazards]
    for place, radius, colour in [(point.goal, point_goal.GOAL, AIM), *discs, (point.position, 0.06, INK)]:
        picture[np.linalg.norm(pixels - place, axis=-1) < radius] = colour
    return picture


def draw_gridworld(state: Any, obs: np.ndarray) -> np.ndarray:
    """The map: hazards, the goal, and where the agent stands; uint8 [H, W, 3]."""
    cells, picture = _cells(), np.full((*np.array(_cells()).max(0) + 1, 3), PAPER, np.uint8)
    for cell in tasks.HAZARDS:
        picture[cell] = DANGER
    picture[tasks.GOAL] = AIM
    picture[cells[int(obs)]] = INK
    return enlarged(picture)


@cache
def _cells() -> list[tuple[int, int]]:
    grid = tasks.hazards().mdp.grid
    assert grid is not None
    return [(row, column) for row, column in grid.cells.tolist()]


DRAWINGS: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "safe/gridworld": draw_gridworld,
    "safe/point-goal": draw_point_goal,
}
