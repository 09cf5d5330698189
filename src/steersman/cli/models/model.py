"""``steersman model RUN``: how good the model is that a run learned, or one of recorded data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from steersman.cli.display import number, print_json, print_table, working
from steersman.cli.flags import parsed
from steersman.run.show.model_report import model_run


@dataclass(frozen=True)
class Report:
    """Measure a learned model on episodes it has not learned from, and draw what is found: report.json and pictures.

    RUN: of pets, mbpo or dyna, whose model is tried on new episodes of its policy. --data FOLDER: an ensemble is fitted
    to recorded transitions and tried on the episodes that were held out; with a RUN, on new ones of that."""

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """The run folder."""
    data: str | None = None
    """Recorded transitions to fit a model to: a folder of steersman collect, or a Minari id."""
    out: Path | None = None
    """The folder to write; by default RUN/model, or DATA-model."""
    horizon: int | None = None
    """Steps that are imagined ahead; by default 50, or as many as an episode has."""
    episodes: int = 10
    """Environments side by side, one stretch of up to 1000 steps of each."""
    windows: int = 100
    """Stretches of the horizon's length that are imagined."""
    film: tyro.conf.FlagCreatePairsOff[bool] = True
    """Whether an episode is filmed beside its imagination, where the environment can be drawn."""
    seed: int = 4_000_000
    """Of the episodes and the draws."""
    seed_index: int = 0
    """Which of a run's several seeds."""
    environment: str | None = None
    """Another environment with the same spaces; for package.module:factory runs, its name again."""
    algorithm: str | None = None
    """package.module:ALGORITHM, named again for a run by an algorithm of your own."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = vars(parsed(Report, arguments, "steersman model"))
    as_json, where, out = (chosen.pop(name) for name in ("json", "run", "out"))
    with working(f"trying the model of {where or chosen['data']}"):
        made = model_run(where, out, **chosen)
    if as_json:
        print_json({"folder": str(made.folder), **made.numbers})
        return 0
    one, over = made.numbers["one_step"], made.numbers["over_horizon"]
    steps = made.numbers["horizon"]
    rows = [
        ("tried on", f"{made.numbers['tried_on']}, {made.numbers['transitions']:,} transitions"),
        ("one step", f"error {number(one['nrmse'])} standard deviations of the change"),
        ("reward", "never varied" if one["reward_r2"] is None else f"R2 {number(one['reward_r2'])}"),
        ("coverage", f"{one['coverage50']:.0%} of what came in the 50% intervals, {one['coverage90']:.0%} in the 90%"),
        ("disagreement", f"rank correlation {number(one['rank_correlation'])} with the error"),
        ("ahead", f"{steps} steps: error {number(over['model']['median'][-1])} standard deviations of the state"),
        ("", f"better than standing still and a linear model for {over['better_than_both_for']} of them"),
        ("written", f"{made.folder}: report.json, {', '.join(p.name for p in (*made.pictures, made.film) if p)}"),
    ]
    if chosen["film"] and made.film is None:
        rows.append(("no film", made.numbers["film"]))
    print_table(f"{made.numbers['environment']}: the model of {made.numbers['members']} members", rows)
    return 0
