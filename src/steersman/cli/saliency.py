"""``steersman saliency RUN``: what a policy looks at, as a strip of pictures and a film."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from steersman.cli.display import print_json
from steersman.cli.flags import parsed
from steersman.run.show.saliency import saliency_run


@dataclass(frozen=True)
class Saliency:
    """Lay the saliency of a run's value and advantage over the frames it sees."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    out: Path | None = None
    """The strip, .png; by default RUN/saliency.png."""
    film: Path | None = None
    """The film, .mp4 or .gif; by default RUN/saliency.mp4."""
    shots: int = 6
    """Moments in the strip."""
    episodes: int = 1
    """How many episodes."""
    steps: int = 500
    """At most so many steps in all."""
    samples: int = 32
    """Noisy copies of each frame that a map is the mean of (SmoothGrad); 1 with --noise 0: the raw gradient."""
    noise: float = 0.15
    """Their standard deviation, as a part of the frame's range."""
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
    chosen = parsed(Saliency, arguments, "steersman saliency")
    made = saliency_run(
        chosen.run,
        chosen.out,
        film=chosen.film,
        shots=chosen.shots,
        episodes=chosen.episodes,
        steps=chosen.steps,
        samples=chosen.samples,
        noise=chosen.noise,
        seed=chosen.seed,
        seed_index=chosen.seed_index,
        best=chosen.best,
        environment=chosen.environment,
        algorithm=chosen.algorithm,
        network=chosen.network,
    )
    if chosen.json:
        print_json({"picture": str(made.picture), "film": str(made.film), "steps": made.steps, "returns": made.returns})
    else:
        print(f"{made.picture} and {made.film}: {made.steps} steps")
    return 0
