"""``steersman plot RUN [RUN ...]``: learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from steersman.cli.display import print_json
from steersman.cli.flags import parsed
from steersman.run.compare.picture import plot


@dataclass(frozen=True)
class Plot:
    """Draw learning curves: runs that differ in their seed alone share a line, the mean, with its 95% interval."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folders; or a comparison's folder, for all of its runs."""
    out: Path = Path("curve.png")
    """The picture: .png, .svg or .pdf."""
    y: Annotated[str, tyro.conf.arg(aliases=["--metric"])] = ""
    """What to draw: any name in metrics.jsonl; success, or another number of info, for its mean over 100 episodes. By
    default return_100; of trainings on texts held_out_reward, or what else tells how good it is."""
    x: str = "steps"
    """Along which axis: steps or seconds."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = parsed(Plot, arguments, "steersman plot")
    plot(chosen.runs, chosen.out, x=chosen.x, y=chosen.y)
    print_json({"picture": str(chosen.out)}) if chosen.json else print(chosen.out)
    return 0
