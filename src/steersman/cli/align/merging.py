"""``steersman align merge RUN --to FOLDER``: a run's model as a folder of its own, which transformers opens too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from steersman.cli.display import print_json
from steersman.cli.flags import parsed


@dataclass(frozen=True)
class Merge:
    """Write a run's model, with what was trained merged into it, in the format of Hugging Face."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, or a model by its name."""
    to: Path
    """The folder to write."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = parsed(Merge, arguments, "steersman align merge")
    from steersman.language.adapters import parameters
    from steersman.run.language.models import save_model
    from steersman.run.language.runs import open_model

    model = open_model(chosen.run)
    save_model(model, chosen.to)
    count = parameters(model.decoder)
    if chosen.json:
        print_json({"folder": str(chosen.to), "parameters": count})
    else:
        print(f"{chosen.to}: {count:,} parameters in float32; transformers opens it.")
    return 0
