"""``steersman record RUN``: a film of a run's policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from steersman.cli.display import print_json
from steersman.cli.flags import parsed
from steersman.run.show.video import record_run


@dataclass(frozen=True)
class Record:
    """Film a run's policy with the environment's own renderer."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    out: Path | None = None
    """The film, .mp4 or .gif; by default RUN/video.mp4."""
    episodes: int = 1
    """How many episodes."""
    steps: int = 1000
    """At most so many steps in all."""
    seed: int = 2_000_000
    """Of the episodes."""
    seed_index: int = 0
    """Which of a run's several seeds."""
    best: tyro.conf.FlagCreatePairsOff[bool] = False
    """The best policy of the evaluations on the way, instead of the newest."""
    environment: str | None = None
    """For package.module:factory runs: its name again."""
    algorithm: str | None = None
    """package.module:ALGORITHM, named again for a run by an algorithm of your own."""
    network: str | None = None
    """package.module:factory, named again for a run with a network of your own."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = parsed(Record, arguments, "steersman record")
    path, returns = record_run(
        chosen.run,
        chosen.out,
        episodes=chosen.episodes,
        steps=chosen.steps,
        seed=chosen.seed,
        seed_index=chosen.seed_index,
        best=chosen.best,
        environment=chosen.environment,
        algorithm=chosen.algorithm,
        network=chosen.network,
    )
    if chosen.json:
        print_json({"video": str(path), "returns": returns})
    else:
        count = f"{len(returns)} episode{'s' if len(returns) > 1 else ''}"
        print(f"{path}: {count}, return {', '.join(f'{r:.1f}' for r in returns)}")
    return 0
