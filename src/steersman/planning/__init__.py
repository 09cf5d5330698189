"""Planning: sequences of actions that score best, on the true environment, a learned model or any pure function."""

from steersman.planning.gradient import gradient_ascent, ilqr
from steersman.planning.planner import Plan, Planner, Score
from steersman.planning.scores import StatePlanner, planner_in, score_of
from steersman.planning.shooting import cem, icem, mppi, random_shooting

__all__ = ["Plan", "Planner", "Score", "StatePlanner"]
__all__ += ["cem", "gradient_ascent", "icem", "ilqr", "mppi", "planner_in", "random_shooting", "score_of"]
