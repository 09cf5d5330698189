"""``steersman evaluate RUN``: whole episodes with a run's policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from steersman.cli.display import evaluation_rows, print_json, print_table
from steersman.cli.flags import parsed
from steersman.run.evaluate import evaluate_run


@dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with a run's policy, in environments of its own, and report the return."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    episodes: int = 100
    """How many episodes, of each seed."""
    seed: int = 2_000_000
    """Of the episodes; training and its own evaluation use others."""
    seed_index: int | None = None
    """Which of a run's several seeds; none: all of them, pooled."""
    best: tyro.conf.FlagCreatePairsOff[bool] = False
    """The best policy of the evaluations on the way, instead of the newest."""
    explore: tyro.conf.FlagCreatePairsOff[bool] = False
    """Sample actions as in training, instead of taking the most likely one."""
    log_info: tuple[str, ...] | None = None
    """Entries of info whose values at the end of an episode are reported; none: those that the run logs."""
    environment: str | None = None
    """Another environment with the same spaces; for package.module:factory runs, its name again."""
    algorithm: str | None = None
    """package.module:ALGORITHM, named again for a run by an algorithm of your own."""
    network: str | None = None
    """package.module:factory, named again for a run with a network of your own."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = parsed(Evaluate, arguments, "steersman evaluate")
    evaluation = evaluate_run(
        chosen.run,
        episodes=chosen.episodes,
        seed=chosen.seed,
        seed_index=chosen.seed_index,
        best=chosen.best,
        explore=chosen.explore,
        environment=chosen.environment,
        algorithm=chosen.algorithm,
        network=chosen.network,
        log_info=chosen.log_info,
    )
    if chosen.json:
        print_json(evaluation.summary())
    else:
        print_table(str(chosen.run), evaluation_rows(evaluation.summary()))
    return 0
