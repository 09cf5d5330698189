"""What a training on texts imports of the user's own: an environment, functions that reward.

A run folder does not decide what is imported, so who goes on with a run names them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from steersman.errors import UsageError
from steersman.language.rewards import weighted_name
from steersman.run.disk import run_folder
from steersman.run.language.answers.scores import is_own
from steersman.run.language.reading import is_environment


def own_names(data: str, rewards: Sequence[str]) -> dict[str, list[str]]:
    """The user's own, by what it is: of the data that a run learns from, and of the terms of its reward."""
    functions = [weighted_name(spec)[1] for spec in rewards]
    return {
        "environment": [data] if is_environment(data) and not data.startswith("text/") else [],
        "reward": [name for name in functions if is_own(name)],
    }


def check_named(out: Path, own: Mapping[str, Sequence[str]], environment: str | None, rewards: Sequence[str]) -> None:
    """Raise UsageError where these are not what is the user's own in a run."""
    given = {
        "environment": [] if environment is None else [environment],
        "reward": [weighted_name(spec)[1] for spec in rewards],
    }
    if all(sorted(given[what]) == sorted(named) for what, named in own.items()):
        return
    there = [name for named in own.values() for name in named]
    if not there:
        raise UsageError(f"{out} learns by nothing of your own. Leave out{run_folder.named_again(given)}.")
    raise UsageError(
        f"{out} learns by what is your own, {', '.join(there)}. A run folder does not decide what is imported: name it "
        f"again, as it is named there:{run_folder.named_again(own)}"
    )
