"""``steersman collect RUN --out FOLDER --steps N``: transitions of a run's policy, recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from steersman.cli.display import number, print_json
from steersman.cli.flags import parsed
from steersman.run.collect import collect


@dataclass(frozen=True)
class Collect:
    """Record transitions of a run's policy into a folder, for steersman train ALGORITHM ENV --from-data FOLDER."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    out: Path
    """The folder to write; it must not exist."""
    steps: int = 100_000
    """How many transitions."""
    explore: tyro.conf.FlagCreatePairsOff[bool] = False
    """Sample actions as in training, instead of taking the most likely one."""
    num_envs: int = 10
    """Environments side by side."""
    seed: int = 3_000_000
    """Of the episodes; training and evaluation use others."""
    seed_index: int = 0
    """Which of a run's several seeds."""
    best: tyro.conf.FlagCreatePairsOff[bool] = False
    """The best policy of the evaluations on the way, instead of the newest."""
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
    chosen = parsed(Collect, arguments, "steersman collect")
    data = collect(
        chosen.run,
        chosen.out,
        steps=chosen.steps,
        explore=chosen.explore,
        num_envs=chosen.num_envs,
        seed=chosen.seed,
        seed_index=chosen.seed_index,
        best=chosen.best,
        environment=chosen.environment,
        algorithm=chosen.algorithm,
        network=chosen.network,
    )
    told = {"transitions": len(data), **{k: data.origin[k] for k in ("whole_episodes", "mean_return")}}
    if chosen.json:
        print_json({"data": str(chosen.out), **told})
    else:
        print(
            f"{chosen.out}: {len(data):,} transitions, {told['whole_episodes']:,} whole episodes, mean return "
            f"{number(told['mean_return'])}"
        )
    return 0
