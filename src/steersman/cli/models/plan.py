"""``steersman plan ENV``: what a planner gets in the true environment, the ceiling of a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from steersman.cli.display import evaluation_rows, number, print_json, print_table, working
from steersman.cli.flags import parsed
from steersman.run.policies.ceiling import ceiling


@dataclass(frozen=True)
class Plan:
    """Play a compiled environment with a planner that searches in the environment itself, without any learning: how
    much there is to get. What is not given is known for the classic tasks, and has defaults for others."""

    environment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENVIRONMENT")]
    """A compiled environment (steersman list), or package.module:factory of one."""
    planner: str = "icem"
    """icem, cem, mppi, random_shooting, gradient_ascent or ilqr."""
    episodes: int = 20
    """How many episodes, played side by side."""
    horizon: int | None = None
    """Steps that are looked ahead."""
    population: int | None = None
    """Sequences of actions that are scored in every iteration."""
    iterations: int | None = None
    """Of the search, at every step."""
    elites: int | None = None
    """The best of the population, near which the next are drawn."""
    noise_exponent: float | None = None
    """Of the noise's spectrum: 0 white, 1 pink, 2 red; more is slower."""
    gamma: float = 1.0
    """Discount of what is planned; returns are reported without."""
    particles: int = 1
    """Draws of the environment's own randomness that a score is averaged over."""
    terminal_value: str | None = None
    """package.module:function, obs -> value of what comes beyond the horizon; none: without one. Not given: the one
    that is known for the environment, if any."""
    seed: int = 2_000_000
    """Of the episodes and the search."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = vars(parsed(Plan, arguments, "steersman plan"))
    as_json, environment, planner = (chosen.pop(name) for name in ("json", "environment", "planner"))
    with working(f"planning in {environment}, episodes to play: {chosen['episodes']:,}"):
        result = ceiling(environment, planner, **chosen)
    if as_json:
        print_json(result.summary())
        return 0
    told = [f"{name} {value:g}" for name, value in result.settings.items()]
    rows = [
        *evaluation_rows(result.evaluation.summary()),
        ("planner", ", ".join([result.planner, *told])),
        ("terminal value", result.terminal_value or "none"),
        ("time", f"{number(result.milliseconds_per_step)} ms a step, {result.compile_seconds:.1f} s of compiling"),
    ]
    print_table(f"{result.environment}: planned in the true environment", rows)
    return 0
