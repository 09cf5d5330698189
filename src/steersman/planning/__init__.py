"""Planning: sequences of actions that score best, on the true environment, a learned model or any pure function."""

from steersman.planning.planner import Plan, Planner, Score

__all__ = ["Plan", "Planner", "Score"]
