"""What is typed beside ``--resume``: a resumed run keeps its settings, and how to go on with others is said."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from steersman import agents
from steersman.errors import UsageError
from steersman.run.disk import run_folder
from steersman.run.settings import RunConfig, saved_settings, translated

SWITCHES = ("quiet", "no_quiet", "json", "no_json", "preset", "no_preset")  # flags without a value


def check(arguments: Sequence[str], keeps: Collection[str], others: Collection[str]) -> None:
    """Raise UsageError for settings, or an algorithm and an environment, given with ``--resume``.

    keeps: what may be given with it; others: what a new run may be given besides its settings. Unknown flags are left
    to the parser of flags.
    """
    names, flags = _read(arguments, keeps)
    folder = flags["resume"][-1].removeprefix("--resume=")
    if not (Path(folder) / "config.json").is_file():
        return  # who opens it says so
    config = run_folder.read_config(Path(folder) / "config.json")
    known = {*saved_settings(config), *(f.name for f in dataclasses.fields(RunConfig)), *others, *SWITCHES}
    changed = [name for name in flags if name not in keeps and {name, translated(name)} & known]
    changed = [name for name in changed if name not in SWITCHES or name.endswith("preset")]
    if not changed and not names:
        return
    foreign = config["run"].get("foreign")
    algorithm = foreign if isinstance(foreign, str) else "PACKAGE.MODULE:ALGORITHM" if foreign else config["algorithm"]
    place = "PACKAGE.MODULE:FACTORY" if config["run"].get("object") else config["environment"]
    wanted = [algorithm, *names] if len(names) == 1 and names[0] not in agents.ALGORITHMS else names[:2]
    new = [*wanted, *[algorithm, place][len(wanted) :], "--init-from", folder]
    typed = [word for name, words in flags.items() if name != "resume" for word in words]
    what = "its settings" if changed else f"its algorithm and its environment: leave {' '.join(names)} out"
    raise UsageError(
        f"A resumed run keeps {what}. To go on with new ones: steersman train {shlex.join([*new, *typed])}"
    )


def _read(arguments: Sequence[str], keeps: Collection[str]) -> tuple[list[str], dict[str, list[str]]]:
    """-> (what belongs to no flag, each flag by its name with its values, as typed)"""
    names: list[str] = []
    flags: dict[str, list[str]] = {}
    name, full = "", True
    for argument in arguments:
        if argument.startswith("--"):
            name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
            flags[name], full = [argument], "=" in argument or name in SWITCHES
        elif full:
            names.append(argument)
        else:
            flags[name].append(argument)
            full = name in keeps  # these take one value, a setting may take several
    return names, flags
